"""Wakes thousands of sleeping children cheaply: one heap, one task, no timer of Trio's per sleeper.

Measured (bench/, 6,000 children at 3 s): a `trio.sleep` per poll costs about as much as the poll itself.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

import trio

TICK_S = 0.04
"""Sleeps end on a grid of this step, so that many end together. To wake the process costs as much as a dozen polls: its
caches are cold (bench/). Nobody is late by more than a step."""

MIN_STEP_S = 0.001

STEPS = 60
"""A sleep has at least so many steps: the grid of a short one is finer, by halves."""


def step_of(seconds: float) -> float:
    """The step of the grid on which a sleep of so many seconds ends."""
    step_s = TICK_S
    while step_s * STEPS > seconds and step_s > MIN_STEP_S:
        step_s /= 2
    return step_s


class Timetable:
    """Rings alarms when they are due. One task runs `run`; any number of tasks sleep on alarms."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._stale = 0
        self._tickets = itertools.count(1)
        self._earlier = trio.Event()

    def alarm(self) -> Alarm:
        """A new alarm, for one sleeper."""
        return Alarm(self)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ring alarms until cancelled."""
        task_status.started()
        while True:
            self._earlier = trio.Event()
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf):
                await self._earlier.wait()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                _, ticket, alarm = heapq.heappop(self._heap)
                alarm._due(ticket)  # noqa: SLF001 - the two classes are one mechanism

    def _forget(self) -> None:
        """A sleep ended early; its entry stays until it is due, or until such entries are more than the others."""
        self._stale += 1
        if self._stale > max(1000, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2].is_waiting_for(entry[1])]
            heapq.heapify(self._heap)
            self._stale = 0

    def _enter(self, at: float, step_s: float, alarm: Alarm) -> int:
        due = math.ceil(at / step_s) * step_s
        ticket = next(self._tickets)
        if not self._heap or due < self._heap[0][0]:
            self._earlier.set()
        heapq.heappush(self._heap, (due, ticket, alarm))
        return ticket


class Alarm:
    """Where one task sleeps, and where others wake it early. At most one sleeper at a time."""

    __slots__ = ("_at", "_error", "_instead", "_rung", "_sleeper", "_ticket", "_timetable")

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._sleeper: trio.lowlevel.Task | None = None
        self._ticket = 0
        self._at = math.inf
        self._error: Exception | None = None
        self._instead: Callable[[], bool] | None = None
        self._rung = False

    async def sleep(self, seconds: float, *, instead: Callable[[], bool] | None = None) -> None:
        """Return after `seconds` (infinity is allowed), or as soon as `ring` was called, be it before this sleep.

        When the time has come `instead` is called first. If it returns True, the sleep goes on until `go_on` gives it a
        new end, or `ring` ends it. What it raises is raised here.
        """
        if self._rung:
            self._rung = False
            await trio.lowlevel.checkpoint()
            return
        self._sleeper = trio.lowlevel.current_task()
        self._instead = instead
        self._enter(seconds)
        await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self._error is not None:
            raise self._error

    def go_on(self, seconds: float) -> None:
        """Let the sleep under way, for which `instead` has done something, go on for so long."""
        if self._sleeper is not None and not self._ticket:
            self._enter(seconds)

    def _enter(self, seconds: float) -> None:
        self._at = trio.current_time() + seconds
        if seconds < math.inf:
            self._ticket = self._timetable._enter(self._at, step_of(seconds), self)  # noqa: SLF001

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        self._end_sleep()
        return trio.lowlevel.Abort.SUCCEEDED

    def hasten(self, seconds: float) -> None:
        """Let the sleep under way end no later than in so many seconds; where nobody sleeps nothing happens."""
        if self._sleeper is not None and trio.current_time() + seconds < self._at:
            self._end_sleep()
            self._instead = None
            self._enter(seconds)

    @property
    def due_at(self) -> float:
        """When the sleep under way was to end, on Trio's clock."""
        return self._at

    def is_waiting_for(self, ticket: int) -> bool:
        """Whether an entry of the timetable is the one that this alarm sleeps on."""
        return ticket == self._ticket and self._sleeper is not None

    def ring(self, error: Exception | None = None) -> None:
        """Wake the sleeper now, with an error if there is one; if nobody sleeps, the next sleep returns at once."""
        if self._sleeper is None:
            self._rung = True
        else:
            self._wake(error)

    def _due(self, ticket: int) -> None:
        # An entry whose sleep was cancelled or rung early stays in the heap; its ticket no longer fits.
        if not self.is_waiting_for(ticket):
            return
        self._ticket = 0
        if self._instead is not None:
            try:
                if self._instead():
                    return
            except Exception as exc:  # noqa: BLE001 - it is the sleeper's, and must not end the timetable
                self.ring(exc)
                return
        self._wake()

    def _wake(self, error: Exception | None = None) -> None:
        sleeper, self._sleeper = self._sleeper, None
        self._end_sleep()
        assert sleeper is not None, "only called with a sleeper"  # noqa: S101 - a defect of this file
        self._error = error
        trio.lowlevel.reschedule(sleeper)

    def _end_sleep(self) -> None:
        if self._ticket:
            self._ticket = 0
            self._timetable._forget()  # noqa: SLF001
