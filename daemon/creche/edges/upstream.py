"""The HTTP/1.1 client that carries requests to providers at full speed.

Thousands of polls per second go through here, so it does one thing: a whole request out, a whole answer back, on a
kept-alive connection where there is one. No redirects, cookies, proxies or HTTP/2.

Per origin there are slots and a stack of idle connections. A request holds a slot from its turn to its end; slots are
given in the order of asking. The connection used last is used next, so that the others grow old and can be closed.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import math
import re
import socket
import ssl
from collections import deque
from collections.abc import Iterator, Mapping

import httpx2
import msgspec
import trio

from creche.core.exchange import Answer, Call
from creche.edges.upstream_addresses import LOOKUPS, Addresses
from creche.edges.upstream_connection import AnswerReader, Connection, dial, secure

_ABSOLUTE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>[^#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_][a-z0-9_.-]*))(?::(?P<port>[0-9]{1,5}))?")
_PORTS = {"http": 80, "https": 443}
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset(
    {"host", "content-length", "connection", "transfer-encoding", "keep-alive", "upgrade", "te", "trailer"}
)
_REPEATABLE = frozenset({"GET", "HEAD"})
_WITHOUT_LENGTH = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_CLOSED = "no more requests are sent"


class OriginStatistics(msgspec.Struct, frozen=True):
    """One origin: connections `open` (with those being made), `idle` of them, and requests `waiting` for a slot."""

    open: int
    idle: int
    waiting: int


class Statistics(msgspec.Struct, frozen=True):
    """A snapshot by origin, as `scheme://host:port`; origins that nothing is kept for are left out."""

    origins: Mapping[str, OriginStatistics]


class Upstream:
    """Sends calls to providers. One for the whole daemon.

    `connections_per_origin` bounds the connections, and thereby the requests at once, to one scheme, host and port;
    more requests wait in line. A connection that was not used for `idle_s` is not used again. `max_body_bytes` holds
    for an answer's body as it comes and as it is after decoding; decoding happens in the loop.
    """

    def __init__(
        self,
        *,
        connections_per_origin: int = 256,
        idle_s: float = 60.0,
        max_body_bytes: int = 8 << 20,
        max_header_bytes: int = 64 << 10,
        connect_timeout_s: float = 10.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._connections_per_origin = connections_per_origin
        self._idle_s = idle_s
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._connect_timeout_s = connect_timeout_s
        self._ssl_context = ssl_context
        self._origins: dict[str, _Origin] = {}
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._unsent: set[trio.CancelScope] = set()
        self._next_sweep = 0.0
        self._closed = False

    async def send(self, call: Call, *, timeout_s: float) -> Answer:
        """Send the whole request and return the whole answer, whatever its status, within `timeout_s` seconds.

        Certainly nothing arrived: `httpx2.ConnectError`, `ConnectTimeout`, `PoolTimeout`, and for a call that cannot be
        sent as it is `UnsupportedProtocol`, `InvalidURL`, `LocalProtocolError`. It may have arrived: `WriteError`,
        `WriteTimeout`, `ReadError`, `ReadTimeout`, `RemoteProtocolError` (also for an answer over a limit),
        `DecodingError`. No message repeats more of the call than the names of its headers: the rest may be secret.

        GET and HEAD are sent once more when the provider closed a kept-alive connection instead of answering.
        A connection whose exchange was cancelled or broke is closed.
        """
        now = trio.current_time()
        if now >= self._next_sweep:
            self._sweep(now)
        origin, target = self._locate(call.url)
        request = _encode(call, origin.host_field, target)
        progress = _Progress()
        with trio.CancelScope(deadline=now + timeout_s):
            await self._take_slot(origin)
            progress.has_slot = True
            try:
                if self._closed:
                    raise httpx2.PoolTimeout(_CLOSED)
                return await self._carry(call, request, origin, progress)
            finally:
                origin.slots.release()
        raise progress.too_late(timeout_s)

    async def aclose(self) -> None:
        """Close the idle connections and send nothing more. Requests that are on the wire end as they would.

        All others, of which certainly nothing was sent, fail at once: with `ConnectError` those whose connection is
        being made, with `PoolTimeout` those that wait for one, and those that come later.
        """
        self._closed = True
        for scope in self._unsent:
            scope.cancel()
        for origin in self._origins.values():
            origin.close_idle()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> Statistics:
        """What is open now."""
        return Statistics(origins={o.name: o.statistics() for o in self._origins.values() if o.is_used()})

    async def _carry(self, call: Call, request: bytes, origin: _Origin, progress: _Progress) -> Answer:
        connection = None if call.fresh else origin.take_idle(self._idle_s)
        while True:
            progress.connection = connection
            kept = connection is not None
            if connection is None:
                connection = progress.connection = await self._connect(origin)
            try:
                return await connection.exchange(request, body_expected=call.method != "HEAD")
            except httpx2.NetworkError:
                if not kept or connection.heard or call.method not in _REPEATABLE:
                    raise
            finally:
                self._give_back(origin, connection)
            connection = None

    async def _take_slot(self, origin: _Origin) -> None:
        try:
            origin.slots.acquire_nowait()
        except trio.WouldBlock:
            with self._unsent_within(math.inf) as scope:
                await origin.slots.acquire()
            if scope.cancelled_caught:
                raise httpx2.PoolTimeout(_CLOSED) from None

    @contextlib.contextmanager
    def _unsent_within(self, seconds: float) -> Iterator[trio.CancelScope]:
        """What a call does before a byte of it is sent: cut off after a time, and by `aclose`."""
        with trio.move_on_after(seconds) as scope:
            self._unsent.add(scope)
            try:
                yield scope
            finally:
                self._unsent.discard(scope)

    async def _connect(self, origin: _Origin) -> Connection:
        origin.make_room()
        try:
            with self._unsent_within(self._connect_timeout_s) as scope:
                connected = await self._reach(origin)
        except (OSError, ValueError) as exc:
            origin.addresses.forget()
            raise httpx2.ConnectError(f"cannot connect: {_words(exc)}") from exc
        if self._closed:
            if not scope.cancelled_caught:
                connected.close()
            raise httpx2.ConnectError(_CLOSED)
        if scope.cancelled_caught:
            origin.addresses.forget()
            raise httpx2.ConnectTimeout(f"no connection within {self._connect_timeout_s:g} s")
        reader = AnswerReader(max_body_bytes=self._max_body_bytes, max_header_bytes=self._max_header_bytes)
        return Connection(connected, reader)

    async def _reach(self, origin: _Origin) -> socket.socket:
        context = self._tls() if origin.scheme == "https" else None
        connected = await dial(await origin.addresses.get())
        return connected if context is None else await secure(connected, context, origin.host)

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # Reads the system's certificates: tens of milliseconds, once, and only where a provider wants TLS.
            self._ssl_context = ssl.create_default_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    def _give_back(self, origin: _Origin, connection: Connection) -> None:
        if connection.reusable and not self._closed:
            connection.idle_since = trio.current_time()
            origin.idle.append(connection)
        else:
            connection.close()

    def _sweep(self, now: float) -> None:
        """Close what grew old and forget unused origins, when there is traffic at all."""
        self._next_sweep = now + self._idle_s / 4
        for origin in self._origins.values():
            origin.close_idle(until=now - self._idle_s)
        self._origins = {key: origin for key, origin in self._origins.items() if origin.is_used()}

    def _locate(self, url: str) -> tuple[_Origin, str]:
        # The path begins at the first slash after "https://" and a character; every URL of an origin but its first is
        # split right here. A prefix that is no plain origin is never a key.
        cut = url.find("/", 8)
        origin = self._origins.get(url[:cut]) if cut > 0 else None
        if origin is None:
            return self._locate_first(url)
        return origin, _target(url[cut:])

    def _locate_first(self, url: str) -> tuple[_Origin, str]:
        absolute = _ABSOLUTE.fullmatch(url.partition("#")[0])
        if absolute is None:
            raise httpx2.UnsupportedProtocol("the URL begins neither with http:// nor with https://")
        scheme = absolute["scheme"].lower()
        if scheme not in _PORTS:
            raise httpx2.UnsupportedProtocol("the URL begins neither with http:// nor with https://")
        authority = _AUTHORITY.fullmatch(absolute["authority"].lower())
        port = int((authority and authority["port"]) or _PORTS[scheme])
        if authority is None or not 0 < port < 1 << 16:
            raise httpx2.InvalidURL("the URL's host and port cannot be understood")
        host = authority["ipv6"] or authority["name"]
        if authority["ipv6"] is not None:
            try:
                ipaddress.IPv6Address(host)
            except ValueError:
                raise httpx2.InvalidURL("the URL's host is not an IPv6 address") from None
        target = _target(absolute["target"])
        addresses = Addresses(host, port, self._lookups)
        made = _Origin(scheme, host, port, addresses, slots=self._connections_per_origin)
        origin = self._origins.setdefault(made.name, made)
        self._origins[f"{absolute['scheme']}://{absolute['authority']}"] = origin
        return origin, target


class _Progress:
    """How far a request got, for naming what took too long."""

    __slots__ = ("connection", "has_slot")

    def __init__(self) -> None:
        self.has_slot = False
        self.connection: Connection | None = None

    def too_late(self, timeout_s: float) -> httpx2.TimeoutException:
        within = f"within {timeout_s:g} s"
        if self.connection is None:
            if self.has_slot:
                return httpx2.ConnectTimeout(f"no connection {within}")
            return httpx2.PoolTimeout(f"no turn {within}: all connections are in use")
        if self.connection.sending:
            return httpx2.WriteTimeout(f"the provider did not take the whole request {within}")
        return httpx2.ReadTimeout(f"no whole answer {within}")


class _Origin:
    """One scheme, host and port: its slots, its idle connections with the one used last on the right, its addresses."""

    def __init__(self, scheme: str, host: str, port: int, addresses: Addresses, *, slots: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        self.scheme = scheme
        self.host = host
        self.name = f"{scheme}://{shown}:{port}"
        self.host_field = shown if port == _PORTS[scheme] else f"{shown}:{port}"
        self.slots = trio.Semaphore(slots, max_value=slots)
        self.idle: deque[Connection] = deque()
        self.addresses = addresses
        self._limit = slots

    def take_idle(self, idle_s: float) -> Connection | None:
        """The connection used last that is still good; those found bad on the way are closed."""
        oldest = trio.current_time() - idle_s
        while self.idle:
            connection = self.idle.pop()
            if connection.idle_since >= oldest and connection.is_quiet():
                return connection
            connection.close()
        return None

    def make_room(self) -> None:
        """Close the oldest idle connections, so that with the one to be made each has its own slot."""
        self.close_idle(keep=self.slots.value)

    def close_idle(self, *, until: float = math.inf, keep: int = 0) -> None:
        """Close the idle connections that were used last at `until` or before, oldest first, but for `keep`."""
        while len(self.idle) > keep and self.idle[0].idle_since <= until:
            self.idle.popleft().close()

    def is_used(self) -> bool:
        return bool(self.idle) or self.slots.value < self._limit

    def statistics(self) -> OriginStatistics:
        # A slot handed over and the idle connection that its new holder has not taken yet are one.
        opened = min(self._limit, self._limit - self.slots.value + len(self.idle))
        return OriginStatistics(opened, len(self.idle), self.slots.statistics().tasks_waiting)


def _words(error: OSError | ValueError) -> str:
    """An error of connecting, without numbers and places in C files."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'the connection was closed').replace('_', ' ').lower()}"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _target(rest: str) -> str:
    target = rest.partition("#")[0]
    if not (target.isascii() and target.isprintable()) or " " in target:
        raise httpx2.InvalidURL("the URL's path or query has characters that must be percent-encoded")
    return target if target.startswith("/") else f"/{target}"


def _encode(call: Call, host_field: str, target: str) -> bytes:
    if not (call.method.isascii() and call.method.isalpha()):
        raise httpx2.LocalProtocolError("the request's method is not a word")
    if call.body is not None:
        length = f"Content-Length: {len(call.body)}\r\n"
    else:
        length = "" if call.method in _WITHOUT_LENGTH else "Content-Length: 0\r\n"
    head = f"{call.method} {target} HTTP/1.1\r\nHost: {host_field}\r\n{_fields(call.headers)}{length}\r\n"
    return head.encode("latin-1") + (call.body or b"")


@functools.lru_cache(maxsize=256)
def _fields(headers: tuple[tuple[str, str], ...]) -> str:
    """The headers as they are sent. Refuses what could pass for more than one header, or contradict those we add."""
    names = {name.lower() for name, _ in headers}
    for name, value in headers:
        if not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            raise httpx2.LocalProtocolError(
                f"the request's header {name[:40]!r} has characters that no header may have"
            )
    if ours := names & _OURS:
        raise httpx2.LocalProtocolError(f"the request's header {min(ours)!r} is for the transport to set")
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    if "accept-encoding" not in names:
        lines.append("Accept-Encoding: identity\r\n")
    return "".join(lines)
