"""How often a provider may be asked, and when it is spared."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.core.limits import Breaker, Rate


def comes_at(rate: Rate, now: float) -> float:
    """When whoever asks now may go."""
    return now + rate.wait_s(rate.turn(now), now)


@given(st.floats(0.01, 1000), st.lists(st.floats(0, 10), min_size=2, max_size=50))
def test_turns_keep_their_distance(per_s: float, gaps: list[float]) -> None:
    """In the order of asking, never before one asks, and never two within one interval."""
    rate, now, turns = Rate(per_s), 0.0, []
    for gap in gaps:
        now += gap
        turns.append(comes_at(rate, now))
        assert turns[-1] >= now
    assert all(later - earlier >= (1 / per_s) * (1 - 1e-9) for earlier, later in pairwise(turns))


def test_whoever_comes_after_a_pause_goes_at_once() -> None:
    """A pause is not saved up: the next two are an interval apart all the same."""
    rate = Rate(2)
    assert [comes_at(rate, now) for now in (0, 100, 100, 100)] == [0, 100, 100.5, 101]


def test_without_a_rate_everybody_goes_at_once() -> None:
    """`per_s` None."""
    rate = Rate(None)
    assert not rate.limited
    assert [comes_at(rate, 5) for _ in range(3)] == [5, 5, 5]


def waits(rate: Rate, turns: list[int], now: float) -> list[float]:
    return [rate.wait_s(turn, now) for turn in turns]


def test_a_changed_rate_holds_for_those_who_wait() -> None:
    """Whoever had their turn has it still; the next comes one of the new intervals after the last."""
    rate = Rate(1)
    turns = [rate.turn(0) for _ in range(5)]
    rate.change(10, 1.5)
    assert waits(rate, turns, 1.5) == pytest.approx([0, 0, 0, 0.1, 0.2])
    rate.change(0.5, 1.5)
    assert waits(rate, turns, 1.5) == pytest.approx([0, 0, 0, 2, 4])
    rate.change(None, 2)
    assert waits(rate, turns, 2) == [0, 0, 0, 0, 0]


def test_a_rate_of_nothing_lets_nobody_go() -> None:
    """Until it is another, then in the order of asking."""
    rate = Rate(0)
    assert rate.limited
    turns = [rate.turn(7), rate.turn(8)]
    assert waits(rate, turns, 9) == [math.inf, math.inf]
    rate.change(2, 10)
    assert waits(rate, turns, 10) == [0, 0.5]
    rate.change(0, 10.2)
    assert waits(rate, turns, 10.2) == [0, math.inf]


def test_a_rate_that_nobody_has_asked_can_change() -> None:
    """As when the configuration is read again before the first task has come."""
    for before in (4, None, 0):
        rate = Rate(before)
        rate.change(2, 10)
        turns = [rate.turn(11), rate.turn(11)]
        assert waits(rate, turns, 11) == [0, 0.5]


def test_a_pause_does_not_make_up_for_a_turn() -> None:
    """Rates of 0 between two others leave the turn that came last in force."""
    rate = Rate(4)
    turns = [rate.turn(5), rate.turn(5), rate.turn(5)]
    rate.change(0, 5.1)
    rate.change(0.5, 5.1)
    rate.change(0, 5.2)
    rate.change(2, 5.2)
    assert waits(rate, turns[1:], 5.2) == pytest.approx([0.3, 0.8])


@given(st.lists(st.sampled_from([0, 0.5, 1, 4]) | st.floats(0.05, 0.4), min_size=1, max_size=40))
def test_no_change_brings_two_turns_together(steps: list[float]) -> None:
    """However the rate changes, those who go are never closer than the fastest rate allows."""
    rate, now, gone = Rate(4), 0.0, []
    waiting = [rate.turn(0) for _ in range(30)]
    for step in steps:
        if step in {0, 0.5, 1, 4}:
            rate.change(step, now)
        else:
            now += step
        while waiting and rate.wait_s(waiting[0], now) == 0:
            gone.append(now)
            waiting.pop(0)
    for number in range(len(gone) - 1):
        later = [at for at in gone if gone[number] <= at < gone[number] + 1]
        assert len(later) <= 5


def fail(breaker: Breaker, times: int, now: float = 0.0) -> list[bool]:
    return [breaker.failed(now) for _ in range(times)]


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    """And says so once; an answer in between begins the count anew."""
    breaker = Breaker(threshold=3)
    assert fail(breaker, 2) == [False, False]
    assert not breaker.answered()
    assert fail(breaker, 4) == [False, False, True, False]
    assert breaker.is_open


def test_while_it_is_open_one_asks_per_pause_and_the_pauses_grow() -> None:
    """Doubling, up to a limit."""
    breaker = Breaker(threshold=1, first_s=1, most_s=4)
    breaker.failed(0)
    now, asked = 0.0, []
    for _ in range(5):
        now += breaker.wait_s(now)
        assert breaker.wait_s(now) == 0
        asked.append(now)
        assert breaker.wait_s(now) > 0, "only one"
        breaker.failed(now)
    assert asked == [1, 3, 7, 11, 15]


def test_late_reports_do_not_lengthen_the_pause() -> None:
    """Hundreds may have been on their way when it opened."""
    breaker = Breaker(threshold=5, first_s=1)
    fail(breaker, 300, now=10)
    assert breaker.wait_s(10) == 1


def test_one_who_never_reports_keeps_the_others_for_one_pause_only() -> None:
    """It was cancelled."""
    breaker = Breaker(threshold=1, first_s=1)
    breaker.failed(0)
    assert breaker.wait_s(1) == 0
    assert breaker.wait_s(1.5) == 0.5
    assert breaker.wait_s(2) == 0


def test_the_first_answer_closes_it() -> None:
    """Whoever it comes from; from then on nobody waits, and the count begins anew."""
    breaker = Breaker(threshold=2)
    fail(breaker, 2)
    assert breaker.answered()
    assert not breaker.is_open
    assert breaker.calm
    assert breaker.wait_s(0) == 0
    assert fail(breaker, 1) == [False]


@pytest.mark.parametrize("seed", range(20))
def test_nobody_waits_longer_than_the_longest_pause(seed: int) -> None:
    """Whatever the order of asking, failing and answering."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    breaker = Breaker(threshold=2, first_s=1, most_s=15)
    now = 0.0
    for _ in range(2000):
        now += chance.random() * 3
        match chance.choice(["ask", "ask", "fail", "fail", "answer"]):
            case "ask":
                assert 0 <= breaker.wait_s(now) <= 15
            case "fail":
                breaker.failed(now)
            case _:
                breaker.answered()
                assert breaker.wait_s(now) == 0
