"""The HTTP/1.1 client that carries requests to providers at full speed.

Thousands of polls per second go through here, so it does one thing: a whole request out, a whole answer back, on a
kept-alive connection where there is one. No redirects, cookies, proxies or HTTP/2.

Per origin there are slots and a stack of idle connections. A request holds a slot from its turn to its end; slots are
given in the order of asking. The connection used last is used next, so that the others grow old and can be closed.

A call that is made again and again is prepared once: its URL is understood, its bytes are put together.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import httpx2
import msgspec
import trio

from creche.core.exchange import Answer, Call, Prepared, Unanswered
from creche.edges.upstream_addresses import LOOKUPS
from creche.edges.upstream_answer import AnswerReader
from creche.edges.upstream_connection import Connection, Expired
from creche.edges.upstream_dial import dial, secure
from creche.edges.upstream_origin import Origin, OriginStatistics
from creche.edges.upstream_request import REPEATABLE, Place, encode, locate
from creche.edges.upstream_switchboard import Switchboard
from creche.edges.upstream_words import CLOSED, NOT_ALLOWED, no_answer, no_connection, no_turn, unreachable
from creche.engine.timetable import Timetable


class Statistics(msgspec.Struct, frozen=True):
    """A snapshot by origin, as `scheme://host:port`; origins that nothing is kept for are left out."""

    origins: Mapping[str, OriginStatistics]


class _Request(NamedTuple):
    """A call as it is sent."""

    place: Place
    data: bytes
    timeout_s: float
    fresh: bool
    repeatable: bool
    body_expected: bool


class Upstream:
    """Sends calls to providers. One for the whole daemon.

    `connections_per_origin` bounds the connections, and thereby the requests at once, to one scheme, host and port;
    more requests wait in line. A connection that was not used for `idle_s` is not used again. `max_body_bytes` holds
    for an answer's body as it comes and as it is after decoding; decoding happens in the loop. What is sent without
    somebody who waits (`Prepared.begin`) is read at moments of a `timetable`, which must run; without one nothing is.
    `may_create` is asked in the moment in which a `fresh` call would leave, after all waiting: a node of a fleet that
    was stopped meanwhile must not send it any more.
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
        timetable: Timetable | None = None,
        may_create: Callable[[], bool] = lambda: True,
    ) -> None:
        self._connections_per_origin = connections_per_origin
        self._idle_s = idle_s
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._connect_timeout_s = connect_timeout_s
        self._ssl_context = ssl_context
        self._may_create = may_create
        self._origins: dict[str, Origin] = {}
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._has_looks = timetable is not None
        self._switchboard = Switchboard(timetable or Timetable())
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
        return await self.prepare(call, timeout_s=timeout_s).send()

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        """The call, ready to be sent as `send` does. Raises for one that cannot be sent.

        `begin` wants a free slot and a kept connection. The answer is read at the next multiple of its `step_s`. What
        `send` would send once more ends as `Unanswered`.
        """
        place, target = locate(call.url, public_only=call.public_only)
        request = _Request(
            place=place,
            data=encode(call, place.host_field, target),
            timeout_s=timeout_s,
            fresh=call.fresh,
            repeatable=call.method in REPEATABLE,
            body_expected=call.method != "HEAD",
        )
        return Prepared(functools.partial(self._send, request), functools.partial(self._begin, request))

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
        self._switchboard.close()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> Statistics:
        """What is open now."""
        return Statistics(origins={name: one.statistics() for name, one in self._origins.items() if one.is_used()})

    async def _send(self, request: _Request) -> Answer:
        now = trio.current_time()
        deadline = now + request.timeout_s
        origin = self._origin(request.place, now)
        if origin.free:
            origin.free -= 1
        elif self._closed:
            raise httpx2.PoolTimeout(CLOSED)
        else:
            await self._wait_for_slot(origin, deadline, request)
            now = trio.current_time()
        try:
            if self._closed:
                raise httpx2.PoolTimeout(CLOSED)
            connection = None if request.fresh else origin.take_idle(now - self._idle_s)
            if connection is not None:
                try:
                    return await self._exchange(origin, connection, deadline, request)
                except httpx2.NetworkError:
                    if connection.heard or not request.repeatable:
                        raise
            connection = await self._connect(origin, deadline, request)
            if request.fresh and not self._may_create():
                connection.close()
                raise httpx2.ConnectError(NOT_ALLOWED)
            return await self._exchange(origin, connection, deadline, request)
        finally:
            origin.give_slot()

    def _begin(
        self, request: _Request, done: Callable[[Answer | Exception], None], step_s: float
    ) -> Callable[[], None] | None:
        now = trio.current_time()
        origin = self._origin(request.place, now)
        if self._closed or request.fresh or not origin.free or not self._has_looks:
            return None
        connection = origin.take_idle(now - self._idle_s)
        if connection is None:
            return None
        origin.free -= 1
        connection.idle_since, connection.deadline = now, now + request.timeout_s
        unattended = _Unattended(self._end_unattended, origin, connection, request, done)
        self._switchboard.leave(connection, step_s)
        connection.begin(request.data, body_expected=request.body_expected, done=unattended.end)
        return unattended.abandon

    async def _exchange(self, origin: Origin, connection: Connection, deadline: float, request: _Request) -> Answer:
        child = trio.lowlevel.current_task()
        ends: list[Answer | Exception] = []

        def done(end: Answer | Exception) -> None:
            connection.idle_since = trio.current_time()
            self._keep(origin, connection)
            ends.append(end)
            trio.lowlevel.reschedule(child)

        def abandon(_: object) -> trio.lowlevel.Abort:
            connection.close()
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.CancelScope(deadline=deadline):
            self._switchboard.attend(connection)
            connection.begin(request.data, body_expected=request.body_expected, done=done)
            await trio.lowlevel.wait_task_rescheduled(abandon)
        if not ends:
            raise no_answer(request.timeout_s, sending=connection.sending)
        [end] = ends
        if isinstance(end, Answer):
            return end
        raise end

    def _end_unattended(self, origin: Origin, connection: Connection) -> None:
        self._switchboard.settle(connection)
        self._keep(origin, connection)
        origin.give_slot()

    def _keep(self, origin: Origin, connection: Connection) -> None:
        """An exchange is over: keep the connection, if it is good for another one."""
        if connection.reusable and not self._closed:
            origin.idle.append(connection)
        else:
            connection.close()

    def _origin(self, place: Place, now: float) -> Origin:
        if now >= self._next_sweep:
            self._sweep(now)
        origin = self._origins.get(place.name)
        if origin is None:
            origin = self._origins[place.name] = Origin(place, self._lookups, slots=self._connections_per_origin)
        return origin

    def _sweep(self, now: float) -> None:
        """Close what grew old and forget unused origins, when there is traffic at all."""
        self._next_sweep = now + self._idle_s / 4
        for origin in self._origins.values():
            origin.close_idle(until=now - self._idle_s)
        self._origins = {name: origin for name, origin in self._origins.items() if origin.is_used()}

    @contextlib.contextmanager
    def _unsent_until(self, deadline: float) -> Iterator[trio.CancelScope]:
        """What a call does before a byte of it is sent: cut off at a time, and by `aclose`."""
        with trio.CancelScope(deadline=deadline) as scope:
            self._unsent.add(scope)
            try:
                yield scope
            finally:
                self._unsent.discard(scope)

    async def _wait_for_slot(self, origin: Origin, deadline: float, request: _Request) -> None:
        with self._unsent_until(deadline) as scope:
            await origin.take_slot()
        if scope.cancelled_caught:
            raise httpx2.PoolTimeout(CLOSED) if self._closed else no_turn(request.timeout_s)

    async def _connect(self, origin: Origin, deadline: float, request: _Request) -> Connection:
        origin.make_room()
        own_deadline = trio.current_time() + self._connect_timeout_s
        try:
            with self._unsent_until(min(deadline, own_deadline)) as scope:
                connected = await self._reach(origin)
        except (OSError, ValueError) as exc:
            origin.addresses.forget()
            raise httpx2.ConnectError(f"cannot connect: {unreachable(exc)}") from exc
        if self._closed:
            if not scope.cancelled_caught:
                connected.close()
            raise httpx2.ConnectError(CLOSED)
        if scope.cancelled_caught:
            origin.addresses.forget()
            raise no_connection(self._connect_timeout_s if own_deadline <= deadline else request.timeout_s)
        reader = AnswerReader(max_body_bytes=self._max_body_bytes, max_header_bytes=self._max_header_bytes)
        return Connection(connected, reader, self._switchboard, on_spoiled=origin.drop)

    async def _reach(self, origin: Origin) -> socket.socket:
        context = self._tls() if origin.place.scheme == "https" else None
        connected = await dial(await origin.addresses.get())
        return connected if context is None else await secure(connected, context, origin.place.host)

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # Reads the system's certificates: tens of milliseconds, once, and only where a provider wants TLS.
            self._ssl_context = ssl.create_default_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context


class _Unattended:
    """An exchange for which nobody waits."""

    __slots__ = ("_close", "_connection", "_done", "_origin", "_request")

    def __init__(
        self,
        close: Callable[[Origin, Connection], None],
        origin: Origin,
        connection: Connection,
        request: _Request,
        done: Callable[[Answer | Exception], None],
    ) -> None:
        self._close = close
        self._origin = origin
        self._connection = connection
        self._request = request
        self._done = done

    def end(self, end: Answer | Exception) -> None:
        self._close(self._origin, self._connection)
        if isinstance(end, Expired):
            end = no_answer(self._request.timeout_s, sending=self._connection.sending)
        elif isinstance(end, httpx2.NetworkError) and self._request.repeatable and not self._connection.heard:
            end = Unanswered()
        self._done(end)

    def abandon(self) -> None:
        self._close(self._origin, self._connection)  # for good: it is in the midst of something
