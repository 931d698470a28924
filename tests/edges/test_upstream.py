"""What `Upstream` puts on the wire, how it reads awkward answers, and which error says what."""

from __future__ import annotations

import gzip
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Answer, Call
from creche.edges.upstream import Upstream

Handler = Callable[[trio.SocketStream], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = HEAD + b"Content-Length: 2\r\n\r\nok"


@asynccontextmanager
async def provider(handler: Handler) -> AsyncIterator[str]:
    """For 10 s at most: a server that does `handler` with each connection, then closes it. Gives its origin."""

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        except trio.BrokenResourceError:
            await stream.aclose()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, guarded, 0)
            address = next(item.socket.getsockname() for item in listeners if item.socket.family == socket.AF_INET)
            failure = None
            try:
                yield f"http://127.0.0.1:{address[1]}"
            except Exception as exc:  # noqa: BLE001 - raised again, outside of the nursery's group
                failure = exc
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def read_request(stream: trio.SocketStream, *, body_bytes: int = 0) -> bytes:
    """One whole request whose body has the given length; empty when the client closed."""
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < body_bytes:
        more = await stream.receive_some()
        if not more:
            return b""
        data += more
    return data


def saying(raw: bytes) -> Handler:
    """Read one request, say `raw`, close."""

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(raw)

    return handler


async def silent(stream: trio.SocketStream) -> None:
    """Take what comes and never answer."""
    async for _ in stream:
        pass


