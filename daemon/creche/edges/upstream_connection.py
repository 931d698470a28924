"""One connection to a provider: how it is made, and how one request is exchanged for one answer on it.

Plain non-blocking sockets, TLS on the socket itself, and httptools: together about a third of the CPU that Trio's
streams and a Python parser cost. Errors are httpx2's, so that every transport of the daemon fails alike.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import ssl
import zlib
from collections.abc import Sequence

import httptools
import httpx2
import trio

from creche.core.exchange import Answer
from creche.edges.upstream_addresses import Address

STAGGER_S = 0.25
"""How long one address may take before the next is tried beside it (RFC 8305, section 5)."""

FULL_PAUSE_S = 0.02
"""How long to wait before a Unix socket whose listener has a full queue is tried again."""

RECEIVE_BYTES = 65536
"""Read at once. More than the 16 KiB of a TLS record, so that after a read nothing is left inside the TLS layer,
where `wait_readable` would not see it."""

_SWITCHING_PROTOCOLS, _OK = 101, 200
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class AnswerReader:
    """Puts together the answers of one connection, one after another, from bytes; the parser calls its `on_` methods.

    `complete` says that the answer is whole, `heard` that a byte of it came, `keep_alive` that the connection can carry
    another exchange: the provider wants it so, and sent not one byte beyond the answer.
    """

    def __init__(self, *, max_body_bytes: int, max_header_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._parser = httptools.HttpResponseParser(self)
        self.expect(body=True)

    def expect(self, *, body: bool) -> None:
        """Begin anew. `body` is False when the answer has none whatever its headers say, because of a HEAD."""
        self.heard = self.complete = self.keep_alive = False
        self._body_expected = body
        self._headers_complete = False
        self._status = 0
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._body_bytes = self._header_bytes = self._other_bytes = 0
        self._fault: str | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises `httpx2.RemoteProtocolError` if they are no HTTP or pass a limit."""
        self.heard = True
        body_bytes = self._body_bytes
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self.keep_alive = False
            if not self.complete and self._fault is None:
                raise httpx2.RemoteProtocolError(f"the provider's answer is not HTTP/1.1: {exc}") from exc
        if self._body_bytes == body_bytes:
            # Headers without an end, informational answers, chunk extensions, trailers: none may go on for ever.
            self._other_bytes += len(data)
        if self._body_bytes > self._max_body_bytes:
            self._fault = _too_large("answer", self._max_body_bytes)
        elif self._header_bytes > self._max_header_bytes or self._other_bytes > self._max_header_bytes:
            self._fault = f"the headers of the provider's answer are larger than {self._max_header_bytes} bytes"
        if self._fault is not None:
            self.keep_alive = False
            raise httpx2.RemoteProtocolError(self._fault)

    def feed_end(self) -> None:
        """The provider closed its side. Completes an answer that ends so, else raises `httpx2.ReadError`.

        That is what a reset raises too: balancers that restart and workers that die close politely.
        """
        if not self.heard:
            raise httpx2.ReadError("the provider closed the connection before answering")
        delimited = "content-length" in self._headers or "transfer-encoding" in self._headers
        if not self._headers_complete or delimited:
            raise httpx2.ReadError("the provider closed the connection in the middle of its answer")
        self.complete = True

    def answer(self) -> Answer:
        """The complete answer, its body decoded. Raises `httpx2.DecodingError`."""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        coding = self._headers.get("content-encoding")
        if coding is not None and body:
            body = _decode(body, coding.strip().lower(), self._max_body_bytes)
        return Answer(status=self._status, headers=self._headers, body=body)

    def close(self) -> None:
        """Let go of the parser, which holds on to this reader in turn: no work for the garbage collector."""
        del self._parser

    def on_message_begin(self) -> None:
        if self.complete:
            # Ends the parsing; `feed` knows what it means.
            raise ValueError("a second answer to one request")
        self._headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        # What comes after the body, as a trailer, must not pass for a header: nobody looked at it before the body.
        if not self._headers_complete:
            self._headers[_header_name(name)] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._status = self._parser.get_status_code()
        if status < _OK:
            if status < 100 or status == _SWITCHING_PROTOCOLS:  # noqa: PLR2004 - no status is below 100
                self._fault = f"the provider's answer has the status {status}, which answers no request of ours"
            return
        self._headers_complete = True
        if not self._body_expected:
            self.complete = True
        elif int(self._headers.get("content-length", 0)) > self._max_body_bytes:
            self._fault = _too_large("answer", self._max_body_bytes)
        elif self._headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self._fault = "the provider's answer has a transfer encoding other than chunked"

    def on_body(self, data: bytes) -> None:
        # A parser that was not told of a HEAD takes for its body what cannot be one.
        if self._body_expected:
            self._body_bytes += len(data)
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._headers_complete:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()


