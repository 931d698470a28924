"""Limits as plain state machines: they say who may go and who is next; waiting is done elsewhere."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Set as AbstractSet


class Slots:
    """How many jobs of one algorithm may be in flight at the provider.

    A slot is held by a task's id, so what is in flight is the set of holders and never a counter that could drift.
    Whoever waits is served by priority (higher first), then by order of arrival. `capacity` None means no limit.
    """

    def __init__(self, capacity: int | None) -> None:
        self._capacity = capacity
        self._holders: set[str] = set()
        self._queue: list[tuple[int, int, str]] = []
        self._waiting: dict[str, int] = {}
        self._arrivals = itertools.count()

    @property
    def holders(self) -> AbstractSet[str]:
        """The ids of the tasks that hold a slot."""
        return self._holders

    @property
    def waiting(self) -> int:
        """How many tasks wait for a slot."""
        return len(self._waiting)

    def _has_room(self) -> bool:
        return self._capacity is None or len(self._holders) < self._capacity

    def hold(self, task_id: str) -> None:
        """Take a slot whatever the limit: the task's job exists already (attached, or recovered after a restart)."""
        self._holders.add(task_id)

    def take(self, task_id: str, priority: int = 0) -> bool:
        """True when the task has a slot now; False when it is in the queue, where it keeps its place if asked again."""
        if task_id in self._waiting:
            return False
        if self._has_room() and not self._waiting:
            self._holders.add(task_id)
            return True
        arrival = self._waiting[task_id] = next(self._arrivals)
        heapq.heappush(self._queue, (-priority, arrival, task_id))
        return False

    def release(self, task_id: str) -> list[str]:
        """Give the slot back, or leave the queue. Returns who has a slot now that had none."""
        self._holders.discard(task_id)
        self._waiting.pop(task_id, None)
        return self._promote()

    def resize(self, capacity: int | None) -> list[str]:
        """Change the limit. Holders beyond a smaller one keep their slots. Returns who has a slot now."""
        self._capacity = capacity
        return self._promote()

    def _promote(self) -> list[str]:
        promoted = []
        while self._waiting and self._has_room():
            _, arrival, task_id = heapq.heappop(self._queue)
            if self._waiting.get(task_id) == arrival:  # those that left are still in the heap
                del self._waiting[task_id]
                self._holders.add(task_id)
                promoted.append(task_id)
        return promoted
