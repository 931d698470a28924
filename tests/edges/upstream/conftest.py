"""A provider that says just what a test wants, byte by byte, for `Upstream` to ask."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

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
