"""Wakes thousands of sleeping children cheaply: one heap, one task, no timer of Trio's per sleeper.

Measured (bench/, 6,000 children at 3 s): a `trio.sleep` per poll costs about as much as the poll itself.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import trio

TICK_S = 0.04
"""Sleeps end on a grid of this step, so that many end together. To wake the process costs as much as a dozen polls: its
caches are cold (bench/). Nobody is late by more than a step."""

CROWD = range(150, 1500)
"""So many sleepers have moments of a few when each step is a moment, and of twice as many when every other is: for them
the step is doubled. Fewer have moments of their own anyway, more have enough company."""

STEPS = 60
"""A sleep has at least so many steps: the grid of a short one is finer, by halves."""

MIN_STEP_S = 0.001

RUNG_AT_ONCE = 200
"""Alarms that are rung between two looks at the rest of the world."""


class Timetable:
    """Rings alarms when they are due. One task runs `run`; any number of tasks sleep on alarms.

    All alarms of one moment are in one list: thousands of sleepers have a few dozen moments between them.
    """

    def __init__(self) -> None:
        self._moments: dict[float, list[Alarm | _Errand]] = {}
        self._order: list[float] = []
        self._entries = 0
        self._stale = 0
        self._earlier = trio.Event()

    def step_of(self, seconds: float) -> float:
        """The step of the grid on which a sleep of so many seconds ends."""
        step_s = TICK_S
        if step_s * STEPS <= seconds:
            return 2 * step_s if self._entries in CROWD else step_s
        while step_s * STEPS > seconds and step_s > MIN_STEP_S:
            step_s /= 2
        return step_s

    @property
    def late_s(self) -> float:
        """By how much the earliest sleeper has been overslept; 0 when all is well."""
        return max(0.0, trio.current_time() - self._order[0]) if self._order else 0.0

    def alarm(self) -> Alarm:
        """A new alarm, for one sleeper."""
        return Alarm(self)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ring alarms until cancelled."""
        task_status.started()
        while True:
            self._earlier = trio.Event()
            with trio.CancelScope(deadline=self._order[0] if self._order else math.inf):
                await self._earlier.wait()
            now = trio.current_time()
            while self._order and self._order[0] <= now:
                await self._ring_all(heapq.heappop(self._order))

    async def _ring_all(self, moment: float) -> None:
        alarms = self._moments.pop(moment, [])
        self._entries -= len(alarms)
        for number, alarm in enumerate(alarms, 1):
            if alarm._moment == moment:  # noqa: SLF001 - the two classes are one mechanism
                alarm._due()  # noqa: SLF001
            else:
                self._stale -= 1
            if number % RUNG_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def call_at(self, moment: float, function: Callable[[], None]) -> None:
        """Call a function at a time of Trio's clock, unless the timetable ends before. It must not raise.

        On a moment of the sleepers it costs no waking up of its own.
        """
        self._put(moment, _Errand(moment, function))

    def _forget(self) -> None:
        """A sleep ended early; its entry stays until it is due, or until such entries are more than the others."""
        self._stale += 1
        if self._stale > max(1000, self._entries // 2):
            for moment, alarms in self._moments.items():
                alarms[:] = [alarm for alarm in dict.fromkeys(alarms) if alarm._moment == moment]  # noqa: SLF001
            self._entries = sum(map(len, self._moments.values()))
            self._stale = 0

    def _enter(self, at: float, seconds: float, alarm: Alarm) -> float:
        step_s = self.step_of(seconds)
        moment = math.ceil(at / step_s) * step_s
        self._put(moment, alarm)
        return moment

    def _put(self, moment: float, entry: Alarm | _Errand) -> None:
        alarms = self._moments.get(moment)
        if alarms is None:
            alarms = self._moments[moment] = []
            heapq.heappush(self._order, moment)
            if self._order[0] == moment:
                self._earlier.set()
        alarms.append(entry)
        self._entries += 1


class _Errand:
    """What is to be done at a moment."""

    __slots__ = ("_due", "_moment")

    def __init__(self, moment: float, function: Callable[[], None]) -> None:
        self._moment = moment
        self._due = function


class Alarm:
    """Where one task sleeps, and where others wake it early. At most one sleeper at a time."""

    __slots__ = ("_at", "_error", "_instead", "_moment", "_rung", "_sleeper", "_timetable")

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._sleeper: trio.lowlevel.Task | None = None
        self._moment: float | None = None
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
        if self._sleeper is not None and self._moment is None:
            self._enter(seconds)

    def _enter(self, seconds: float) -> None:
        self._at = trio.current_time() + seconds
        if seconds < math.inf:
            self._moment = self._timetable._enter(self._at, seconds, self)  # noqa: SLF001

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        self._end_sleep()
        return trio.lowlevel.Abort.SUCCEEDED

    def hasten(self, seconds: float) -> None:
        """Let the sleep under way end no later than in so many seconds; where nobody sleeps nothing happens."""
        if self._sleeper is not None and trio.current_time() + seconds < self._at:
            self._end_sleep()
            self._enter(seconds)

    @property
    def due_at(self) -> float:
        """When the sleep under way was to end, on Trio's clock."""
        return self._at

    def ring(self, error: Exception | None = None) -> None:
        """Wake the sleeper now, with an error if there is one; if nobody sleeps, the next sleep returns at once."""
        if self._sleeper is None:
            self._rung = True
        else:
            self._wake(error)

    def _due(self) -> None:
        self._moment = None
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
        self._instead = None  # which knows the sleeper, who knows us: a circle would outlive the task
        if self._moment is not None:
            self._moment = None
            self._timetable._forget()  # noqa: SLF001
