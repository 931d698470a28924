"""How late the loop is: a task that asks to be woken now and then, and measures by how much it was not."""

from __future__ import annotations

import trio

from creche.core.histogram import Histogram
from creche.engine.timetable import TICK_S

EVERY_S = 8 * TICK_S
"""On the timetable's grid, so that looking at the loop does not wake it."""


class LoopLag:
    """Watches the loop while `run` runs; `histogram` holds what it saw, in seconds."""

    def __init__(self) -> None:
        self.histogram = Histogram()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure until cancelled."""
        task_status.started()
        while True:
            due = (trio.current_time() // EVERY_S + 1) * EVERY_S
            await trio.sleep_until(due)
            self.histogram.observe(trio.current_time() - due)
