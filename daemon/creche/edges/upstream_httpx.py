"""The transport for providers behind a proxy or over HTTP/2: `Upstream`'s promises, kept by httpcore2, httpx2's engine.

httpcore2 makes the connections and speaks HTTP on each. Its pool, and `httpx2.AsyncHTTPTransport` around it, are left
aside: the pool looks at all its connections for every request, knows no limit by origin and no connection that is
surely new, and takes what followed one answer for the next one. So slots and connections are kept here, in the same
order as in `Upstream`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import ssl
from collections.abc import Callable, Iterator

import httpcore2
import httpx2
import trio

from creche.core.exchange import Answer, Call, Prepared
from creche.edges.upstream import Statistics
from creche.edges.upstream_addresses import LOOKUPS, Addresses
from creche.edges.upstream_answer import decode
from creche.edges.upstream_httpx_core import CoreRequest, ProxyServer, core_place, core_request, left_over, translated
from creche.edges.upstream_httpx_lanes import Lane, Origin
from creche.edges.upstream_httpx_wire import SMALL_BYTES, Exchange, Wire
from creche.edges.upstream_request import REPEATABLE, UNIX, Place, locate
from creche.edges.upstream_words import (
    CLOSED,
    answers_nothing,
    no_answer,
    no_connection,
    no_turn,
    too_large,
    too_long_headers,
)

_VERSIONS = {b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2"}
_PROXY_AUTHENTICATION = 407
_SWITCHING_PROTOCOLS = 101


class HttpxUpstream:
    """Sends calls to providers. One for every proxy and protocol that is in use.

    `proxy` is an `http://` or `https://` URL, which may hold user and password; https providers are reached through its
    CONNECT, http ones by absolute URLs. With `http2` those that offer HTTP/2 are spoken to in it, and requests share
    connections. `make_context` is called when TLS is first needed. All else is as in `Upstream`.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        http2: bool = False,
        connections_per_origin: int = 256,
        idle_s: float = 60.0,
        max_body_bytes: int = 8 << 20,
        max_header_bytes: int = 64 << 10,
        connect_timeout_s: float = 10.0,
        make_context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._proxy = ProxyServer(proxy) if proxy else None
        self._http2 = http2
        self._connections_per_origin = connections_per_origin
        self._idle_s = idle_s
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._connect_timeout_s = connect_timeout_s
        self._make_context = make_context
        # Two, because httpcore2 sets on each which protocols are to be negotiated there.
        self._context: ssl.SSLContext | None = None
        self._proxy_context: ssl.SSLContext | None = None
        self._origins: dict[str, Origin] = {}
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._proxy_addresses = Addresses(self._proxy.host, self._proxy.port, self._lookups) if self._proxy else None
        self._unsent: set[trio.CancelScope] = set()
        self._next_sweep = 0.0
        self._closed = False
        self._retired = False

    async def send(self, call: Call, *, timeout_s: float) -> Answer:
        """As `Upstream.send`; what the proxy refuses or breaks before the request is sent is a `ConnectError`."""
        return await self.prepare(call, timeout_s=timeout_s).send()

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        """As `Upstream.prepare`; every call is somebody's to wait for, `begin` always gives None."""
        place, target = locate(call.url, public_only=call.public_only)
        if place.scheme == UNIX:
            raise httpx2.UnsupportedProtocol("a provider on a Unix socket is reached by no proxy and not over HTTP/2")
        request = core_request(call, place, target)
        return Prepared(functools.partial(self._send, call, request, place, timeout_s), _begin_nothing)

    async def _send(self, call: Call, request: CoreRequest, place: Place, timeout_s: float) -> Answer:
        now = trio.current_time()
        origin = self._origin(place, now)
        sending = _Sending(call, request)
        with trio.CancelScope(deadline=now + timeout_s):
            await self._take_slot(origin)
            sending.has_slot = True
            try:
                if self._closed:
                    raise httpx2.PoolTimeout(CLOSED)
                answer = await self._carry(sending, origin)
            finally:
                origin.slots.release()
            return self._decoded(answer)
        raise sending.too_late(timeout_s)

    async def aclose(self) -> None:
        """As `Upstream.aclose`: requests on the wire end as they would, all others fail at once."""
        self._closed = True
        for scope in self._unsent:
            scope.cancel()
        self.retire()
        await trio.lowlevel.checkpoint()

    def retire(self) -> None:
        """Keep no connection from now on. Requests, later ones too, are carried as before."""
        self._retired = True
        for origin in self._origins.values():
            origin.close_idle()

    def is_used(self) -> bool:
        """Whether a request waits or is under way, or a connection is kept."""
        return any(origin.is_used() for origin in self._origins.values())

    def statistics(self) -> Statistics:
        """What is open now. A connection that requests share is one, and idle when none is on it."""
        return Statistics(origins={name: one.statistics() for name, one in self._origins.items() if one.is_used()})

    async def _carry(self, sending: _Sending, origin: Origin) -> Answer:
        fresh = sending.call.fresh
        while True:
            sending.exchange, sending.lane, answer = Exchange(), None, None
            try:
                with self._unsent_within(self._connect_timeout_s) as sending.unsent:
                    lane = sending.lane = await self._take_lane(sending, origin, fresh=fresh)
                    answer = await self._exchange(sending, lane, origin)
                    return answer
            except httpcore2.ConnectionNotAvailable as exc:
                # HTTP/2: the provider is closing the connection, and says that it did not look at this request.
                if not sending.kept:
                    raise httpx2.ConnectError("the provider takes no request on a new connection") from exc
            except httpx2.NetworkError:
                if not sending.may_be_repeated():
                    raise
                fresh |= sending.exchange.begun
            finally:
                if sending.lane is not None:
                    sending.lane.spoiled |= answer is None
                    origin.give_back(sending.lane, keep=not self._retired)
            if sending.unsent.cancelled_caught:
                if self._closed:
                    raise httpx2.ConnectError(CLOSED)
                origin.addresses.forget()
                raise no_connection(self._connect_timeout_s)

    async def _take_slot(self, origin: Origin) -> None:
        try:
            origin.slots.acquire_nowait()
        except trio.WouldBlock:
            if self._closed:
                raise httpx2.PoolTimeout(CLOSED) from None
            with self._unsent_within(math.inf) as scope:
                await origin.slots.acquire()
            if scope.cancelled_caught:
                raise httpx2.PoolTimeout(CLOSED) from None

    @contextlib.contextmanager
    def _unsent_within(self, seconds: float) -> Iterator[trio.CancelScope]:
        """What a call does before a byte of it is sent: cut off after a time, and by `aclose`."""
        with trio.move_on_after(seconds) as scope:
            self._unsent.add(scope)
            try:
                yield scope
            finally:
                self._unsent.discard(scope)

    async def _take_lane(self, sending: _Sending, origin: Origin, *, fresh: bool) -> Lane:
        while not fresh:
            lane = await origin.take_kept(self._idle_s)
            if lane is not None:
                sending.kept = True
                return lane
            if origin.first is None:
                break
            # Whether a crowd can share one connection is known once it is made.
            await origin.first.wait()
        sending.kept = False
        origin.make_room()
        wire = Wire(
            origin.addresses,
            max_header_bytes=self._max_header_bytes,
            proxied=self._proxy is not None,
            proxy_tls=self._proxy is not None and self._proxy.tls,
        )
        lane = Lane(self._maker(wire, origin).create_connection(core_place(origin.place)), wire)
        origin.add(lane, shared=self._http2 and origin.place.scheme == "https")
        return lane

    def _maker(self, wire: Wire, origin: Origin) -> httpcore2.AsyncConnectionPool:
        """What knows how to make a connection, straight or by the proxy."""
        if origin.place.scheme == "https" and self._context is None:
            # Reads the system's certificates: tens of milliseconds, once, and only where a provider wants TLS.
            self._context = self._make_context()
        if self._proxy is None:
            return httpcore2.AsyncConnectionPool(ssl_context=self._context, http2=self._http2, network_backend=wire)
        if self._proxy.tls and self._proxy_context is None:
            self._proxy_context = self._make_context()
        return httpcore2.AsyncHTTPProxy(
            self._proxy.url,
            proxy_auth=self._proxy.auth,
            proxy_ssl_context=self._proxy_context,
            ssl_context=self._context,
            http2=self._http2,
            network_backend=wire,
        )

    async def _exchange(self, sending: _Sending, lane: Lane, origin: Origin) -> Answer:
        """One request and its answer, the body as it comes."""
        if len(sending.call.body or b"") <= SMALL_BYTES:
            return await self._talk(sending, lane, origin)
        failure: Exception
        async with trio.open_nursery() as nursery:
            sending.exchange.nursery = nursery
            try:
                return await self._talk(sending, lane, origin)
            except (httpx2.HTTPError, httpcore2.ConnectionNotAvailable) as exc:
                failure = exc  # raised again, outside of the nursery's group
            finally:
                nursery.cancel_scope.cancel()
        raise failure

    async def _talk(self, sending: _Sending, lane: Lane, origin: Origin) -> Answer:
        exchange, unsent = sending.exchange, sending.unsent

        async def trace(event: str, info: dict[str, httpcore2.Request]) -> None:
            if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
                if unsent.cancel_called:
                    # Ends the call here: over HTTP/2 others would send what httpcore2 put together before the write.
                    await trio.lowlevel.checkpoint()
                unsent.deadline = math.inf
                self._unsent.discard(unsent)
                lane.wire.start(exchange)
                exchange.begun = exchange.sending = True
                origin.agree(lane)
            elif event.endswith("send_request_body.complete"):
                exchange.sending = False

        request = sending.request(extensions={"trace": trace, "sni_hostname": origin.place.host})
        lane.wire.start(exchange)
        with translated(exchange):
            response = await lane.connection.handle_async_request(request)
            try:
                answer = await self._read(response, exchange, body_expected=sending.call.method != "HEAD")
                lane.spoiled |= not lane.wire.multiplexed and left_over(response)
            finally:
                with trio.CancelScope(shield=True):  # waits for no network
                    await response.aclose()
        lane.spoiled |= not lane.connection.is_available()
        return answer

    async def _read(self, response: httpcore2.Response, exchange: Exchange, *, body_expected: bool) -> Answer:
        exchange.answered = True
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        if sum(len(name) + len(value) + 4 for name, value in response.headers) > self._max_header_bytes:
            raise httpx2.RemoteProtocolError(too_long_headers(exchange.peer, self._max_header_bytes))
        if response.extensions["http_version"] not in _VERSIONS:
            raise httpx2.RemoteProtocolError("the provider's answer is not HTTP/1.1: it has another version")
        if response.status == _SWITCHING_PROTOCOLS:
            raise httpx2.RemoteProtocolError(answers_nothing(response.status))
        if response.status == _PROXY_AUTHENTICATION and self._proxy is not None:
            raise httpx2.ConnectError("the proxy refuses: 407 Proxy Authentication Required")
        pieces: list[bytes] = []
        if body_expected:
            if int(headers.get("content-length", 0)) > self._max_body_bytes:
                raise httpx2.RemoteProtocolError(too_large("answer", self._max_body_bytes))
            if "content-length" in headers and "transfer-encoding" in headers:
                raise httpx2.RemoteProtocolError("the provider's answer is not HTTP/1.1: it has two lengths")
            exchange.until_end = "content-length" not in headers and "transfer-encoding" not in headers
            async with contextlib.aclosing(response.aiter_stream()) as stream:
                async for piece in stream:
                    exchange.body_bytes += len(piece)
                    if exchange.body_bytes > self._max_body_bytes:
                        raise httpx2.RemoteProtocolError(too_large("answer", self._max_body_bytes))
                    pieces.append(piece)
        return Answer(status=response.status, headers=headers, body=b"".join(pieces))

    def _decoded(self, answer: Answer) -> Answer:
        coding = answer.headers.get("content-encoding")
        if coding is None or not answer.body:
            return answer
        body = decode(answer.body, coding, self._max_body_bytes)
        return Answer(status=answer.status, headers=answer.headers, body=body)

    def _origin(self, place: Place, now: float) -> Origin:
        if now >= self._next_sweep:
            self._sweep(now)
        origin = self._origins.get(place.name)
        if origin is None:
            addresses = self._proxy_addresses or Addresses(
                place.host, place.port, self._lookups, public_only=place.public_only
            )
            origin = self._origins[place.name] = Origin(place, addresses, slots=self._connections_per_origin)
        return origin

    def _sweep(self, now: float) -> None:
        """Close what grew old and forget unused origins, when there is traffic at all."""
        self._next_sweep = now + self._idle_s / 4
        for origin in self._origins.values():
            origin.close_idle(until=now - self._idle_s)
        self._origins = {key: origin for key, origin in self._origins.items() if origin.is_used()}


class _Sending:
    """One call on its way: what it is, and how far it got."""

    def __init__(self, call: Call, request: CoreRequest) -> None:
        self.call = call
        self.request = request
        self.has_slot = False
        self.kept = False
        """Whether its connection was there before."""
        self.lane: Lane | None = None
        self.exchange = Exchange()
        self.unsent = trio.CancelScope()

    def may_be_repeated(self) -> bool:
        """After the loss of the connection: whether it was one that the provider may have been closing meanwhile."""
        if self.lane is None or not self.kept:
            return False
        if not self.exchange.begun:
            return True
        heard = self.exchange.answered if self.lane.wire.multiplexed else self.exchange.heard
        return self.call.method in REPEATABLE and not heard

    def too_late(self, timeout_s: float) -> httpx2.TimeoutException:
        if self.exchange.begun:
            return no_answer(timeout_s, sending=self.exchange.sending)
        return no_connection(timeout_s) if self.has_slot and not self.kept else no_turn(timeout_s)


def _begin_nothing(_done: Callable[[Answer | Exception], None], _step_s: float) -> None:
    """Not to be sent without somebody who waits."""
