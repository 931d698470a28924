"""Tells connections that they have something to do: one look at the kernel for many of them.

A task that waits for each connection by itself would have to be registered, woken and unregistered for every exchange.
Here a connection is registered for as long as it is used in one way, of which there are two:

- attended: somebody waits for the answer, so whatever comes is read at once;
- unattended: what comes is read with the next look, which may wait for a while. To wake the process costs as much as a
  dozen polls, because its caches are cold, and the looks fall on the moments at which the timetable wakes it anyway.
"""

from __future__ import annotations

import contextlib
import functools
import math
import select
from collections.abc import Callable

import trio
from loguru import logger

from creche.edges.upstream_connection import READ, Connection, Expired
from creche.engine.timetable import Timetable

CHECK_EVERY_S = 1.0

EVENTS_AT_ONCE = 100
"""Connections that are served between two looks at the rest of the world."""

LOOK_AT_MOST = 10
"""How many hundreds are read in one look; more are read in the next."""


class Switchboard:
    """Watches connections (it is their `Watch`), from `attend` until they are closed.

    What is to be read at once is read by a system task of Trio's, begun with the first connection, so that nobody has
    to run anything for it. `timetable` says when to look for the rest, and must run.
    """

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._connections: dict[int, Connection] = {}
        self._watched_by: dict[int, select.epoll] = {}
        self._asked: set[int] = set()
        self._at_once: select.epoll | None = None
        self._at_leisure: select.epoll | None = None
        self._unattended: set[Connection] = set()
        self._step_s = 0.0
        self._look_at = math.inf
        self._check_at = 0.0
        self._closing = False

    def attend(self, connection: Connection) -> None:
        """From now on somebody waits for what it brings."""
        if self._at_once is None:
            self._at_once, self._at_leisure = select.epoll(), select.epoll()
            trio.lowlevel.spawn_system_task(self._serve, self._at_once, name="creche: reads what providers answer")
        self._watch(connection, self._at_once)

    def leave(self, connection: Connection, step_s: float) -> None:
        """From now on nobody waits for what it brings, until `settle`: it is read at the next multiple of `step_s`.

        When its `deadline` has passed, it ends with `Expired` within a second.
        """
        assert self._at_leisure is not None, "its first exchange was attended"  # noqa: S101
        self._watch(connection, self._at_leisure)
        self._unattended.add(connection)
        if self._look_at == math.inf or step_s < self._step_s:
            self._step_s = step_s
            self._look_next()

    def settle(self, connection: Connection) -> None:
        """What nobody waited for is there, or is not wanted any more."""
        self._unattended.discard(connection)

    def ask_for(self, connection: Connection, events: int) -> None:
        """Look for these events too, once."""
        fd = connection.fileno()
        if fd not in self._asked:
            self._asked.add(fd)
            self._watched_by[fd].modify(fd, READ | events)

    def forget(self, connection: Connection) -> None:
        """It is about to be closed."""
        fd = connection.fileno()
        if self._connections.get(fd) is connection:
            del self._connections[fd]
            self._watched_by.pop(fd).unregister(fd)
            self._asked.discard(fd)
        self._end_if_idle()

    def close(self) -> None:
        """End once the last connection is closed."""
        self._closing = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._closing and self._at_once is not None and self._at_leisure is not None and not self._connections:
            with contextlib.suppress(RuntimeError):  # Trio's run is over
                trio.lowlevel.notify_closing(self._at_once.fileno())
            self._at_once.close()
            self._at_leisure.close()
            self._at_once = self._at_leisure = None

    def _watch(self, connection: Connection, epoll: select.epoll) -> None:
        fd = connection.fileno()
        before = self._watched_by.get(fd)
        if before is epoll:
            return
        if before is not None:
            before.unregister(fd)
            self._asked.discard(fd)
        self._connections[fd], self._watched_by[fd] = connection, epoll
        epoll.register(fd, READ)

    async def _serve(self, epoll: select.epoll) -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            while not epoll.closed:
                await trio.lowlevel.wait_readable(epoll.fileno())
                self._tell_all(epoll)

    def _look_next(self) -> None:
        self._look_at = _next(trio.current_time(), self._step_s)
        self._timetable.call_at(self._look_at, functools.partial(self._look, self._look_at))

    def _look(self, moment: float) -> None:
        if moment != self._look_at or self._at_leisure is None:
            return  # a sooner one was wanted meanwhile
        left = LOOK_AT_MOST
        while left and self._tell_all(self._at_leisure) == EVENTS_AT_ONCE:
            left -= 1
        now = trio.current_time()
        if now >= self._check_at:
            self._check_at = now + CHECK_EVERY_S
            for late in [one for one in self._unattended if one.deadline <= now]:
                _contained(late, functools.partial(late.fail, Expired()))
        self._look_at = math.inf
        if self._unattended:
            self._look_next()

    def _tell_all(self, epoll: select.epoll) -> int:
        """Tell those that have something to do; how many, of which there may be more then."""
        if epoll.closed:
            return 0
        events = epoll.poll(0, EVENTS_AT_ONCE)
        for fd, _ in events:
            connection = self._connections.get(fd)
            if connection is None:
                continue  # one that was told before it has closed it
            if fd in self._asked:
                self._asked.discard(fd)
                epoll.modify(fd, READ)
            _contained(connection, connection.on_event)
        return len(events)


def _contained(connection: Connection, do: Callable[[], None]) -> None:
    """Whatever is wrong with one exchange, the others go on."""
    try:
        do()
    except Exception as exc:  # noqa: BLE001 - as above
        logger.opt(exception=exc).error("a request was ended by a defect of creche")
        connection.fail(exc)


def _next(now: float, step_s: float) -> float:
    """The first multiple of a step behind `now`; never `now` itself, whatever rounding does."""
    moment = (now // step_s + 1) * step_s
    return moment if moment > now else moment + step_s
