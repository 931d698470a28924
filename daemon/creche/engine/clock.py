"""The time of day as the engine sees it: it goes on through a suspend, and a clock that is set moves no deadline.

Deadlines are kept on disk as times of day, because nothing else outlives a restart. The machine's clock may be set
meanwhile, though, and Trio's own clock stands still while the machine sleeps. So the engine's time is that of a clock
that only runs on, plus a base, and both kinds of jump are found by looking at all three clocks now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import trio

LOOK_EVERY_S = 5.0

JUMP_S = 0.5
"""Less than this between two looks is how clocks drift and are slewed."""


class Jumps(NamedTuple):
    """What happened since the last look, in seconds: how long the machine slept, and by how much its clock was set."""

    slept_s: float
    set_by_s: float


class Clock:
    """`wall` gives Unix seconds, and may be set; `uptime` seconds that only run on, also while the machine sleeps."""

    def __init__(self, *, wall: Callable[[], float], uptime: Callable[[], float]) -> None:
        self._wall = wall
        self._uptime = uptime
        self._base = wall() - uptime()
        self._awake: float | None = None

    def now(self) -> float:
        """Unix seconds, as of the last look at the machine's clock."""
        return self._uptime() + self._base

    def look(self) -> Jumps:
        """Look at all clocks, and take over what the machine's says. Only within Trio."""
        uptime = self._uptime()
        set_by_s = self._wall() - uptime - self._base
        self._base += set_by_s
        awake, self._awake = self._awake, uptime - trio.current_time()
        slept_s = 0.0 if awake is None else self._awake - awake
        return Jumps(
            slept_s=slept_s if slept_s > JUMP_S else 0.0,
            set_by_s=set_by_s if abs(set_by_s) > JUMP_S else 0.0,
        )

    async def watch(self, jumped: Callable[[Jumps], None]) -> None:
        """Look now and then until cancelled; `jumped` is called after each jump, before anyone sees the new time."""
        self.look()
        while True:
            await trio.sleep(LOOK_EVERY_S)
            jumps = self.look()
            if jumps.slept_s or jumps.set_by_s:
                jumped(jumps)
