"""The front over real sockets: what it reads, answers, refuses and survives."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import h11
import msgspec
import pytest
import trio
import trio_websocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from creche.core.exchange import Request, Response
from creche.edges.front import MAX_HEADERS, MAX_QUERY_FIELDS, Front, Handle, Limits, Upgrade
from creche.edges.front_listening import open_tcp, open_unix

QUICK = Limits(head_s=0.2, body_s=0.2, idle_s=0.2, write_s=0.2)
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def mirror(request: Request) -> Response:
    """Answer with what was asked."""
    return Response(status=200, body=msgspec.json.encode(request))


class Client:
    """A client that writes bytes, and reads answers as h11 understands them."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer; bytes that follow it are kept for the one after."""
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        http.send(h11.EndOfMessage())
        if self._received:
            http.receive_data(self._received)
        body = b""
        head: h11.Response | None = None
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert head is not None
        self._received = http.trailing_data[0]
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, headers, body)

    async def closed(self) -> bool:
        """Wait for the end; True when nothing more came before it."""
        try:
            return not self._received and await self.stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True


class Answer:
    """An answer, and its body as JSON."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever was answered
        return json.loads(self.body)

    @property
    def problem(self) -> tuple[int, str]:
        """Status and code of a refusal, after a look at its shape."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        assert self.json["detail"]
        return self.status, self.json["code"]


