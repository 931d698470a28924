"""Answers that cannot be used, and connections that end in every way and at every place: the same class of error."""

from __future__ import annotations

import gzip

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from tests.edges.transports.conftest import WHOLE, Handler, Way, ask, saying, stay
from tests.edges.transports.peers import Peer

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
POST = Call(method="POST", url="/", body=b"{}")

PROTOCOL: dict[str, bytes] = {
    "ssh": b"SSH-2.0-OpenSSH\r\n",
    "binary": bytes(range(256)) * 4,
    "http-0.9": b"hello\r\n",
    "http-2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18),
    "version": b"HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status-letters": b"HTTP/1.1 abc No\r\nContent-Length: 0\r\n\r\n",
    "status-0": b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "101-unasked": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "two-lengths": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "contradicting-lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nok",
    "negative-length": HEAD + b"Content-Length: -1\r\n\r\n",
    "length-letters": HEAD + b"Content-Length: two\r\n\r\nok",
    "length-plus": HEAD + b"Content-Length: +2\r\n\r\nok",
    "length-hex": HEAD + b"Content-Length: 0x2\r\n\r\nok",
    "transfer-encoding": HEAD + b"Transfer-Encoding: gzip\r\n\r\nx",
    "transfer-encodings": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunk-size-letters": CHUNKED + b"zz\r\nok\r\n0\r\n\r\n",
    "chunk-size-negative": CHUNKED + b"-2\r\nok\r\n0\r\n\r\n",
    "chunk-size-huge": CHUNKED + b"f" * 40 + b"\r\nok\r\n0\r\n\r\n",
    "chunk-too-long": CHUNKED + b"1\r\nok\r\n0\r\n\r\n",
    "header-without-colon": HEAD + b"What is this\r\nContent-Length: 0\r\n\r\n",
    "header-name-with-space": HEAD + b"X A: b\r\nContent-Length: 0\r\n\r\n",
    "header-with-nul": HEAD + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("case", PROTOCOL)
async def test_what_is_not_http_is_never_an_answer(way: Way, case: str) -> None:
    """What contradicts itself or is not HTTP/1.1 is a RemoteProtocolError, whether the provider closes or stays."""
    for then in (None, stay):
        assert await ask(way, saying(PROTOCOL[case], then), POST) == way.expected(case, httpx2.RemoteProtocolError)


@pytest.mark.parametrize(
    ("case", "raw"),
    [
        ("not-gzip", HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain"),
        ("cut-gzip", HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"decoded")[:-1]),
        ("not-deflate", HEAD + b"Content-Encoding: deflate\r\n\r\n\x08"),
        ("unknown-coding", HEAD + b"Content-Encoding: br\r\n\r\nx"),
        ("two-codings", HEAD + b"Content-Encoding: gzip, gzip\r\n\r\nx"),
    ],
)
async def test_what_cannot_be_decoded_is_an_error(way: Way, case: str, raw: bytes) -> None:
    """A body that is not what its header says, or is cut off, is no answer."""
    assert await ask(way, saying(raw), POST) == way.expected(case, httpx2.DecodingError)


CUT: dict[str, bytes] = {
    "nothing": b"",
    "status": b"HTTP/1.1 200",
    "status-line": HEAD,
    "head": HEAD + b"Content-Length: 3\r\n",
    "body": HEAD + b"Content-Length: 3\r\n\r\nok",
    "no-body": HEAD + b"Content-Length: 3\r\n\r\n",
    "chunk": CHUNKED + b"2\r\no",
    "chunks": CHUNKED + b"2\r\nok\r\n",
    "last-chunk": CHUNKED + b"2\r\nok\r\n0\r\n",
    "trailer": CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: ",
    "only-informational": b"HTTP/1.1 103 Early\r\n\r\n",
}


async def reset(peer: Peer) -> None:
    """End with a reset."""
    peer.reset()


@pytest.mark.parametrize("then", [None, Peer.end_sending, reset], ids=["close", "half-close", "reset"])
@pytest.mark.parametrize("case", CUT)
async def test_an_end_in_the_answer_is_a_read_error(way: Way, case: str, then: Handler | None) -> None:
    """Polite or not, wherever it comes: the provider went away, and nothing it said can be used."""
    assert await ask(way, saying(CUT[case], then), POST) == way.expected(case, httpx2.ReadError)


@pytest.mark.parametrize("case", ["close", "half-close", "reset", "half-receive"])
async def test_ends_after_the_answer_do_not_matter(way: Way, case: str) -> None:
    """The answer is whole; what the provider does then is seen by the next call, which has another connection."""
    connections = []

    async def handler(peer: Peer) -> None:
        connections.append(peer)
        await peer.request()
        await peer.say(WHOLE)
        if case == "half-close":
            await peer.end_sending()
            await peer.until_end()
        elif case == "half-receive":
            peer.end_receiving()
        elif case == "reset":
            # The answer must have been read: a reset takes back what was not.
            await read.wait()
            peer.reset()

    read = trio.Event()
    async with way.serving(handler) as origin, way.transport() as transport:
        for _ in range(2):
            call = Call(method="POST", url=origin)
            assert (await transport.send(call, timeout_s=20)).body == b"ok"
            read.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            read = trio.Event()
    assert len(connections) == 2
