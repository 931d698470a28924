"""HTTP/1.1 for our own API, by h11, on Unix sockets and on TCP.

The front accepts connections and gives each a child of its own, in which it converses (`edges.front_connection`). What
strangers send never ends it.
"""

from __future__ import annotations

import errno
import math
import select
import socket
from collections.abc import Awaitable, Callable

import msgspec
import trio
from loguru import logger

from creche.core.exchange import Peer, Request, Response
from creche.core.wire import problem_response
from creche.edges.front_connection import LAST_S, Connection, Guests, Refusal, report
from creche.edges.front_listening import Hangups, Replay, waiting_at

Handle = Callable[[Request], Awaitable[Response]]
Refuse = Callable[[Request], Response | None]
Upgrade = Callable[[Request, Replay], Awaitable[None]]

_STARVED_PAUSE_S = 0.1
_STARVED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What clients may ask of us: sizes in bytes, times in seconds.

    `head_s` is the time for the first byte of a connection, and from a request's first byte for its whole head;
    `body_s` for its whole body; `idle_s` how long a kept-alive connection may be silent; `write_s` how long a client
    may take for each 256 KiB of an answer.

    `connections`, and `bodies_bytes` of bodies that are not answered yet, are for all clients of one kind together:
    those of Unix sockets have their share, those of TCP another, so that none can lock out the others.
    """

    head_bytes: int = 64 << 10
    body_bytes: int = 16 << 20
    bodies_bytes: int = 64 << 20
    head_s: float = 10.0
    body_s: float = 60.0
    idle_s: float = 75.0
    write_s: float = 30.0
    connections: int = 1024


class Front:
    """Serves `handle` on any number of listeners; `serve` may be called once.

    `handle` takes each request. If it raises, the client gets 500 and the log the error. A GET whose client hangs up is
    cancelled, so that long waits do not pile up; any other method runs to its end, because a change that was asked for
    must not depend on who waits for the answer. HEAD comes to `handle` as GET. `refuse` sees a request before its body
    is received, and may answer it then; None lets all bodies in.

    `upgrade` takes over a WebSocket upgrade of `front_connection.STREAM_PATH`, with a stream that begins with the
    request's own bytes; the connection is closed when it returns. `allowed_uids` says who may use Unix sockets; `hosts`
    which names (lower-case, without port) a Host header on TCP may carry, against DNS rebinding; None allows all.

    When all connections are taken, the one that has been silent for longest makes room for a new one.
    """

    def __init__(
        self,
        *,
        handle: Handle,
        refuse: Refuse | None = None,
        upgrade: Upgrade | None,
        limits: Limits,
        allowed_uids: frozenset[int] | None = None,
        hosts: frozenset[str] | None = None,
    ) -> None:
        self.handle = handle
        self.refuse = refuse
        self.upgrade = upgrade
        self.limits = limits
        self.stopping = False
        self._allowed_uids = allowed_uids
        self._hosts = hosts
        self._accepting = trio.CancelScope()
        self._arrived = trio.Event()
        self._closed = trio.Event()
        self._unix = Guests()
        self._tcp = Guests()

    async def serve(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled, or after `stop` until the last connection has ended. Closes the listeners."""
        with select.epoll() as epoll:
            hangups = Hangups(epoll)
            async with trio.open_nursery() as watching:
                watching.start_soon(hangups.notice_forever)
                async with trio.open_nursery() as clients:
                    try:
                        with self._accepting:
                            async with trio.open_nursery() as acceptors:
                                for listener in listeners:
                                    acceptors.start_soon(self._accept_forever, listener, clients, hangups)
                                task_status.started()
                        # Who has connected, and was not let in yet, would be reset.
                        for stream in [stream for listener in listeners for stream in waiting_at(listener)]:
                            clients.start_soon(self._serve_client, stream, hangups)
                    finally:
                        for listener in listeners:
                            listener.socket.close()
                        self._closed.set()
                watching.cancel_scope.cancel()

    def stop(self) -> None:
        """Accept no more. Idle connections close at once, new ones after a moment, the others after the answer that
        they wait for.

        Upgraded connections and handlers take the time that they take: cancel `serve` to bound it.
        """
        self.stopping = True
        self._accepting.cancel()
        for connection in self._unix.connections | self._tcp.connections:
            connection.close_if_silent()

    async def last_requests(self) -> None:
        """As `stop`; returns when whoever had connected before has been heard. That is not long."""
        self.stop()
        with trio.move_on_after(2 * LAST_S):
            await self._closed.wait()
            await trio.lowlevel.checkpoint()  # who was let in just now has a place among the connections then
            while any(connection.arriving for connection in self._unix.connections | self._tcp.connections):
                self._arrived = trio.Event()
                await self._arrived.wait()

    def note_arrived(self) -> None:
        """A request is here, or none comes."""
        self._arrived.set()

    async def _accept_forever(self, listener: trio.SocketListener, clients: trio.Nursery, hangups: Hangups) -> None:
        starved = False
        while True:
            try:
                stream = await listener.accept()
            except OSError as exc:
                if exc.errno not in _STARVED:
                    raise
                if not starved:
                    logger.error("cannot accept connections for now: {}", exc.strerror)
                starved = True
                await trio.sleep(_STARVED_PAUSE_S)
                continue
            starved = False
            clients.start_soon(self._serve_client, stream, hangups)

    async def _serve_client(self, stream: trio.SocketStream, hangups: Hangups) -> None:
        """One connection's whole life, and its one error boundary."""
        guests = self._unix if stream.socket.family == socket.AF_UNIX else self._tcp
        connection = Connection(self, stream, hangups, guests)
        try:
            if self._has_room(guests):
                guests.connections.add(connection)
                await connection.converse()
            else:
                detail = "all connections are taken, try again later"
                await connection.refuse(problem_response(503, "too_many_connections", detail))
        except* (trio.BrokenResourceError, trio.TooSlowError):
            logger.debug("a client is gone, or takes no answer: {}", connection.doing)
        except* Exception as group:  # noqa: BLE001 - a connection never ends the server
            report(group, connection.doing)
        finally:
            guests.connections.discard(connection)
            self.note_arrived()
            await trio.aclose_forcefully(stream)

    def _has_room(self, guests: Guests) -> bool:
        """Whether one more may come; if need be, the longest silent one goes."""
        if len(guests.connections) < self.limits.connections:
            return True
        longest = min(guests.connections, key=lambda connection: connection.idle_since)
        if longest.idle_since == math.inf:
            return False
        guests.connections.discard(longest)  # now, so that the next to come does not count or choose it
        longest.close_if_idle()
        return True

    def check(self, peer: Peer, host: str) -> None:
        """Raises `Refusal` for a peer that is not allowed, or a host that is not ours."""
        if peer.local:
            if self._allowed_uids is not None and peer.uid not in self._allowed_uids:
                raise Refusal(problem_response(403, "forbidden", f"user id {peer.uid} may not use this socket"))
        elif self._hosts is not None and _host_name(host) not in self._hosts:
            detail = "this server does not answer for the host that the request names"
            raise Refusal(problem_response(421, "misdirected", detail))


def _host_name(host: str) -> str:
    """The host part of a Host header, without port and brackets."""
    name = host.lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