class Expired(Exception):
    """The exchange was ended by `Connection.expire`."""


class Connection:
    """A connection that carries one exchange at a time. `idle_since` and `deadline` belong to whoever keeps it."""

    __slots__ = ("_expired", "_look", "_reader", "_socket", "deadline", "idle_since", "sending")

    def __init__(self, connected: socket.socket, reader: AnswerReader) -> None:
        self._socket = connected
        self._reader = reader
        self._look = select.poll()  # a third of what a `recv` costs that raises
        self._look.register(connected, select.POLLIN)
        self._expired = False
        self.idle_since = 0.0
        self.deadline = 0.0
        self.sending = False
        """Whether a part of the request has not been taken by the kernel yet."""

    @property
    def heard(self) -> bool:
        """Whether a byte of the answer came."""
        return self._reader.heard

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow: both messages were whole, and neither side wants to close."""
        return self._reader.keep_alive and not self.sending

    def is_quiet(self) -> bool:
        """Whether nothing came since the last exchange. Anything that did, an end or bytes, makes it unusable.

        Bytes that are no data of the provider's but of TLS, such as a new session's ticket, are none of our business.
        """
        if not self._look.poll(0):
            return True
        try:
            self._socket.recv(1)
        except _NOT_NOW:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close it at once, without the farewell of TLS: all that matters was delimited by HTTP."""
        self._socket.close()
        self._reader.close()

    def expire(self) -> None:
        """End the exchange under way, which then raises `Expired`: shut down, the socket wakes whoever waits for it."""
        self._expired = True
        with contextlib.suppress(OSError):  # the provider was faster
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # without the farewell of TLS, which could block

    async def exchange(self, request: bytes, *, body_expected: bool) -> Answer:
        """Send a whole request, return the whole answer, which may come before the request is through.

        Raises `Expired`, `httpx2.WriteError`, `ReadError`, `RemoteProtocolError`, `DecodingError`. After an error or
        cancellation `reusable` tells whether the connection is good for more than closing.
        """
        reader = self._reader
        reader.expect(body=body_expected)
        refusal = await self._send(request)
        while not reader.complete:
            # One read per turn: a large body shares the loop with others.
            await trio.lowlevel.wait_readable(self._socket)
            try:
                await self._receive()
            except httpx2.ReadError as exc:
                if refusal is None or reader.heard:
                    raise
                raise httpx2.WriteError(f"the connection broke while sending: {refusal.strerror}") from exc
        return reader.answer()

    async def _send(self, request: bytes) -> OSError | None:
        """Send until all is sent or the answer is complete. Returns the error that ended the sending, if any.

        Such an error is not the last word: what the provider said before it hung up may still wait to be read.
        """
        self.sending = True
        unsent: bytes | memoryview = request
        while not self._reader.complete:
            try:
                sent = self._socket.send(unsent)
                unsent = memoryview(unsent)[sent:] if sent < len(unsent) else b""
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except (BlockingIOError, ssl.SSLWantWriteError):
                await self._wait_readable_or_writable()
                await self._receive()
            except OSError as exc:
                return exc
            if not unsent:
                self.sending = False
                break
        return None

    async def _receive(self) -> None:
        if self._expired:
            raise Expired
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(self._socket)
            return
        except OSError as exc:
            raise httpx2.ReadError(f"the connection broke: {exc.strerror}") from exc
        if data:
            self._reader.feed(data)
        else:
            self._reader.feed_end()

    async def _wait_readable_or_writable(self) -> None:
        async with trio.open_nursery() as nursery:

            async def wait_readable() -> None:
                await trio.lowlevel.wait_readable(self._socket)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_readable)
            await trio.lowlevel.wait_writable(self._socket)
            nursery.cancel_scope.cancel()


