"""How `Upstream` reads answers, awkward and broken ones too."""

from __future__ import annotations

import gzip
import zlib

import httpx2
import pytest
import trio

from creche.core.exchange import Call
from creche.edges.upstream import Upstream
from tests.edges.upstream.conftest import HEAD, WHOLE, ask, provider, read_request


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        pytest.param(WHOLE, 200, b"ok", id="content-length"),
        pytest.param(HEAD + b"\r\nuntil the end", 200, b"until the end", id="until-the-end"),
        pytest.param(HEAD + b"Content-Length: 0\r\n\r\n", 200, b"", id="empty"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n", 200, b"ok", id="chunks"
        ),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nold", 200, b"old", id="1.0"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", id="204"),
        pytest.param(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", id="304"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n" + WHOLE, 200, b"ok", id="1xx"),
        pytest.param(b"HTTP/1.1 307 Else\r\nLocation: /x\r\nContent-Length: 1\r\n\r\nx", 307, b"x", id="redirect"),
        pytest.param(b"HTTP/1.1 529\r\nContent-Length: 0\r\n\r\n", 529, b"", id="no-reason"),
        pytest.param(
            WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), 200, b"ok", id="h2c"
        ),
    ],
)
async def test_answers_are_read_whole(raw: bytes, status: int, body: bytes) -> None:
    """Every way that HTTP/1.1 has of delimiting an answer works, and what is only informational is skipped."""
    answer = await ask(raw)
    assert (answer.status, answer.body) == (status, body)
    assert "a" not in answer.headers


async def test_headers_are_lower_case_and_the_last_counts() -> None:
    """Names come in lower case, of repeated ones the last value; a trailer after the body is no header."""
    raw = HEAD + b"X-Place: 1\r\nX-PLACE: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Place: 3\r\n\r\n"
    assert dict((await ask(raw)).headers) == {"x-place": "2", "transfer-encoding": "chunked"}


async def test_answer_to_head_has_no_body() -> None:
    """The answer to a HEAD is over after its headers, whatever length they announce."""
    answer = await ask(HEAD + b"Content-Length: 9\r\n\r\n", method="HEAD")
    assert (answer.headers["content-length"], answer.body) == ("9", b"")


async def test_answer_may_come_in_single_bytes() -> None:
    """How the bytes are cut does not matter."""

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        for byte in b"HTTP/1.1 103 Early\r\n\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n":
            await stream.send_all(bytes([byte]))

    upstream = Upstream()
    async with provider(handler) as origin:
        assert (await upstream.send(Call(method="GET", url=origin), timeout_s=5)).body == b"ok"
        await upstream.aclose()


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
async def test_coded_bodies_are_decoded(coding: str, coded: bytes) -> None:
    """Providers that compress without being asked to are understood."""
    raw = HEAD + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s" % (coding.encode(), len(coded), coded)
    assert (await ask(raw)).body == b"decoded"


@pytest.mark.parametrize(
    ("coding", "coded"),
    [("gzip", b"plain"), ("gzip", gzip.compress(b"decoded")[:-1]), ("deflate", b"\x08"), ("br", b"x")],
)
async def test_what_cannot_be_decoded_is_an_error(coding: str, coded: bytes) -> None:
    """A body that is not what its header says, or is cut off, is no answer."""
    with pytest.raises(httpx2.DecodingError):
        await ask(HEAD + b"Content-Encoding: %s\r\n\r\n%s" % (coding.encode(), coded))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="not-http"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="101"),
        pytest.param(b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n", id="status-0"),
        pytest.param(HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="two-lengths"),
        pytest.param(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nok", id="contradicting-lengths"),
        pytest.param(HEAD + b"Transfer-Encoding: gzip\r\n\r\nx", id="transfer-encoding"),
    ],
)
async def test_broken_answers_are_errors(raw: bytes) -> None:
    """What contradicts itself or is not HTTP is never taken for an answer."""
    with pytest.raises(httpx2.RemoteProtocolError):
        await ask(raw, method="POST")


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        pytest.param(b"", "before answering", id="nothing"),
        pytest.param(b"HTTP/1.1 200", "in the middle of its answer", id="cut-status"),
        pytest.param(HEAD + b"Content-Length: 3\r\n\r\nok", "in the middle of its answer", id="cut-body"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "in the middle of its answer", id="cut-chunks"
        ),
        pytest.param(b"HTTP/1.1 103 Early\r\n\r\n", "in the middle of its answer", id="only-informational"),
    ],
)
async def test_an_end_before_that_of_the_answer_is_a_read_error(raw: bytes, where: str) -> None:
    """A polite close is the same as a reset: the provider went away, and nothing it said can be used."""
    with pytest.raises(httpx2.ReadError, match=f"^the provider closed the connection {where}$"):
        await ask(raw, method="POST")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(HEAD + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000, id="announced"),
        pytest.param(HEAD + b"\r\n" + b"x" * 2000, id="until-the-end"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n", id="chunks"),
        pytest.param(HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 2000), id="decoded"),
        pytest.param(HEAD + b"X: " + b"y" * 2000 + b"\r\nContent-Length: 0\r\n\r\n", id="header"),
        pytest.param(HEAD + b"X: y\r\n" * 400 + b"\r\n", id="headers"),
        pytest.param(HEAD + b"X: " + b"y" * 2000, id="endless-header"),
        pytest.param(b"HTTP/1.1 103 Early\r\n\r\n" * 100, id="informational"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 2000 + b"\r\n\r\n", id="trailer"),
    ],
)
async def test_answers_have_limits(raw: bytes) -> None:
    """No part of an answer can grow without end; passing a limit says so."""
    with pytest.raises(httpx2.RemoteProtocolError, match="larger than 1000 bytes"):
        await ask(raw, method="POST", max_body_bytes=1000, max_header_bytes=1000)
