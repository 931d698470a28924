"""A front over real sockets, with clients of its own; and what its tests send and let it do."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import h11
import msgspec
import pytest
import trio
import trio_websocket

from creche.core.exchange import Request, Response
from creche.edges.front import Front, Handle, Limits, Refuse, Upgrade
from creche.edges.front_listening import open_tcp, open_unix

QUICK = Limits(head_s=0.2, body_s=0.2, idle_s=0.2, write_s=0.2)
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET /v1/stream?since=1 HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def with_target(target: bytes) -> bytes:
    """A GET of this target."""
    return b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def mirror(request: Request) -> Response:
    """Answer with what was asked."""
    return Response(status=200, body=msgspec.json.encode(request))


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


async def send_as_far_as_it_goes(client: Client, *pieces: bytes) -> None:
    """Send until everything is sent, or the front has closed the connection."""
    try:
        for piece in pieces:
            await client.send(piece)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


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
        refuse: Refuse | None = None,
        upgrade: Upgrade | None = None,
        allowed_uids: frozenset[int] | None = None,
        hosts: frozenset[str] | None = None,
    ) -> Served:
        limits = limits or Limits()
        front = Front(
            handle=handle, refuse=refuse, upgrade=upgrade, limits=limits, allowed_uids=allowed_uids, hosts=hosts
        )
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