def reset(stream: trio.SocketStream) -> None:
    """Close with a reset instead of an end."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def ask(raw: bytes, *, method: str = "GET", **limits: int) -> Answer:
    """The answer that is made of `raw`."""
    upstream = Upstream(**limits)  # type: ignore[arg-type]
    async with provider(saying(raw)) as origin:
        try:
            return await upstream.send(Call(method=method, url=f"{origin}/"), timeout_s=5)
        finally:
            await upstream.aclose()


# -- answers -----------------------------------------------------------------------------------------


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
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200", id="cut-status"),
        pytest.param(HEAD + b"Content-Length: 3\r\n\r\nok", id="cut-body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", id="cut-chunks"),
        pytest.param(b"HTTP/1.1 103 Early\r\n\r\n", id="only-informational"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="not-http"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="101"),
        pytest.param(b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n", id="status-0"),
        pytest.param(HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="two-lengths"),
        pytest.param(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nok", id="contradicting-lengths"),
        pytest.param(HEAD + b"Transfer-Encoding: gzip\r\n\r\nx", id="transfer-encoding"),
    ],
)
async def test_broken_answers_are_errors(raw: bytes) -> None:
    """What is cut off, contradicts itself or is not HTTP is never taken for an answer."""
    with pytest.raises(httpx2.RemoteProtocolError):
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


# -- requests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(
            Call(method="GET", url="/v1/jobs/1?x=%20y#part", headers=(("X-Key", "k"),)),
            "GET /v1/jobs/1?x=%20y HTTP/1.1\r\nHost: {}\r\nX-Key: k\r\nAccept-Encoding: identity\r\n\r\n",
            id="get",
        ),
        pytest.param(
            Call(method="POST", url="?a=/b", headers=(("accept-encoding", "gzip"),), body=b"{}"),
            "POST /?a=/b HTTP/1.1\r\nHost: {}\r\naccept-encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}",
            id="post",
        ),
        pytest.param(
            Call(method="POST", url=""),
            "POST / HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
            id="post-without-body",
        ),
    ],
)
async def test_requests_on_the_wire(call: Call, expected: str) -> None:
    """A request has what the call says, the host, its length, and asks for a body as it is."""
    seen = []

    async def handler(stream: trio.SocketStream) -> None:
        seen.append(await read_request(stream, body_bytes=len(call.body or b"")))
        await stream.send_all(WHOLE)

    upstream = Upstream()
    async with provider(handler) as origin:
        url = origin + call.url
        await upstream.send(Call(method=call.method, url=url, headers=call.headers, body=call.body), timeout_s=5)
        await upstream.aclose()
    assert seen == [expected.format(origin.removeprefix("http://")).encode()]


@pytest.mark.parametrize(
    ("url", "name", "host", "target"),
    [
        ("http://Example.com/a", "http://example.com:80", "example.com", "/a"),
        ("HTTPS://example.com:443", "https://example.com:443", "example.com", "/"),
        ("https://example.com:8443?q#f", "https://example.com:8443", "example.com:8443", "/?q"),
        ("http://[2001:DB8::1]/", "http://[2001:db8::1]:80", "[2001:db8::1]", "/"),
        ("http://[::1]:81//a//b", "http://[::1]:81", "[::1]:81", "//a//b"),
    ],
)
def test_urls_are_split(url: str, name: str, host: str, target: str) -> None:
    """The first and every later call to a URL agree on where it goes."""
    upstream = Upstream()
    for _ in range(2):
        origin, path = upstream._locate(url)
        assert (origin.name, origin.host_field, path) == (name, host, target)


def test_similar_urls_are_kept_apart() -> None:
    """Knowing an origin does not make another one of it that begins alike."""
    upstream = Upstream()
    known, _ = upstream._locate("http://host:8/a")
    for url in ("http://host:80", "http://host:80/a", "http://host:88?/a", "http://host/a", "https://host:8/a"):
        assert upstream._locate(url)[0] is not known
    assert upstream._locate("HTTP://HOST:8")[0] is known


@pytest.mark.parametrize("url", ["/path", "example.com/path", "ftp://example.com/", "file:///etc", ""])
async def test_other_protocols_are_refused(url: str) -> None:
    """Only http and https URLs are carried."""
    with pytest.raises(httpx2.UnsupportedProtocol):
        await Upstream().send(Call(method="GET", url=url), timeout_s=1)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a",
        "http://user:secret@host/",
        "http://host:0/",
        "http://host:65536/",
        "http://host:8x/",
        "http://[::1/",
        "http://[1:2]/",
        "http://.host/",
        "http://ho st/",
        "http://höst/",
        "http://host/a b",
        "http://host/a\r\nX: y",
        "http://host/ä",
        "http://host\r\n/",
    ],
)
async def test_bad_urls_are_refused(url: str) -> None:
    """A URL that is not clean ASCII with a host and a port is refused, now and once its origin is known."""
    upstream = Upstream()
    for _ in range(2):
        with pytest.raises(httpx2.InvalidURL) as caught:
            await upstream.send(Call(method="GET", url=url), timeout_s=1)
        assert "secret" not in str(caught.value)
        upstream._locate("http://host/")


@pytest.mark.parametrize(
    "call",
    [
        Call(method="GET", url="http://host/", headers=(("X-Key", "secret\r\nX-Other: y"),)),
        Call(method="GET", url="http://host/", headers=(("X-Key", "secret\n"),)),
        Call(method="GET", url="http://host/", headers=(("X-Key", "secret\0"),)),
        Call(method="GET", url="http://host/", headers=(("X-Key", "secret\N{SNOWMAN}"),)),
        Call(method="GET", url="http://host/", headers=(("X Key:", "secret"),)),
        Call(method="GET", url="http://host/", headers=(("", "secret"),)),
        Call(method="POST", url="http://host/", headers=(("content-LENGTH", "0"),), body=b"secret"),
        Call(method="POST", url="http://host/", headers=(("Transfer-Encoding", "chunked"),), body=b"secret"),
        Call(method="GET /secret HTTP/1.1\r\n", url="http://host/"),
    ],
)
async def test_requests_cannot_be_forged(call: Call) -> None:
    """No value of a call can add a header or a request; the refusal does not repeat the value."""
    with pytest.raises(httpx2.LocalProtocolError) as caught:
        await Upstream().send(call, timeout_s=1)
    assert "secret" not in str(caught.value)


# -- errors and time-outs ----------------------------------------------------------------------------


async def test_no_listener_is_a_connect_error() -> None:
    """A refused connection is certain: nothing arrived."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(httpx2.ConnectError, match=r"127\.0\.0\.1.*refused"):
            await Upstream().send(Call(method="POST", url=f"http://127.0.0.1:{unused.getsockname()[1]}"), timeout_s=5)


