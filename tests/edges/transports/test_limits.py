"""No answer grows without end, and no wait does."""

from __future__ import annotations

import gzip
import zlib

import httpx2
import pytest

from creche.core.exchange import Call
from tests.edges.transports.conftest import Way, get, saying, stay
from tests.edges.transports.peers import Peer

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(4 << 20))

TOO_MUCH: dict[str, bytes] = {
    "announced": HEAD + b"Content-Length: 2000\r\n\r\n",
    "announced-error": b"HTTP/1.1 500 Oh\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000,
    "until-the-end": HEAD + b"\r\n" + b"x" * 2000,
    "chunks": CHUNKED + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n",
    "one-chunk": CHUNKED + b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n",
    "decoded": HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 2000),
    "deflate-decoded": HEAD + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"x" * 2000),
    "header": HEAD + b"X: " + b"y" * 2000 + b"\r\nContent-Length: 0\r\n\r\n",
    "header-name": HEAD + b"X" * 2000 + b": y\r\nContent-Length: 0\r\n\r\n",
    "headers": HEAD + b"X: y\r\n" * 400 + b"\r\n",
}
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "endless-status": (b"HTTP/1.1 200 ", b"O"),
    "endless-header": (HEAD + b"X: ", b"y"),
    "endless-headers": (HEAD, b"X: y\r\n"),
    "endless-informational": (b"", b"HTTP/1.1 103 Early\r\n\r\n"),
    "endless-chunk-extension": (CHUNKED + b"1;", b"x"),
    "endless-trailer": (CHUNKED + b"0\r\nX: ", b"y"),
    "endless-trailers": (CHUNKED + b"0\r\n", b"X: y\r\n"),
    "endless-body": (HEAD + b"\r\n", b"x"),
    "endless-chunks": (CHUNKED, b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
async def test_answers_have_limits(way: Way, case: str) -> None:
    """Passing a limit is a RemoteProtocolError, and says so."""
    async with (
        way.serving(saying(TOO_MUCH[case])) as origin,
        way.transport(max_body_bytes=1000, max_header_bytes=1000) as transport,
    ):
        with pytest.raises(httpx2.RemoteProtocolError, match="larger than 1000 bytes"):
            await get(transport, origin, method="POST")


@pytest.mark.parametrize("case", ENDLESS)
async def test_no_part_of_an_answer_goes_on_for_ever(way: Way, case: str) -> None:
    """A provider that never comes to an end is left, long before anything is full."""
    begin, more = ENDLESS[case]

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.say(begin)
        while True:
            await peer.say(more * 500)

    async with (
        way.serving(handler) as origin,
        way.transport(max_body_bytes=100_000, max_header_bytes=10_000) as transport,
    ):
        with pytest.raises(httpx2.RemoteProtocolError):
            await get(transport, origin, method="POST")


async def test_what_a_limit_allows_passes(way: Way) -> None:
    """A body as large as the limit, before and after decoding, is no larger than it."""
    for raw in (
        HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000,
        CHUNKED + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n",
        HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 1000),
    ):
        async with way.serving(saying(raw)) as origin, way.transport(max_body_bytes=1000) as transport:
            assert (await get(transport, origin)).body == b"x" * 1000


async def test_many_small_chunks_are_no_large_headers(way: Way) -> None:
    """What frames the body is not counted as if it were headers."""
    raw = CHUNKED + b"1;ext=1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    async with way.serving(saying(raw)) as origin, way.transport(max_header_bytes=1000) as transport:
        assert len((await get(transport, origin)).body) == 20_000


async def test_a_bomb_is_not_unpacked(way: Way) -> None:
    """A small body that decodes to a huge one is given up as soon as it passes the limit."""
    raw = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB
    async with way.serving(saying(raw, stay)) as origin, way.transport(max_body_bytes=100_000) as transport:
        with pytest.raises(httpx2.RemoteProtocolError, match="decoded, is larger"):
            await transport.send(Call(method="GET", url=origin), timeout_s=20)
