"""Slots: how many jobs may be in flight."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from creche.core.limits import Slots


def test_slots_are_given_until_they_are_taken() -> None:
    """Then whoever asks waits."""
    slots = Slots(2)
    assert [slots.take(task) for task in "abc"] == [True, True, False]
    assert (slots.holders, slots.waiting) == ({"a", "b"}, 1)


def test_a_free_slot_goes_to_who_came_first() -> None:
    """In order of arrival."""
    slots = Slots(1)
    for task in "abc":
        slots.take(task)
    assert slots.release("a") == ["b"]
    assert slots.release("b") == ["c"]


def test_priority_comes_before_arrival() -> None:
    """Higher first."""
    slots = Slots(1)
    slots.take("a")
    slots.take("low", -1)
    slots.take("normal")
    slots.take("high", 5)
    assert [slots.release(task) for task in ("a", "high", "normal")] == [["high"], ["normal"], ["low"]]


def test_who_leaves_the_queue_is_passed_over() -> None:
    """A task that was cancelled while it waited gets no slot."""
    slots = Slots(1)
    for task in "abc":
        slots.take(task)
    assert slots.release("b") == []
    assert slots.release("a") == ["c"]


def test_a_job_that_exists_takes_a_slot_over_the_limit() -> None:
    """It is in flight, whatever the limit says; new ones wait until the number has come down."""
    slots = Slots(1)
    slots.hold("a")
    slots.hold("b")
    assert not slots.take("c")
    assert slots.release("a") == []
    assert slots.release("b") == ["c"]


@pytest.mark.parametrize("capacity", [3, None])
def test_a_larger_limit_lets_waiting_tasks_go(capacity: int | None) -> None:
    """At once, and the caller learns who."""
    slots = Slots(1)
    for task in "abc":
        slots.take(task)
    assert slots.resize(capacity) == ["b", "c"]


def test_a_smaller_limit_takes_nobody_s_slot() -> None:
    """Jobs in flight stay in flight."""
    slots = Slots(2)
    slots.take("a")
    slots.take("b")
    assert slots.resize(1) == []
    assert slots.holders == {"a", "b"}
    assert not slots.take("c")
    assert slots.release("a") == []


def test_without_a_limit_nobody_waits() -> None:
    """`capacity` None."""
    slots = Slots(None)
    assert all(slots.take(str(number)) for number in range(1000))


class SlotsWalk(RuleBasedStateMachine):
    """Random operations on one `Slots`, beside a plain model: who holds, who waits in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(2)
        self.capacity: int | None = 2
        self.holders: set[str] = set()
        self.queue: list[tuple[int, str]] = []
        self.names = iter(f"t{number}" for number in range(10_000))

    def _let_go(self, promoted: list[str]) -> None:
        expected = []
        while self.queue and (self.capacity is None or len(self.holders) < self.capacity):
            first = max(self.queue, key=lambda entry: entry[0])  # the first of the highest
            self.queue.remove(first)
            self.holders.add(first[1])
            expected.append(first[1])
        assert promoted == expected

    @rule(priority=st.integers(-2, 2))
    def take(self, priority: int) -> None:
        task = next(self.names)
        got = self.slots.take(task, priority)
        assert got == (not self.queue and (self.capacity is None or len(self.holders) < self.capacity))
        if got:
            self.holders.add(task)
        else:
            self.queue.append((priority, task))

    @rule()
    def hold(self) -> None:
        task = next(self.names)
        self.slots.hold(task)
        self.holders.add(task)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.holders)))
        self.holders.remove(task)
        self._let_go(self.slots.release(task))

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.queue))
        self.queue.remove(entry)
        self._let_go(self.slots.release(entry[1]))

    @rule(capacity=st.none() | st.integers(0, 5))
    def resize(self, capacity: int | None) -> None:
        self.capacity = capacity
        self._let_go(self.slots.resize(capacity))

    @invariant()
    def books_balance(self) -> None:
        assert self.slots.holders == self.holders
        assert self.slots.waiting == len(self.queue)


TestSlotsWalk = SlotsWalk.TestCase