@pytest.mark.parametrize(("connect_timeout_s", "timeout_s"), [(0.05, 5), (5, 0.05)])
async def test_connecting_has_its_own_time(connect_timeout_s: float, timeout_s: float) -> None:
    """A provider that does not get a connection ready in time is a ConnectTimeout, also when the total time is over."""
    upstream = Upstream(connect_timeout_s=connect_timeout_s)
    async with provider(silent) as origin:
        with pytest.raises(httpx2.ConnectTimeout):
            await upstream.send(Call(method="POST", url=origin.replace("http", "https")), timeout_s=timeout_s)
    assert upstream.statistics().origins == {}


async def test_no_slot_is_a_pool_timeout() -> None:
    """A request whose turn did not come is certain too, and leaves the line."""
    upstream = Upstream(connections_per_origin=1)
    async with provider(silent) as origin, trio.open_nursery() as nursery:
        call = Call(method="POST", url=origin)
        nursery.start_soon(lambda: upstream.send(call, timeout_s=60))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(httpx2.PoolTimeout):
            await upstream.send(call, timeout_s=0.05)
        assert [(o.open, o.waiting) for o in upstream.statistics().origins.values()] == [(1, 0)]
        nursery.cancel_scope.cancel()


async def test_no_answer_is_a_read_timeout() -> None:
    """A provider that took the request and says nothing, or not all, is a ReadTimeout."""

    async def half(stream: trio.SocketStream) -> None:
        await stream.send_all(WHOLE[:-1])
        await silent(stream)

    for handler in (silent, half):
        async with provider(handler) as origin:
            with pytest.raises(httpx2.ReadTimeout):
                await Upstream().send(Call(method="GET", url=origin), timeout_s=0.05)


BIG = bytes(16 << 20)
"""More than the buffers of both sockets hold."""


async def test_unread_request_is_a_write_timeout() -> None:
    """A provider that does not take the whole request in time is a WriteTimeout."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep_forever()

    async with provider(handler) as origin:
        with pytest.raises(httpx2.WriteTimeout):
            await Upstream().send(Call(method="POST", url=origin, body=BIG), timeout_s=0.2)


@pytest.mark.parametrize("then", ["wait", "close", "reset"])
async def test_answer_may_come_before_the_request_is_through(then: str) -> None:
    """A provider that refuses a large body early is heard, whatever it does next; the connection is not used again."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        if then == "reset":
            await trio.testing.wait_all_tasks_blocked()
            reset(stream)
        elif then == "wait":
            await trio.sleep_forever()

    upstream = Upstream()
    async with provider(handler) as origin:
        answer = await upstream.send(Call(method="POST", url=origin, body=BIG), timeout_s=5)
    assert (answer.status, answer.body) == (413, b"no")
    assert upstream.statistics().origins == {}


async def test_reset_while_sending_is_a_write_or_read_error() -> None:
    """A provider that hangs up in the middle of the request leaves open what arrived."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        reset(stream)

    async with provider(handler) as origin:
        with pytest.raises((httpx2.WriteError, httpx2.ReadError)):
            await Upstream().send(Call(method="POST", url=origin, body=BIG), timeout_s=5)


async def test_reset_while_answering_is_a_read_error() -> None:
    """A connection that breaks in the middle of an answer leaves open what happened."""

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(WHOLE[:-1])
        await trio.testing.wait_all_tasks_blocked()
        reset(stream)

    async with provider(handler) as origin:
        with pytest.raises(httpx2.ReadError):
            await Upstream().send(Call(method="GET", url=origin), timeout_s=5)
