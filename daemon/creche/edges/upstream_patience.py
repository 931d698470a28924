"""Ends exchanges that take too long: one task for all of them.

A cancel scope for each exchange would be the plain way; entering and leaving one costs a fifth of what a poll may
(bench/upstream.py), and of thousands of polls hardly one is ever late.
"""

from __future__ import annotations

import math

import trio

from creche.edges.upstream_connection import Connection, Expired


class Patience:
    """Watches exchanges; one whose connection's `deadline` has passed ends with `Expired`.

    The watching is done by a system task of Trio's, begun when there is something to watch and ended when there is not,
    so that nobody has to run anything for a time-out to hold.
    """

    def __init__(self) -> None:
        self._watched: set[Connection] = set()
        self._next_look = math.inf
        self._sooner = trio.Event()

    def watch(self, connection: Connection) -> None:
        """From now on, until `let_go`."""
        self._watched.add(connection)
        if connection.deadline < self._next_look:
            if self._next_look == math.inf:
                trio.lowlevel.spawn_system_task(self._look_on, name="creche: ends requests that take too long")
            self._next_look = connection.deadline
            self._sooner.set()

    def let_go(self, connection: Connection) -> None:
        """The exchange has ended."""
        self._watched.discard(connection)

    async def _look_on(self) -> None:
        # Between two looks exchanges come and go by the thousand; only one with an earlier deadline than all that were
        # there wakes this task, which is hardly ever.
        while self._watched:
            self._sooner = trio.Event()
            with trio.CancelScope(deadline=self._next_look):
                await self._sooner.wait()
                continue
            now = trio.current_time()
            for late in [one for one in self._watched if one.deadline <= now]:
                self._watched.discard(late)
                late.fail(Expired())
            self._next_look = min((one.deadline for one in self._watched), default=math.inf)
        self._next_look = math.inf
