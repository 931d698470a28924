"""How late the loop is: a task that asks to be woken now and then, and measures by how much it was not."""

from __future__ import annotations

from collections import deque

import trio

from creche.core.histogram import Histogram
from creche.engine.timetable import TICK_S

EVERY_S = 8 * TICK_S
"""On the timetable's grid, so that looking at the loop does not wake it."""

RECENT = 16
"""Looks that count as recent: five seconds."""


class LoopLag:
    """Watches the loop while `run` runs; `histogram` holds what it saw, in seconds."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._recent: deque[float] = deque(maxlen=RECENT)

    def recent_s(self) -> float:
        """The worst of the last seconds."""
        return max(self._recent, default=0.0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure until cancelled."""
        task_status.started()
        while True:
            due = (trio.current_time() // EVERY_S + 1) * EVERY_S
            await trio.sleep_until(due)
            late_s = trio.current_time() - due
            self.histogram.observe(late_s)
            self._recent.append(late_s)