async def dial(addresses: Sequence[Address]) -> socket.socket:
    """A connected non-blocking TCP socket to the first address that answers; they are tried in order, overlapping.

    Raises the `OSError` of the first address when none answers. Cancelled: nothing stays open.
    """
    winners: list[socket.socket] = []
    failures: list[OSError] = []
    with contextlib.ExitStack() as abandoned:
        async with trio.open_nursery() as nursery:

            async def attempt(address: Address, failed: trio.Event) -> None:
                try:
                    connected = await _connect(address)
                except OSError as exc:
                    failures.append(exc)
                    failed.set()
                else:
                    winners.append(abandoned.enter_context(connected))
                    nursery.cancel_scope.cancel()

            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(STAGGER_S):
                    await failed.wait()
        if not winners:
            raise failures[0]
        for late in winners[1:]:
            late.close()
        abandoned.pop_all()
    return winners[0]


async def _connect(address: Address) -> socket.socket:
    family, where = address
    with contextlib.ExitStack() as abandoned:
        connecting = abandoned.enter_context(socket.socket(family, socket.SOCK_STREAM))
        connecting.setblocking(False)
        if family == socket.AF_UNIX:
            await _connect_to_path(connecting, where)
        else:
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                connecting.connect(where)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(connecting)
                error = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise OSError(error, os.strerror(error)) from None
        abandoned.pop_all()
    return connecting


async def _connect_to_path(connecting: socket.socket, path: tuple[object, ...] | str) -> None:
    """A Unix socket is connected at once or not at all: where the listener's queue is full, nothing tells of room."""
    while True:
        try:
            connecting.connect(path)
        except BlockingIOError:
            await trio.sleep(FULL_PAUSE_S)
        else:
            return


async def secure(connected: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """TLS on a connected socket, which it takes over: failed or cancelled, it is closed.

    Raises `OSError`, of which TLS errors are a kind, or `ValueError` for a host name that no certificate can have.
    """
    with contextlib.ExitStack() as abandoned:
        abandoned.callback(connected.close)
        secured = context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
        abandoned.callback(secured.close)
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(secured)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(secured)
        abandoned.pop_all()
    return secured


@functools.lru_cache(maxsize=512)
def _header_name(name: bytes) -> str:
    """Providers send the same few names with every answer."""
    return name.decode("latin-1").lower()


def _decode(body: bytes, coding: str, limit_bytes: int) -> bytes:
    if coding in {"", "identity"}:
        return body
    if coding in {"gzip", "x-gzip"}:
        window = 16 + zlib.MAX_WBITS
    elif coding == "deflate":
        # The standard means zlib's format; some servers send the bare stream. Zlib's first byte ends in 8.
        window = zlib.MAX_WBITS if body[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS
    else:
        raise httpx2.DecodingError(f"the provider's answer has a content encoding that nobody asked for: {coding!r}")
    decoder = zlib.decompressobj(window)
    try:
        decoded = decoder.decompress(body, limit_bytes + 1)
    except zlib.error as exc:
        raise httpx2.DecodingError(f"the provider's answer is not valid {coding}: {exc}") from exc
    if len(decoded) > limit_bytes:
        raise httpx2.RemoteProtocolError(_too_large("answer, decoded,", limit_bytes))
    if not decoder.eof:
        raise httpx2.DecodingError(f"the provider's answer is {coding} without its end")
    return decoded


def _too_large(what: str, limit_bytes: int) -> str:
    return f"the provider's {what} is larger than {limit_bytes} bytes, the limit of [upstream] max_answer"
