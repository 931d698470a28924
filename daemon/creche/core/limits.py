"""Limits as plain state machines: they say who may go and who is next; waiting is done elsewhere."""

from __future__ import annotations

import heapq
import itertools
import math
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
    def capacity(self) -> int | None:
        """How many slots there are."""
        return self._capacity

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


class Rate:
    """At most so many requests per second, evenly spaced, in the order of asking.

    This is the generic cell rate algorithm (ITU-T I.371) without a burst: what a provider counts in whichever window,
    it never counts more. `per_s` None means no limit, 0 that nobody may go until that changes. Times are of any clock
    that does not go back.
    """

    def __init__(self, per_s: float | None) -> None:
        self._interval_s = _interval_s(per_s)
        self._given = 0
        # Turns below `_coming` have come; that one comes at `_at`, each of the others an interval after the one before.
        self._coming = 0
        self._last = -math.inf  # when the last turn came that was there as the rate changed
        self._at = math.inf if self._interval_s == math.inf else -math.inf

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._interval_s > 0

    @property
    def per_s(self) -> float | None:
        """The rate; None where there is no limit."""
        return 1 / self._interval_s if self.limited else None

    def turn(self, now: float) -> int:
        """The turn of whoever asks now. It is taken: one that is not used is lost."""
        turn = self._given
        self._given += 1
        if self._comes_at(turn) < now:
            self._coming, self._at = turn, now
        return turn

    def wait_s(self, turn: int, now: float) -> float:
        """How long it is until a turn comes, as things stand."""
        return max(0.0, self._comes_at(turn) - now)

    def change(self, per_s: float | None, now: float) -> None:
        """Another rate from now on, also for those who wait."""
        interval_s = _interval_s(per_s)
        if interval_s == self._interval_s:
            return
        waiting = self._given - self._coming
        if waiting and now >= self._at:
            come = min(waiting, int((now - self._at) / self._interval_s) + 1) if self._interval_s else waiting
            self._last = self._at + (come - 1) * self._interval_s
            self._coming += come
        self._interval_s = interval_s
        self._at = math.inf if interval_s == math.inf else max(now, self._last + interval_s)

    def _comes_at(self, turn: int) -> float:
        ahead = turn - self._coming
        if ahead <= 0:
            return -math.inf if ahead else self._at
        return self._at + ahead * self._interval_s


def _interval_s(per_s: float | None) -> float:
    if per_s is None:
        return 0.0
    return 1 / per_s if per_s else math.inf


class Breaker:
    """Spares a provider that is away, and those who ask it: after `threshold` failures without one answer it is open.

    Then one at a time may ask, with pauses between that double from `first_s` up to `most_s`; the first answer closes
    it. What counts as a failure says the caller. Times are of any clock that does not go back.
    """

    def __init__(self, *, threshold: int = 5, first_s: float = 1.0, most_s: float = 15.0) -> None:
        self._threshold = threshold
        self._first_s = first_s
        self._most_s = most_s
        self._failures = 0
        self._pause_s = 0.0
        self._next = 0.0
        self._asked = False

    @property
    def is_open(self) -> bool:
        """Whether askers wait."""
        return self._pause_s > 0

    @property
    def calm(self) -> bool:
        """Whether there is nothing to forgive: an answer would change nothing."""
        return self._failures == 0

    def wait_s(self, now: float) -> float:
        """How long the asker has to wait before it asks this again. 0: it may go, and while open is the only one.

        One that was let go and never reports (it was cancelled) keeps the others waiting for one pause more.
        """
        if not self.is_open:
            return 0.0
        if now < self._next:
            return self._next - now
        self._next, self._asked = now + self._pause_s, True
        return 0.0

    def failed(self, now: float) -> bool:
        """Whoever asked got no answer. True when this opened the breaker."""
        self._failures += 1
        if not self.is_open:
            if self._failures < self._threshold:
                return False
            self._pause_s, self._next, self._asked = self._first_s, now + self._first_s, False
            return True
        if self._asked:  # else it is a late report of one that was on its way when the breaker opened
            self._pause_s = min(2 * self._pause_s, self._most_s)
            self._next, self._asked = now + self._pause_s, False
        return False

    def answered(self) -> bool:
        """Whoever asked got an answer: the provider is there. True when this closed the breaker."""
        was_open = self.is_open
        self._failures, self._pause_s = 0, 0.0
        return was_open
