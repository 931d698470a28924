"""Providers that keep connections, plain and with TLS, and what `Upstream` says of its own."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from creche.core.exchange import Call
from creche.edges.upstream import Upstream

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Handler = Callable[[Stream], Awaitable[None]]


@asynccontextmanager
async def provider(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """For 10 s at most: a server that does `handler` with each connection, then closes it. Gives its port."""

    async def guarded(stream: Stream) -> None:
        try:
            await handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(stream)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            if context is None:
                nursery.start_soon(trio.serve_listeners, guarded, [listener])
            else:
                secured = trio.SSLListener(listener, context, https_compatible=True)
                nursery.start_soon(trio.serve_listeners, guarded, [secured])
            yield port
            nursery.cancel_scope.cancel()


class Requests:
    """Reads whole requests from a stream, one after another: the target and the body of each."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._data = b""

    async def next(self) -> tuple[str, bytes] | None:
        while b"\r\n\r\n" not in self._data:
            if not await self._more():
                return None
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0].partition(b":")[2]) if lengths else 0
        while len(self._data) < length:
            if not await self._more():
                return None
        body, self._data = self._data[:length], self._data[length:]
        return head.split(b" ")[1].decode(), body

    async def _more(self) -> bool:
        more = await self._stream.receive_some()
        self._data += more
        return bool(more)


def whole(body: str | bytes, *fields: bytes) -> bytes:
    """An answer with this body."""
    data = body.encode() if isinstance(body, str) else body
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(data), *fields, b"", data])


class Counting:
    """Answers each request with the number of its connection; `then` is what it does after each answer."""

    def __init__(self, then: Handler | None = None, *, fields: tuple[bytes, ...] = (), surplus: bytes = b"") -> None:
        self._then = then
        self._fields = fields
        self._surplus = surplus
        self.connections = 0
        self.requests = 0

    async def __call__(self, stream: Stream) -> None:
        self.connections += 1
        number = str(self.connections)
        requests = Requests(stream)
        while await requests.next() is not None:
            self.requests += 1
            await stream.send_all(whole(number, *self._fields) + self._surplus)
            if self._then is not None:
                await self._then(stream)


def counts(upstream: Upstream) -> tuple[int, int, int]:
    """Open, idle and waiting, over all origins."""
    origins = upstream.statistics().origins.values()
    return sum(o.open for o in origins), sum(o.idle for o in origins), sum(o.waiting for o in origins)


async def get(upstream: Upstream, port: int, target: str = "/", *, fresh: bool = False) -> str:
    """The body of the answer to a GET."""
    call = Call(method="GET", url=f"http://127.0.0.1:{port}{target}", fresh=fresh)
    return (await upstream.send(call, timeout_s=5)).body.decode()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the certificates of these tests."""
    return trustme.CA()


def server_context(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    """The server's side."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """A client that trusts the authority of the tests and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context
