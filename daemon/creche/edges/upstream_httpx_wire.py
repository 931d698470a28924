"""What goes over one connection of `HttpxUpstream`: httpcore2 speaks HTTP on it, this dials it and watches the bytes.

httpcore2 tells neither an end from garbage nor an idle connection from one on which something waits, knows no limits
but its own, and reads no answer before the whole request is out. All that can be seen from below, where the bytes pass.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2
import trio

from creche.edges.upstream_addresses import Addresses
from creche.edges.upstream_connection import RECEIVE_BYTES
from creche.edges.upstream_dial import dial
from creche.edges.upstream_words import too_long_headers, unreachable

SMALL_BYTES = 16384
"""What a new connection takes at once, whoever is at the other end. More may have to wait until it is read."""


class Exchange:
    """How far one request and its answer are. Over HTTP/1.1 a connection has one at a time."""

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None
        """Where a large request is sent from, while its answer may already be read; None for small ones."""
        self.begun = False
        """Whether a part of the request can have been sent."""
        self.sending = False
        """Whether a part of the request has not been sent yet."""
        self.answered = False
        """Whether the head of the answer came."""
        self.until_end = False
        """Whether the body of the answer lasts until the connection ends."""
        self.heard = False
        """Whether a byte of the answer came; over HTTP/1.1."""
        self.body_bytes = 0
        self.other_bytes = 0
        self.refusal: str | None = None
        """What broke the sending, if anything did. What was said before it may still wait to be read."""

    @property
    def peer(self) -> str:
        """Who is spoken to, for messages: before the request is begun, that can only be a proxy."""
        return "the provider" if self.begun else "the proxy"


class Wire(httpcore2.AsyncNetworkBackend):
    """The network as httpcore2 sees it, for one connection. `exchange` is the one under way.

    `proxied` tells whether it leads to a proxy, `proxy_tls` whether that is reached by TLS.
    """

    def __init__(self, addresses: Addresses, *, max_header_bytes: int, proxied: bool, proxy_tls: bool) -> None:
        self._addresses = addresses
        self._max_header_bytes = max_header_bytes
        self._proxied = proxied
        self._proxy_tls = proxy_tls
        self._tap: _Tap | None = None
        self._top: trio.abc.Stream | None = None
        self._body_bytes = self._last_bytes = 0
        self.exchange = Exchange()
        self.multiplexed = False
        """Whether HTTP/2 was agreed upon: then bytes belong to no single exchange."""

    def start(self, exchange: Exchange) -> None:
        """What comes from now on is for this one."""
        self.exchange = exchange
        exchange.heard = False
        exchange.other_bytes = self._body_bytes = self._last_bytes = 0

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - httpcore2's; we have addresses
        port: int,  # noqa: ARG002 - likewise
        timeout: float | None = None,  # noqa: ASYNC109, ARG002 - likewise; we have scopes
        local_address: str | None = None,  # noqa: ARG002 - likewise
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002 - likewise
    ) -> httpcore2.AsyncNetworkStream:
        try:
            self._tap = _Tap(await dial(await self._addresses.get()))
        except (OSError, ValueError) as exc:
            self._addresses.forget()
            raise self.unreachable(exc, None) from exc
        return self.layer(self._tap)

    def unreachable(self, error: Exception, stream: trio.abc.Stream | None) -> httpx2.ConnectError:
        """The error of a connection that does not come to be, or of TLS that does not on a stream."""
        to_proxy = self._proxied if stream is None else self._proxy_tls and stream is self._tap
        return httpx2.ConnectError(f"cannot connect{' to the proxy' if to_proxy else ''}: {words(error)}")

    def layer(self, stream: trio.abc.Stream) -> httpcore2.AsyncNetworkStream:
        """Put a stream on top: the next reads and writes go there."""
        self._top = stream
        self.multiplexed = isinstance(stream, trio.SSLStream) and stream.selected_alpn_protocol() == "h2"
        return _Stream(stream, self)

    def close(self) -> None:
        """Close it at once, without the farewell of TLS: all that matters was delimited by HTTP."""
        if self._tap is not None:
            self._tap.close()

    async def is_quiet(self) -> bool:
        """Whether nothing came since the last exchange. Anything that did, an end or bytes, makes it unusable.

        Under HTTP/2 something may come at any time: there an end alone counts.
        """
        if self._tap is None or self._top is None:
            return False
        if self.multiplexed:
            return not self._tap.is_at_end()
        self._tap.peeking = True
        try:
            await self._top.receive_some(1)
        except trio.WouldBlock:
            return True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        finally:
            self._tap.peeking = False
        return False

    def check_limits(self) -> None:
        """Before more is read. Raises `httpx2.RemoteProtocolError` where what is not body goes on for ever."""
        exchange = self.exchange
        if exchange.body_bytes == self._body_bytes:
            # Headers without an end, informational answers, chunk extensions, trailers.
            exchange.other_bytes += self._last_bytes
        self._body_bytes, self._last_bytes = exchange.body_bytes, 0
        if exchange.other_bytes > self._max_header_bytes:
            raise httpx2.RemoteProtocolError(too_long_headers(exchange.peer, self._max_header_bytes))

    def took(self, data: bytes) -> bytes:
        """What came, on its way up. An end that ends no answer raises `httpx2.ReadError`."""
        exchange = self.exchange
        if data and not exchange.heard and not self.multiplexed:
            exchange.heard = True
            if not b"HTTP/1.".startswith(data[:7]):
                # httpcore2 would wait for an empty line, which other protocols may never send.
                raise httpx2.RemoteProtocolError(f"{exchange.peer}'s answer is not HTTP/1.1")
        self._last_bytes = len(data)
        if data or (exchange.until_end and not self.multiplexed):
            return data
        if self.multiplexed:
            raise httpx2.ReadError(f"{exchange.peer} closed the connection")
        where = "in the middle of its answer" if exchange.heard else "before answering"
        raise self.broken(f"{exchange.peer} closed the connection {where}")

    def broken(self, message: str) -> httpx2.NetworkError:
        """The error of a connection that ended; where it ended while sending and said nothing, that is the one."""
        if self.exchange.refusal is not None and not self.exchange.heard:
            return httpx2.WriteError(f"the connection broke while sending: {self.exchange.refusal}")
        return httpx2.ReadError(message)


class _Stream(httpcore2.AsyncNetworkStream):
    """One layer of a connection, TCP or a TLS on it, as httpcore2 uses it."""

    def __init__(self, stream: trio.abc.Stream, wire: Wire) -> None:
        self._stream = stream
        self._wire = wire
        self._early: bytes | httpx2.NetworkError | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109, ARG002 - httpcore2's
        early, self._early = self._early, None
        if isinstance(early, httpx2.NetworkError):
            raise early
        if early is not None:
            return self._wire.took(early)
        if not self._wire.multiplexed:
            self._wire.check_limits()
        return self._wire.took(await self._receive(max_bytes))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109, ARG002 - httpcore2's
        if not buffer:
            return
        exchange = self._wire.exchange
        if len(buffer) > SMALL_BYTES and exchange.nursery is not None and not self._wire.multiplexed:
            await self._write_and_listen(buffer, exchange, exchange.nursery)
        else:
            await self._send(buffer, exchange)

    async def aclose(self) -> None:
        self._wire.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109, ARG002 - httpcore2's
    ) -> httpcore2.AsyncNetworkStream:
        host = (server_hostname or "").strip("[]")
        try:
            secured = trio.SSLStream(self._stream, ssl_context, server_hostname=host, https_compatible=True)
            await secured.do_handshake()
        except (trio.BrokenResourceError, ValueError) as exc:
            self._wire.close()
            raise self._wire.unreachable(exc, self._stream) from exc
        return self._wire.layer(secured)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore2's
        return self._stream if info == "ssl_object" and isinstance(self._stream, trio.SSLStream) else None

    async def _receive(self, max_bytes: int) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._wire.broken(f"the connection broke: {words(exc)}") from exc

    async def _send(self, buffer: bytes, exchange: Exchange) -> None:
        try:
            await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            exchange.refusal = words(exc)
            # httpcore2's own: over HTTP/1.1 it then reads what the provider said before it hung up.
            raise httpcore2.WriteError(exchange.refusal) from exc

    async def _write_and_listen(self, buffer: bytes, exchange: Exchange, behind: trio.Nursery) -> None:
        """Return when all is sent. If the answer begins before, raise, so that it is read; the sending goes on."""
        ended = trio.Event()

        async def send() -> None:
            try:
                await self._send(buffer, exchange)
                exchange.sending = False
            except httpcore2.WriteError:
                pass  # is in `refusal`
            finally:
                ended.set()

        async def listen(listening: trio.CancelScope) -> None:
            try:
                self._early = await self._receive(RECEIVE_BYTES)
            except httpx2.NetworkError as exc:
                self._early = exc
            listening.cancel()

        behind.start_soon(send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, nursery.cancel_scope)
            await ended.wait()
            nursery.cancel_scope.cancel()
        if exchange.sending:
            raise httpcore2.WriteError("the answer came first")


class _Tap(trio.abc.Stream):
    """A TCP stream that, while `peeking`, gives what is there and waits for nothing, below any layers of TLS too."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connected))
        self.peeking = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self.peeking:
            return await self._stream.receive_some(max_bytes or RECEIVE_BYTES)
        try:
            return self._socket.recv(max_bytes or RECEIVE_BYTES)
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as exc:
            raise trio.BrokenResourceError from exc

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self._stream.socket.close()

    def is_at_end(self) -> bool:
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


def words(error: Exception) -> str:
    """An error of connections. Trio wraps those of the system and of TLS."""
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    return unreachable(cause) if isinstance(cause, OSError | ValueError) else "the connection was closed"
