"""How answers are read, awkward ones too: the same by every transport."""

from __future__ import annotations

import gzip
import zlib

import pytest

from creche.core.exchange import Call
from tests.edges.transports.conftest import WHOLE, Way, ask, get, saying, stay
from tests.edges.transports.peers import Peer

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

ANSWERS: dict[str, tuple[bytes, int, bytes]] = {
    "content-length": (WHOLE, 200, b"ok"),
    "content-length-twice-the-same": (HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
    "empty": (HEAD + b"Content-Length: 0\r\n\r\n", 200, b""),
    "chunked": (CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", 200, b"ok"),
    "chunk-extensions": (CHUNKED + b'2;x=y;z="q"\r\nok\r\n0;last\r\n\r\n', 200, b"ok"),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: 7\r\nX-Sum: 8\r\n\r\n", 200, b"ok"),
    "chunked-empty": (CHUNKED + b"0\r\n\r\n", 200, b""),
    "until-the-end": (HEAD + b"\r\nuntil the end", 200, b"until the end"),
    "until-the-end-empty": (HEAD + b"\r\n", 200, b""),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b""),
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, 200, b"ok"),
    "103": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2 + WHOLE, 200, b"ok"),
    "100-and-103": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n" + WHOLE, 200, b"ok"),
    "1.0": (b"HTTP/1.0 200 OK\r\n\r\nold", 200, b"old"),
    "1.0-with-length": (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", 200, b"old"),
    "redirect": (b"HTTP/1.1 307 Else\r\nLocation: /x\r\nContent-Length: 1\r\n\r\nx", 307, b"x"),
    "no-reason": (b"HTTP/1.1 529\r\nContent-Length: 0\r\n\r\n", 529, b""),
    "h2c-offered": (WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), 200, b"ok"),
    "cookie": (HEAD + b"Set-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_answers_are_read_whole(way: Way, case: str) -> None:
    """Every way of delimiting an answer works, and what is only informational is skipped."""
    raw, status, body = ANSWERS[case]
    assert await ask(way, saying(raw)) == way.expected(case, (status, body))


@pytest.mark.parametrize("case", [case for case in ANSWERS if not case.startswith("until-the-end") and case != "1.0"])
async def test_answers_are_over_when_they_say_so(way: Way, case: str) -> None:
    """Nobody waits for more than the answer, though the provider keeps the connection."""
    raw, status, body = ANSWERS[case]
    assert await ask(way, saying(raw, stay)) == way.expected(case, (status, body))


@pytest.mark.parametrize("case", ANSWERS)
async def test_answers_may_come_in_single_bytes(way: Way, case: str) -> None:
    """How the bytes are cut does not matter."""
    raw, status, body = ANSWERS[case]

    async def handler(peer: Peer) -> None:
        await peer.request()
        for byte in raw:
            await peer.say(bytes([byte]))

    assert await ask(way, handler) == way.expected(case, (status, body))


async def test_answers_may_be_cut_in_two_anywhere(way: Way) -> None:
    """Wherever the first part ends, and however late the second comes."""
    raw = b"HTTP/1.1 103 Early\r\n\r\n" + CHUNKED + b"2;x\r\nok\r\n0\r\nX: y\r\n\r\n"

    async def handler(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            cut = int(request[0].split(b" ")[1][1:])
            await peer.say(raw[:cut])
            await peer.say(raw[cut:])

    async with way.serving(handler) as origin, way.transport() as transport:
        for cut in range(len(raw)):
            assert (await get(transport, f"{origin}/{cut}")).body == b"ok"


async def test_headers_are_lower_case_and_the_last_counts(way: Way) -> None:
    """Names come in lower case, of repeated ones the last value; a trailer after the body is no header."""
    raw = HEAD + b"X-Place: 1\r\nX-PLACE: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Place: 3\r\n\r\n"
    async with way.serving(saying(raw)) as origin, way.transport() as transport:
        assert dict((await get(transport, origin)).headers) == {"x-place": "2", "transfer-encoding": "chunked"}


async def test_header_values_are_as_they_were_sent(way: Way) -> None:
    """Bytes beyond ASCII are Latin-1, as HTTP has it; no value is one too."""
    raw = HEAD + b"X-A: \xe4 b\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"
    async with way.serving(saying(raw)) as origin, way.transport() as transport:
        headers = (await get(transport, origin)).headers
    assert (headers["x-a"], headers["x-empty"]) == ("\xe4 b", "")


async def test_spaces_around_a_header_value_are_none_of_it(way: Way) -> None:
    """RFC 9110, section 5.5: a length or a time to wait is a number, however it is set."""
    raw = HEAD + b"X-A: \t 5 \t \r\nContent-Length:  2 \r\n\r\nok"
    async with way.serving(saying(raw)) as origin, way.transport() as transport:
        answer = await get(transport, origin)
    assert (answer.headers["x-a"], answer.headers["content-length"], answer.body) == ("5", "2", b"ok")


@pytest.mark.parametrize("field", [b"Content-Length: 9", b"Transfer-Encoding: chunked", b"X: y"])
async def test_answer_to_head_has_no_body(way: Way, field: bytes) -> None:
    """The answer to a HEAD is over after its headers, whatever they announce; the connection goes on."""
    connections = []

    async def handler(peer: Peer) -> None:
        connections.append(peer)
        while await peer.request() is not None:
            await peer.say(HEAD + field + b"\r\n\r\n")

    async with way.serving(handler) as origin, way.transport() as transport:
        for _ in range(2):
            assert (await get(transport, origin, method="HEAD")).body == b""


@pytest.mark.parametrize(
    ("coding", "coded"),
    [
        ("gzip", gzip.compress(b"decoded")),
        ("X-Gzip", gzip.compress(b"decoded")),
        ("deflate", zlib.compress(b"decoded")),
        ("deflate", zlib.compress(b"decoded", wbits=-15)),
        ("identity", b"decoded"),
    ],
)
async def test_coded_bodies_are_decoded(way: Way, coding: str, coded: bytes) -> None:
    """Providers that compress without being asked to are understood."""
    raw = HEAD + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s" % (coding.encode(), len(coded), coded)
    assert await ask(way, saying(raw, stay)) == (200, b"decoded")


async def test_large_bodies_pass_whole_both_ways(way: Way) -> None:
    """Bodies larger than any buffer arrive as they were sent."""
    body = b"".join(number.to_bytes(4, "big") for number in range(1 << 20))

    async def echo(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request[1]) + request[1])

    async with way.serving(echo) as origin, way.transport() as transport:
        for _ in range(2):
            call = Call(method="POST", url=f"{origin}/", body=body)
            assert (await transport.send(call, timeout_s=30)).body == body
