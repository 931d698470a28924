"""The other end of a transport's connections: a server that says what a test wants byte by byte, and a tiny proxy."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import trio

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class Peer:
    """One connection of the server: reads requests, says anything, and can end in every way that TCP has."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._data = b""

    @property
    def raw(self) -> trio.SocketStream:
        """The connection below TLS."""
        return self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream

    async def request(self) -> tuple[bytes, bytes] | None:
        """The next whole request, head and body; None when the client closed before or in it."""
        head = await self.head()
        if head is None:
            return None
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0].partition(b":")[2]) if lengths else 0
        while len(self._data) < length:
            if not await self._more():
                return None
        body, self._data = self._data[:length], self._data[length:]
        return head, body

    async def head(self) -> bytes | None:
        """The head of the next request; None when the client closed."""
        while b"\r\n\r\n" not in self._data:
            if not await self._more():
                return None
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        return head

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until_end(self) -> None:
        """Read and forget until the client closes."""
        while await self._more():
            self._data = b""

    async def end_sending(self) -> None:
        """Shut the sending side alone."""
        await self.raw.send_eof()

    def end_receiving(self) -> None:
        """Shut the receiving side alone."""
        self.raw.socket.shutdown(socket.SHUT_RD)

    def reset(self) -> None:
        """Close with a reset instead of an end."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.raw.socket.close()

    async def _more(self) -> bool:
        try:
            more = await self.stream.receive_some(65536)
        except BROKEN:
            return False
        self._data += more
        return bool(more)


Said = Callable[[bytes], bytes]


def whole(body: bytes, *fields: bytes) -> bytes:
    """An answer with this body."""
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields, b"", body])


class Counting:
    """Answers each request with the number of its connection; `then` is what it does after each answer."""

    def __init__(self, say: Said = whole, then: Callable[[Peer], Awaitable[None]] | None = None) -> None:
        self._say = say
        self._then = then
        self.connections = 0
        self.requests = 0

    async def __call__(self, peer: Peer) -> None:
        self.connections += 1
        number = b"%d" % self.connections
        while await peer.request() is not None:
            self.requests += 1
            await peer.say(self._say(number))
            if self._then is not None:
                await self._then(peer)


class Gate:
    """Answers once it is opened; `waiting` counts the requests that stand before it."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.waiting = 0
        self.most = 0
        self.order: list[int] = []
        self._arrived = trio.Event()

    async def __call__(self, peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            self.order.append(int(request[0].split(b" ")[1][1:]))
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            self._arrived.set()
            await self.opened.wait()
            self.waiting -= 1
            await peer.say(whole(b"ok"))

    async def reached(self, number: int) -> None:
        """Return when so many requests stand before it."""
        while self.waiting < number:
            self._arrived = trio.Event()
            await self._arrived.wait()


@contextlib.asynccontextmanager
async def serve(
    handler: Callable[[Peer], Awaitable[None]], context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """A server that does `handler` with each connection, then closes it. Gives its port."""

    async def guarded(stream: trio.SocketStream) -> None:
        layered: Stream = stream
        with contextlib.suppress(*BROKEN):
            if context is not None:
                layered = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
                await layered.do_handshake()
            await handler(Peer(layered))
        await trio.aclose_forcefully(layered)

    failure = None
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, guarded, listeners)
        try:
            yield listeners[0].socket.getsockname()[1]
        except Exception as exc:  # noqa: BLE001 - raised again, outside of the nursery's group
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def relay(peer: Peer) -> None:
    """A proxy for one connection: CONNECT, and absolute URLs to one provider; passes on all ways of ending."""
    head = await peer.head()
    if head is None:
        return
    method, target, rest = head.split(b" ", 2)
    if method == b"CONNECT":
        host, _, port = target.decode().rpartition(":")
        first = b""
    else:
        parts = urlsplit(target.decode())
        assert parts.scheme == "http", "a request to a proxy names its whole URL"
        host, port = parts.hostname or "", str(parts.port or 80)
        first = b" ".join([method, _path(target), rest]) + b"\r\n\r\n"
    try:
        other = Peer(await trio.open_tcp_stream(host.strip("[]"), int(port)))
    except OSError:
        await peer.say(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        return
    async with other.stream, trio.open_nursery() as nursery:
        if method == b"CONNECT":
            await peer.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
        nursery.start_soon(_pass_on, other, peer, None)
        with contextlib.suppress(*BROKEN):
            await other.say(first)
        await _pass_on(peer, other, None if method == b"CONNECT" else _path)
        nursery.cancel_scope.cancel()


async def _pass_on(source: Peer, sink: Peer, path: Callable[[bytes], bytes] | None) -> None:
    """Bytes as they come; with `path`, the targets of further requests are cut to it."""
    pending, source._data = source._data, b""
    with contextlib.suppress(*BROKEN):
        while True:
            if path is not None and pending.startswith((b"GET http", b"POST http", b"HEAD http")):
                method, target, rest = pending.split(b" ", 2)
                pending = b" ".join([method, path(target), rest])
            if pending:
                await sink.say(pending)
            try:
                pending = bytes(await source.stream.receive_some(65536))
            except BROKEN:
                sink.reset()
                return
            if not pending:
                await sink.raw.send_eof()
                return


def _path(target: bytes) -> bytes:
    parts = urlsplit(target.decode())
    return (parts.path + (f"?{parts.query}" if parts.query else "")).encode()