class Served:
    """A front that serves on a Unix socket and on TCP, and connects clients to itself."""

    def __init__(self, front: Front, path: Path, tcp: trio.SocketListener) -> None:
        self.front = front
        self.path = path
        self.port: int = tcp.socket.getsockname()[1]
        self.ended = trio.Event()
        self._clients: list[trio.SocketStream] = []

    async def client(self, kind: str = "unix") -> Client:
        return Client(await (self._connect_tcp() if kind == "tcp" else self._connect_unix()))

    async def _connect_tcp(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self._clients.append(stream)
        return stream

    async def _connect_unix(self) -> trio.SocketStream:
        stream = trio.SocketStream(trio.socket.socket(socket.AF_UNIX))
        self._clients.append(stream)
        await stream.socket.connect(os.fspath(self.path))
        return stream

    async def ask(self, data: bytes, kind: str = "unix", method: str = "GET") -> Answer:
        """One answer on a connection of its own."""
        client = await self.client(kind)
        await client.send(data)
        return await client.answer(method)

    async def is_well(self) -> bool:
        """Whether a decent request still gets a decent answer."""
        return (await self.ask(GET)).status == 200

    async def stop(self) -> None:
        """Stop; returns when the last connection has ended."""
        self.front.stop()
        await self.ended.wait()

    async def hang_up(self) -> None:
        for stream in self._clients:
            await trio.aclose_forcefully(stream)


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(nursery: trio.Nursery, short_tmp: Path) -> AsyncIterator[Serve]:
    """Start a front. Everything together is bounded in time."""
    all_served: list[Served] = []

    async def start(
        handle: Handle = mirror,
        limits: Limits | None = None,
        *,
        upgrade: Upgrade | None = None,
        allowed_uids: frozenset[int] | None = None,
        hosts: frozenset[str] | None = None,
    ) -> Served:
        limits = limits or Limits()
        front = Front(handle=handle, upgrade=upgrade, limits=limits, allowed_uids=allowed_uids, hosts=hosts)
        path = short_tmp / f"front-{len(all_served)}.sock"
        (tcp,) = await open_tcp("127.0.0.1", 0)
        served = Served(front, path, tcp)

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            await front.serve([open_unix(path), tcp], task_status=task_status)
            served.ended.set()

        await nursery.start(run)
        all_served.append(served)
        return served

    with trio.fail_after(20):
        yield start
        for served in all_served:
            await served.hang_up()


@pytest.fixture(params=["unix", "tcp"])
def kind(request: pytest.FixtureRequest) -> str:
    """Once on the Unix socket, once on TCP."""
    return str(request.param)


# -- requests ----------------------------------------------------------------------------------------


async def test_the_handler_gets_the_whole_request(serve: Serve, kind: str) -> None:
    """Method, decoded path and query, joined headers and the body arrive as they were sent."""
    head = b"POST /a%20b/%C3%BC?x=1&x=%2B+&y HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\nx-a: \xe92\r\n"
    got = (await (await serve()).ask(head + b"Content-Length: 4\r\n\r\nbody", kind)).json
    assert (got["method"], got["path"]) == ("POST", "/a b/ü")
    assert got["query"] == [["x", "1"], ["x", "+ "], ["y", ""]]
    assert got["headers"] == {"host": "localhost", "x-a": "1, é2", "content-length": "4"}
    assert got["body"] == "Ym9keQ=="


async def test_the_answer_carries_what_a_client_needs(serve: Serve, kind: str) -> None:
    """Length, date, type, and that it is neither to be sniffed nor kept; not who we are."""
    headers = (await (await serve()).ask(GET, kind)).headers
    assert headers.pop("date").endswith(" GMT")
    assert int(headers.pop("content-length")) > 0
    assert headers == {
        "content-type": "application/json",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }


async def test_the_handler_may_allow_caching(serve: Serve) -> None:
    """Its own Cache-Control stands alone, and its other headers go along."""

    async def handle(_: Request) -> Response:
        return Response(status=200, headers=(("cache-control", "max-age=60"), ("ETag", '"1"')))

    headers = (await (await serve(handle)).ask(GET)).headers
    assert (headers["cache-control"], headers["etag"]) == ("max-age=60", '"1"')


async def test_a_unix_peer_is_named_by_the_kernel(serve: Serve) -> None:
    """Its process and user are those of the client."""
    served = await serve()
    peer = (await served.ask(GET)).json["peer"]
    assert peer == {
        "address": str(served.path),
        "local": True,
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
    }


async def test_a_tcp_peer_is_its_address(serve: Serve) -> None:
    """Of a TCP client only the address is known."""
    client = await (await serve()).client("tcp")
    await client.send(GET)
    peer = (await client.answer()).json["peer"]
    port = client.stream.socket.getsockname()[1]
    assert (peer["address"], peer["local"], peer["pid"]) == (f"127.0.0.1:{port}", False, None)


async def test_a_connection_is_kept_alive(serve: Serve, kind: str) -> None:
    """One request after the other goes over one connection."""
    client = await (await serve()).client(kind)
    for number in range(5):
        await client.send(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
        assert (await client.answer()).json["path"] == f"/{number}"


async def test_pipelined_requests_are_answered_in_order(serve: Serve, kind: str) -> None:
    """Requests that come in one piece, with bodies, are answered one by one."""
    client = await (await serve()).client(kind)
    first = b"POST /1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
    await client.send(first + GET + first.replace(b"/1", b"/3"))
    assert [(await client.answer()).json["path"] for _ in range(3)] == ["/1", "/", "/3"]


async def test_a_request_may_come_byte_by_byte(serve: Serve) -> None:
    """Where the pieces end does not matter."""
    client = await (await serve()).client()
    for byte in b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nok":
        await client.send(bytes([byte]))
        await wait_all_tasks_blocked()
    assert (await client.answer()).json["path"] == "/slow"


async def test_a_chunked_body_is_put_together(serve: Serve, kind: str) -> None:
    """The handler does not see how the body was sent."""
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    got = (await (await serve()).ask(head + b"2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", kind)).json
    assert got["body"] == "Ym9keQ=="


async def test_head_is_get_without_the_body(serve: Serve, kind: str) -> None:
    """The handler sees a GET, the client its headers; the connection goes on."""
    client = await (await serve()).client(kind)
    await client.send(GET.replace(b"GET", b"HEAD") + GET)
    head = await client.answer("HEAD")
    body = await client.answer()
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == body.headers["content-length"]
    assert body.json["method"] == "GET"


async def test_a_refusal_after_head_has_its_body(serve: Serve) -> None:
    """What was asked before does not shape the answer to what comes next."""
    client = await (await serve()).client()
    await client.send(GET.replace(b"GET", b"HEAD"))
    await client.answer("HEAD")
    await client.send(b"garbage\r\n\r\n")
    assert (await client.answer()).problem == (400, "malformed_request")


async def test_an_answer_without_content_has_no_length(serve: Serve) -> None:
    """204 carries neither body nor length nor type, and the connection goes on."""

    async def handle(_: Request) -> Response:
        return Response(status=204)

    client = await (await serve(handle)).client()
    for _ in range(2):
        await client.send(GET)
        answer = await client.answer()
        assert (answer.status, answer.body) == (204, b"")
        assert not answer.headers.keys() & {"content-length", "content-type"}


@pytest.mark.parametrize("request_", [GET.replace(b"1.1", b"1.0"), GET[:-2] + b"Connection: close\r\n\r\n"])
async def test_a_client_may_ask_for_the_end(serve: Serve, request_: bytes) -> None:
    """HTTP/1.0 and `Connection: close` get their answer and the end."""
    client = await (await serve()).client()
    await client.send(request_)
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await client.closed()


async def test_continue_is_sent_for_a_body_within_the_limit(serve: Serve) -> None:
    """A client that waits for leave to send its body gets it."""
    client = await (await serve()).client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert await client.stream.receive_some() == b"HTTP/1.1 100 \r\n\r\n"
    await client.send(b"ok")
    assert (await client.answer()).status == 200


async def test_no_continue_for_a_body_beyond_the_limit(serve: Serve) -> None:
    """A client that asks before it sends is spared the sending."""
    client = await (await serve()).client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.stream.receive_some(12)) == b"HTTP/1.1 413"


# -- refusals ----------------------------------------------------------------------------------------


def with_target(target: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"


TOO_MANY_FIELDS = b"/?" + b"&".join(b"a=1" for _ in range(MAX_QUERY_FIELDS + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"\x00" * 100 + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        with_target(b"/%ff"),
        with_target(b"/?a=%ff"),
        with_target(b"/a%00b"),
        with_target(b"*"),
        with_target(b"http://localhost/"),
        with_target(TOO_MANY_FIELDS),
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_what_is_no_proper_request_is_refused(serve: Serve, kind: str, data: bytes) -> None:
    """TLS, binary garbage, bad heads and bad targets: a problem, the end, and the server goes on."""
    served = await serve()
    client = await served.client(kind)
    await client.send(data)
    answer = await client.answer()
    assert answer.problem == (400, "malformed_request")
    assert answer.headers["connection"] == "close"
    assert await client.closed()
    assert await served.is_well()


async def test_half_a_request_and_the_end_is_malformed(serve: Serve, kind: str) -> None:
    """A client that shuts down its writing half too early is told."""
    client = await (await serve()).client(kind)
    await client.send(GET[:-2])
    await client.stream.send_eof()
    assert (await client.answer()).problem == (400, "malformed_request")


async def test_the_most_query_fields_are_allowed(serve: Serve) -> None:
    """The limit itself is still fine."""
    target = TOO_MANY_FIELDS.replace(b"?a=1&", b"?")
    assert len((await (await serve()).ask(with_target(target))).json["query"]) == MAX_QUERY_FIELDS


@pytest.mark.parametrize(
    "fields",
    [
        b"X: " + b"x" * (64 << 10) + b"\r\n\r\n",
        b"X: " + b"x" * (10 << 20),
        b"".join(b"X-%d: %s\r\n" % (n, b"x" * 700) for n in range(95)) + b"\r\n",
        b"X: 1\r\n" * MAX_HEADERS + b"\r\n",
    ],
)
async def test_a_head_beyond_the_limit_is_refused(serve: Serve, kind: str, fields: bytes) -> None:
    """One long field, an endless one, many fields: 431, while the client may still be sending."""
    served = await serve()
    client = await served.client(kind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_as_far_as_it_goes, client, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + fields)
        assert (await client.answer()).problem == (431, "header_too_large")
    assert await served.is_well()


async def test_a_head_at_the_limit_is_served(serve: Serve) -> None:
    """64 KiB to the byte is fine, one more is not."""
    served = await serve()
    start = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "
    fits = start + b"x" * ((64 << 10) - len(start) - 4) + b"\r\n\r\n"
    assert (await served.ask(fits)).status == 200
    assert (await served.ask(fits.replace(b"X: ", b"X: x"))).problem == (431, "header_too_large")


async def send_as_far_as_it_goes(client: Client, *pieces: bytes) -> None:
    try:
        for piece in pieces:
            await client.send(piece)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def test_a_declared_100_mb_body_is_refused_at_once(serve: Serve, kind: str) -> None:
    """Before any of it is sent; a client that sends on anyway reads its answer, and is cut off."""
    served = await serve()
    client = await served.client(kind)
    await client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
    answer = await client.answer()
    assert answer.problem == (413, "too_large")
    assert answer.headers["connection"] == "close"
    await send_as_far_as_it_goes(client, *[bytes(1_000_000)] * 100)
    assert await client.closed()
    assert await served.is_well()


async def test_a_chunked_100_mb_body_is_refused_when_it_passes_the_limit(serve: Serve, kind: str) -> None:
    """A body of undeclared length is counted as it comes."""
    served = await serve()
    client = await served.client(kind)
    chunk = b"%x\r\n%s\r\n" % (1_000_000, bytes(1_000_000))
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_as_far_as_it_goes, client, head, *[chunk] * 100)
        assert (await client.answer()).problem == (413, "too_large")
    assert await client.closed()
    assert await served.is_well()


async def test_a_body_at_the_limit_is_served(serve: Serve) -> None:
    """The limit itself is still fine, declared and chunked."""
    served = await serve(limits=Limits(body_bytes=10))
    declared = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    assert (await served.ask(declared % 10 + bytes(10))).status == 200
    assert (await served.ask(declared % 11)).problem == (413, "too_large")
    chunked = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await served.ask(chunked + b"a\r\n0123456789\r\n0\r\n\r\n")).status == 200
    assert (await served.ask(chunked + b"b\r\n01234567890\r\n0\r\n\r\n")).problem == (413, "too_large")


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:8787", b"127.0.0.1:1", b"[::1]:8787"])
async def test_our_hosts_are_served(serve: Serve, host: bytes) -> None:
    """Case and port do not matter."""
    served = await serve(hosts=frozenset({"localhost", "127.0.0.1", "::1"}))
    assert (await served.ask(GET.replace(b"localhost", host), "tcp")).status == 200


@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil.example:8787", b"", b"[::2]", b"evil@localhost"])
async def test_other_hosts_are_misdirected(serve: Serve, host: bytes) -> None:
    """A page that rebinds its name to our address does not get through. The Unix socket has no such danger."""
    served = await serve(hosts=frozenset({"localhost"}))
    request = GET.replace(b"localhost", host)
    assert (await served.ask(request, "tcp")).problem == (421, "misdirected")
    assert (await served.ask(request, "unix")).status == 200


async def test_without_a_host_only_the_old_protocol_comes_through_where_hosts_are_not_checked(serve: Serve) -> None:
    """HTTP/1.0 needs no Host, unless hosts are checked."""
    old = b"GET / HTTP/1.0\r\n\r\n"
    assert (await (await serve()).ask(old, "tcp")).status == 200
    assert (await (await serve(hosts=frozenset({"x"}))).ask(old, "tcp")).problem == (421, "misdirected")


async def test_only_allowed_users_are_served(serve: Serve) -> None:
    """The kernel's word decides on the Unix socket; TCP has no user."""
    others = await serve(allowed_uids=frozenset({os.getuid() + 1}))
    assert (await others.ask(GET)).problem == (403, "forbidden")
    assert (await others.ask(GET, "tcp")).status == 200
    assert (await (await serve(allowed_uids=frozenset({os.getuid()}))).ask(GET)).status == 200


# -- time --------------------------------------------------------------------------------------------


async def test_half_a_head_and_silence_times_out(serve: Serve, kind: str) -> None:
    """A client that stops in the midst of a head is told, and cut off."""
    served = await serve(limits=QUICK)
    client = await served.client(kind)
    await client.send(GET[:20])
    answer = await client.answer()
    assert answer.problem == (408, "request_timeout")
    assert answer.headers["connection"] == "close"
    assert await client.closed()
    assert await served.is_well()


async def test_a_head_that_trickles_times_out(serve: Serve) -> None:
    """Each byte does not buy new time: the whole head has its limit."""
    client = await (await serve(limits=QUICK)).client()

    async def trickle() -> None:
        await client.send(GET[:-2] + b"X: ")
        while True:
            await trio.sleep(0.02)
            await client.send(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        assert (await client.answer()).problem == (408, "request_timeout")
        nursery.cancel_scope.cancel()


async def test_a_slow_body_times_out(serve: Serve, kind: str) -> None:
    """A body that does not arrive in its time is given up."""
    client = await (await serve(limits=QUICK)).client(kind)
    await client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
    assert (await client.answer()).problem == (408, "request_timeout")
    assert await client.closed()


@pytest.mark.parametrize("before", [b"", GET])
async def test_silence_is_answered_with_silence(serve: Serve, kind: str, before: bytes) -> None:
    """A connection on which nothing is asked, at first or after an answer, is closed without a word."""
    client = await (await serve(limits=QUICK)).client(kind)
    if before:
        await client.send(before)
        await client.answer()
    assert await client.closed()


@pytest.mark.slow
async def test_the_time_begins_anew_with_each_request(serve: Serve) -> None:
    """A connection may live longer than any of its limits."""
    client = await (await serve(limits=QUICK)).client()
    began = trio.current_time()
    while trio.current_time() < began + 2 * QUICK.idle_s:
        await client.send(GET)
        assert (await client.answer()).status == 200


@pytest.mark.slow
async def test_a_client_that_takes_no_answer_is_cut_off(serve: Serve, kind: str) -> None:
    """A large answer does not wait for ever to be read."""

    async def handle(_: Request) -> Response:
        return Response(status=200, body=bytes(20 << 20))

    served = await serve(handle, QUICK)
    client = await served.client(kind)
    await client.send(GET)
    await client.stream.receive_some(1)
    await served.stop()


@pytest.mark.slow
async def test_a_client_that_reads_slowly_gets_a_large_answer(serve: Serve, kind: str) -> None:
    """The time to write counts for each 256 KiB, not for the whole."""

    async def handle(_: Request) -> Response:
        return Response(status=200, body=bytes(8 << 20))

    client = await (await serve(handle, QUICK)).client(kind)
    began = trio.current_time()
    await client.send(GET)
    received = 0
    while received < 8 << 20:
        await trio.sleep(0.01)
        received += len(await client.stream.receive_some(1 << 18))
    assert trio.current_time() - began > QUICK.write_s


# -- failures and hang-ups ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        OSError(errno.EIO, "secret"),
        ExceptionGroup("secret", [KeyError(1), OSError(2)]),
        trio.TooSlowError(),
    ],
)
async def test_a_handler_that_fails_is_answered_for(serve: Serve, errors_logged: list[str], error: Exception) -> None:
    """The client learns that it is our fault and no more; the log has it once; the connection goes on."""

    async def handle(request: Request) -> Response:
        if request.path == "/fail":
            raise error
        return await mirror(request)

    client = await (await serve(handle)).client()
    for method in ("GET", "POST"):
        await client.send(f"{method} /fail?token=secret HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        answer = await client.answer()
        assert answer.problem == (500, "internal")
        assert b"secret" not in answer.body
    assert errors_logged == ["GET /fail failed", "POST /fail failed"]
    await client.send(GET)
    assert (await client.answer()).status == 200


async def test_a_handler_whose_answer_cannot_be_sent_is_logged(serve: Serve, errors_logged: list[str]) -> None:
    """An answer that would not be HTTP ends the connection, not the server."""

    async def handle(request: Request) -> Response:
        return Response(status=200, headers=(("X", "a\r\nb"),)) if request.path == "/bad" else await mirror(request)

    served = await serve(handle)
    client = await served.client()
    await client.send(with_target(b"/bad"))
    assert await client.closed()
    assert errors_logged == ["GET /bad failed"]
    assert await served.is_well()


async def test_no_more_of_a_request_is_shown_than_fits(serve: Serve, errors_logged: list[str]) -> None:
    """What a stranger sent is cut in the log, and stays on one line."""

    async def handle(_: Request) -> Response:
        raise ValueError

    await (await serve(handle)).ask(with_target(b"/%0a" + b"x" * 1000 + b"?token=secret"))
    (message,) = errors_logged
    assert message.startswith("GET /%0axxx")
    assert len(message) == 200 + len(" failed")


class Waiting:
    """A handler that waits until it is released or cancelled."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.cancelled = trio.Event()
        self.released = trio.Event()

    async def __call__(self, request: Request) -> Response:
        self.began.set()
        try:
            await self.released.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return await mirror(request)


async def test_a_get_is_cancelled_when_its_unix_client_hangs_up(serve: Serve) -> None:
    """Long waits of clients that are gone do not pile up."""
    waiting = Waiting()
    served = await serve(waiting)
    client = await served.client()
    await client.send(GET + GET)
    await waiting.began.wait()
    await client.stream.aclose()
    await waiting.cancelled.wait()
    waiting.released.set()
    assert await served.is_well()


async def test_a_get_is_cancelled_when_its_tcp_client_resets(serve: Serve) -> None:
    """On TCP an orderly end looks like half a close, a reset does not."""
    waiting = Waiting()
    client = await (await serve(waiting)).client("tcp")
    await client.send(GET)
    await waiting.began.wait()
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.stream.aclose()
    await waiting.cancelled.wait()


async def test_a_client_that_is_gone_before_its_handler_begins_is_noticed(serve: Serve) -> None:
    """Hanging up is not missed because it came early."""
    waiting = Waiting()
    served = await serve(waiting)
    with socket.socket(socket.AF_UNIX) as client:  # with no chance for the front to run until it is closed
        client.connect(os.fspath(served.path))
        client.sendall(GET)
    await waiting.cancelled.wait()


async def test_a_change_is_carried_out_although_its_client_hangs_up(serve: Serve) -> None:
    """A POST is never cancelled by its client."""
    waiting = Waiting()
    served = await serve(waiting)
    client = await served.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    await waiting.began.wait()
    await client.stream.aclose()
    await wait_all_tasks_blocked(0.05)
    assert not waiting.cancelled.is_set()
    waiting.released.set()
    await served.stop()
    assert not waiting.cancelled.is_set()


async def test_a_client_that_only_stops_sending_gets_its_answer(serve: Serve, kind: str) -> None:
    """`nc -N` shuts down its writing half and waits."""
    waiting = Waiting()
    client = await (await serve(waiting)).client(kind)
    await client.send(GET)
    await client.stream.send_eof()
    await waiting.began.wait()
    await wait_all_tasks_blocked(0.05)
    waiting.released.set()
    assert (await client.answer()).status == 200
    assert await client.closed()


# -- stop and limits ---------------------------------------------------------------------------------


async def test_stop_closes_idle_connections_and_the_listeners(serve: Serve, kind: str) -> None:
    """Both those that never asked and those that are kept alive; afterwards nobody listens."""
    served = await serve()
    fresh, kept = await served.client(kind), await served.client(kind)
    await kept.send(GET)
    await kept.answer()
    await wait_all_tasks_blocked()
    await served.stop()
    assert await fresh.closed()
    assert await kept.closed()
    with pytest.raises(OSError, match=r"refused|failed"):
        await served.client(kind)


async def test_stop_lets_a_request_in_progress_be_answered(serve: Serve, kind: str) -> None:
    """Whether it is being handled or still arriving; the answer says that it is the last."""
    waiting = Waiting()
    served = await serve(waiting)
    handled, arriving = await served.client(kind), await served.client(kind)
    await handled.send(GET + GET)
    await arriving.send(GET[:-2])
    await waiting.began.wait()
    await wait_all_tasks_blocked()
    served.front.stop()
    await arriving.send(GET[-2:])
    waiting.released.set()
    for client in (handled, arriving):
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.closed()
    await served.ended.wait()


async def test_stop_before_serve_serves_nobody(short_tmp: Path) -> None:
    """A stop that comes early is not forgotten."""
    front = Front(handle=mirror, upgrade=None, limits=Limits())
    front.stop()
    with trio.fail_after(5):
        await front.serve([open_unix(short_tmp / "front.sock")])


async def test_cancelling_serve_cancels_what_is_in_progress(short_tmp: Path) -> None:
    """Handlers of any method end, listeners and connections are closed."""
    waiting = Waiting()
    front = Front(handle=waiting, upgrade=None, limits=Limits())
    path = short_tmp / "front.sock"
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(front.serve, [open_unix(path)])
            client = await trio.open_unix_socket(path)
            await client.send_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            await waiting.began.wait()
            nursery.cancel_scope.cancel()
        async with client:
            assert waiting.cancelled.is_set()
            assert await client.receive_some() == b""


async def test_connections_beyond_the_limit_are_refused(serve: Serve, kind: str) -> None:
    """One too many gets 503 and the end; when one leaves, the next is welcome."""
    served = await serve(limits=Limits(connections=2))
    first, second = await served.client(kind), await served.client(kind)
    for client in (first, second):
        await client.send(GET)
        assert (await client.answer()).status == 200
    third = await served.client(kind)
    await third.send(GET)
    answer = await third.answer()
    assert answer.problem == (503, "too_many_connections")
    assert answer.headers["retry-after"] == "1"
    assert await third.closed()
    await first.stream.aclose()
    while not await served.is_well():
        await trio.lowlevel.checkpoint()


async def test_running_out_of_file_descriptors_is_survived(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, errors_logged: list[str]
) -> None:
    """It is logged once, and connections are accepted again as soon as it is over."""
    accept = trio.SocketListener.accept
    failures = iter([OSError(errno.EMFILE, "Too many open files")] * 3)

    async def starved(listener: trio.SocketListener) -> trio.SocketStream:
        if listener.socket.family == socket.AF_UNIX:
            for error in failures:
                raise error
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", starved)
    assert await (await serve()).is_well()
    assert errors_logged == ["cannot accept connections for now: Too many open files"]


# -- upgrades ----------------------------------------------------------------------------------------

UPGRADE = (
    b"GET /v1/stream?since=1 HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def echo(_: Request, stream: trio.abc.Stream) -> None:
    """A WebSocket server that sends back what it gets."""
    async with trio.open_nursery() as nursery:
        request = await trio_websocket.wrap_server_stream(nursery, stream)
        async with await request.accept() as connection:
            try:
                while True:
                    await connection.send_message(f"{request.path} {await connection.get_message()!s}")
            except trio_websocket.ConnectionClosed:
                return


async def test_a_websocket_client_is_handed_on(serve: Serve, kind: str) -> None:
    """A real client and a real server speak through the front, after a plain request on the same connection."""
    client = await (await serve(upgrade=echo)).client(kind)
    await client.send(GET)
    assert (await client.answer()).status == 200
    async with trio.open_nursery() as nursery:
        connection = await trio_websocket.wrap_client_stream(nursery, client.stream, "localhost", "/v1/stream?since=1")
        async with connection:
            await connection.send_message("hello")
            assert await connection.get_message() == "/v1/stream?since=1 hello"


async def test_the_stream_begins_with_the_request_as_it_came(serve: Serve) -> None:
    """Byte by byte, with the data that followed; in pieces as small as the reader wants them."""
    got: list[tuple[Request, bytes]] = []

    async def collect(request: Request, stream: trio.abc.Stream) -> None:
        received = bytearray()
        while some := await stream.receive_some(7):
            received += some
        got.append((request, bytes(received)))
        await stream.send_all(b"bye")

    client = await (await serve(upgrade=collect)).client()
    await client.send(GET + UPGRADE + b"early")
    await client.answer()
    await client.send(b" late")
    await client.stream.send_eof()
    assert await client.stream.receive_some() == b"bye"
    ((request, received),) = got
    assert received == UPGRADE + b"early late"
    assert (request.path, request.query) == ("/v1/stream", (("since", "1"),))
    assert await client.closed()


@pytest.mark.parametrize(
    "data",
    [
        UPGRADE.replace(b"/v1/stream", b"/v1/other"),
        UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        UPGRADE.replace(b"keep-alive, Upgrade", b"keep-alive"),
        UPGRADE.replace(b"GET", b"POST"),
    ],
)
async def test_other_upgrades_are_plain_requests(serve: Serve, data: bytes) -> None:
    """The handler answers them, and the connection goes on."""
    client = await (await serve(upgrade=echo)).client()
    for _ in range(2):
        await client.send(data)
        assert (await client.answer()).json["path"].startswith("/v1/")


async def test_without_an_upgrade_the_stream_is_a_plain_request(serve: Serve) -> None:
    """Then the handler says what it thinks of it."""
    assert (await (await serve()).ask(UPGRADE)).json["path"] == "/v1/stream"


async def test_upgrades_are_checked_like_requests(serve: Serve) -> None:
    """Neither a foreign host nor a foreign user gets a stream."""
    served = await serve(upgrade=echo, hosts=frozenset({"creche"}), allowed_uids=frozenset())
    assert (await served.ask(UPGRADE, "tcp")).problem == (421, "misdirected")
    assert (await served.ask(UPGRADE, "unix")).problem == (403, "forbidden")


async def test_an_upgrade_that_fails_ends_its_connection_only(serve: Serve, errors_logged: list[str]) -> None:
    """It is logged once, and the server goes on."""

    async def fail(_: Request, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.aclose)
            raise ValueError

    served = await serve(upgrade=fail)
    client = await served.client()
    await client.send(UPGRADE)
    assert await client.closed()
    assert await served.is_well()
    await served.stop()
    assert errors_logged == ["GET /v1/stream failed"]


# -- strangers ---------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [GET, UPGRADE, b"POST / HTTP/1.1\r\n", b"Host: x\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"5\r\n", b"%00"]
)


@pytest.mark.slow
async def test_whatever_comes_the_front_goes_on(serve: Serve) -> None:
    """Random bytes and shuffled pieces of requests: every connection ends, the server never."""
    served = await serve(upgrade=echo, limits=QUICK)
    token = trio.lowlevel.current_trio_token()

    async def send(data: bytes) -> None:
        client = await served.client()
        await send_as_far_as_it_goes(client, data)
        await client.stream.send_eof()
        with trio.fail_after(5):
            try:
                while await client.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                return

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.one_of(st.binary(max_size=2000), st.lists(PIECES | st.binary(max_size=30)).map(b"".join)))
    def throw(data: bytes) -> None:
        trio.from_thread.run(send, data, trio_token=token)

    await trio.to_thread.run_sync(throw)
    assert await served.is_well()
