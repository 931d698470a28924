"""One beat for all live tasks.

A heartbeat child enters its task into the pulse and leaves when its nursery ends; the pulse beats for all who are in. A
beat therefore still says what a beat per task would say: this task is in a live nursery of a live loop. It costs
nothing per task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio
from loguru import logger

from creche.engine.lease import UNLIMITED, Lease
from creche.engine.ports import Heartbeats
from creche.errors import HeartbeatsUnreachable

BEAT_EVERY_S = 2.0

MAX_ENDED = 100_000
"""Ended tasks whose keys are yet to be removed, while Redis is away; those forgotten expire after a day."""


class Pulse:
    """Beats every two seconds. Without `heartbeats` the times are kept here only; `wall` gives Unix seconds.

    No beat while the `lease` has run out: others may mind the tasks, or have ended them.
    """

    def __init__(self, heartbeats: Heartbeats | None, *, wall: Callable[[], float], lease: Lease = UNLIMITED) -> None:
        self._heartbeats = heartbeats
        self._wall = wall
        self._lease = lease
        self._entered: dict[str, tuple[str, float]] = {}
        self._ended: dict[str, None] = {}
        self._last_beat = 0.0
        self.fault: str | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled. An unreachable Redis skips beats; minding goes on and beats resume by themselves."""
        task_status.started()
        due = trio.current_time()
        while True:
            await self.beat()
            # Counting from the last due time keeps the rhythm; after a stall the beats missed are not made up.
            due = max(due + BEAT_EVERY_S, trio.current_time())
            await trio.sleep_until(due)

    async def beat(self) -> None:
        """Beat once, now."""
        if not self._lease.holds():
            return
        now = self._wall()
        if self._heartbeats is not None:
            ended = tuple(self._ended)
            active = Counter(algorithm for algorithm, _ in self._entered.values())
            try:
                await self._heartbeats.beat(alive=tuple(self._entered), ended=ended, active=active, now=now)
            except HeartbeatsUnreachable as exc:
                if self.fault is None:
                    logger.warning("heartbeats cannot be written, minding goes on: {}", exc)
                self.fault = str(exc)
                return
            if self.fault is not None:
                logger.info("heartbeats are written again")
            for task_id in ended:
                self._ended.pop(task_id, None)
        self.fault = None
        self._last_beat = now

    async def beat_while_alive(self, task_id: str, algorithm: str) -> None:
        """The heartbeat child: the task beats from here until this is cancelled."""
        entry = self._entered[task_id] = (algorithm, self._wall())
        try:
            await trio.sleep_forever()
        finally:
            # A task that was another node's for a moment may have entered anew.
            if self._entered.get(task_id) is entry:
                del self._entered[task_id]

    def end(self, task_id: str) -> None:
        """The task is settled: take its beat away from where monitors look."""
        if self._heartbeats is None:
            return
        self._ended[task_id] = None
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    def last_beat(self, task_id: str) -> float | None:
        """When the task last beat, in Unix seconds; None when it is not alive. Entering counts as the first beat."""
        entered = self._entered.get(task_id)
        return None if entered is None else max(entered[1], self._last_beat)

    def age_s(self) -> float | None:
        """Seconds since the last beat that got through; None before the first."""
        return self._wall() - self._last_beat if self._last_beat else None

    def __len__(self) -> int:
        return len(self._entered)
