"""The timetable on a clock that jumps."""

from __future__ import annotations

import math
from functools import partial

import pytest
import trio
import trio.testing

from creche.engine.timetable import TICK_S, Alarm, Timetable


@pytest.fixture
async def timetable(nursery: trio.Nursery) -> Timetable:
    """A timetable that runs."""
    table = Timetable()
    await nursery.start(table.run)
    return table


@pytest.mark.parametrize("seconds", [0.0, 0.001, 3.0, 3600.0, 400 * 86400.0])
async def test_a_sleep_lasts_as_long_as_asked(seconds: float, timetable: Timetable, autojump_clock: object) -> None:
    """Never shorter, and at most a tick longer."""
    start = trio.current_time()
    await timetable.alarm().sleep(seconds)
    assert seconds <= trio.current_time() - start <= seconds + TICK_S + 1e-6


async def test_a_time_that_has_passed_is_due_at_once(timetable: Timetable, autojump_clock: object) -> None:
    """A negative wait is no error."""
    start = trio.current_time()
    await timetable.alarm().sleep(-5.0)
    assert trio.current_time() - start <= TICK_S


async def test_sleepers_wake_in_the_order_of_their_times(timetable: Timetable, autojump_clock: object) -> None:
    """Whatever the order in which they went to sleep; an earlier one shortens the wait for a later one."""
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await timetable.alarm().sleep(seconds)
        woken.append(seconds)

    async with trio.open_nursery() as nursery:
        for seconds in (5.0, 1.0, 3.0, 2.0, 4.0):
            nursery.start_soon(sleeper, seconds)
            await trio.testing.wait_all_tasks_blocked()
    assert woken == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_thousands_that_are_due_together_all_wake(timetable: Timetable, autojump_clock: object) -> None:
    """None is lost in the heap, and none is late."""
    late_s: list[float] = []

    async def sleeper(number: int) -> None:
        due = trio.current_time() + 1 + number % 7 / 10_000
        await timetable.alarm().sleep(due - trio.current_time())
        late_s.append(trio.current_time() - due)

    async with trio.open_nursery() as nursery:
        for number in range(2000):
            nursery.start_soon(sleeper, number)
    assert len(late_s) == 2000
    assert min(late_s) >= -1e-9
    assert max(late_s) <= TICK_S + 1e-6


async def test_a_ring_wakes_the_sleeper(timetable: Timetable, autojump_clock: object) -> None:
    """Early, and also out of a sleep without end."""
    alarm = timetable.alarm()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.sleep, math.inf)
        await trio.sleep(2)
        alarm.ring()
    assert trio.current_time() - start == pytest.approx(2)


async def test_a_ring_before_the_sleep_is_not_lost(timetable: Timetable, autojump_clock: object) -> None:
    """The next sleep returns at once, and only that one, however often it rang."""
    alarm = timetable.alarm()
    alarm.ring()
    alarm.ring()
    start = trio.current_time()
    await alarm.sleep(100.0)
    assert trio.current_time() == start
    await alarm.sleep(1.0)
    assert trio.current_time() - start >= 1.0


async def test_an_old_time_does_not_wake_a_new_sleep(timetable: Timetable, autojump_clock: object) -> None:
    """Neither that of a sleep that was rung early, nor that of one that was cancelled."""
    alarm = timetable.alarm()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.sleep, 3.0)
        await trio.testing.wait_all_tasks_blocked()
        alarm.ring()
    with trio.move_on_after(1):
        await alarm.sleep(4.0)
    await alarm.sleep(10.0)
    assert trio.current_time() - start == pytest.approx(11.0, abs=2 * TICK_S)


async def test_a_cancelled_sleeper_leaves_nothing_behind(timetable: Timetable, autojump_clock: object) -> None:
    """A ring after it is kept for the next sleep."""
    alarm = timetable.alarm()
    with trio.move_on_after(1):
        await alarm.sleep(math.inf)
    alarm.ring()
    with trio.fail_after(1):
        await alarm.sleep(math.inf)


async def test_a_sleep_is_a_checkpoint_even_when_it_returns_at_once(timetable: Timetable) -> None:
    """A loop of rung sleeps can be cancelled."""
    alarm = timetable.alarm()
    with trio.CancelScope() as scope:
        scope.cancel()
        alarm.ring()
        await alarm.sleep(math.inf)
    assert scope.cancelled_caught


async def test_alarms_need_no_running_timetable_to_be_rung(autojump_clock: object) -> None:
    """Ringing is a matter between two tasks."""
    alarm: Alarm = Timetable().alarm()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.sleep, 100.0)
        await trio.testing.wait_all_tasks_blocked()
        alarm.ring()


async def test_something_else_may_be_done_instead_of_waking(timetable: Timetable, autojump_clock: object) -> None:
    """The sleeper sleeps on, as often as there is something to do, and for as long as it takes."""
    alarm, times = timetable.alarm(), []

    def instead() -> bool:
        times.append(round(trio.current_time(), 1))
        if len(times) == 1:
            alarm.go_on(5.0)
        elif len(times) == 2:
            nursery.start_soon(later)
        return len(times) < 3

    async def later() -> None:
        await trio.sleep(10)
        alarm.go_on(5.0)

    async with trio.open_nursery() as nursery:
        await alarm.sleep(3.0, instead=instead)
    assert times == [3.0, 8.0, 23.0]


async def test_what_is_done_instead_may_end_with_a_ring(timetable: Timetable, autojump_clock: object) -> None:
    """Or be cancelled, or go on when nobody sleeps any more: nothing is left behind."""
    alarm = timetable.alarm()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: alarm.sleep(1.0, instead=lambda: True))
        await trio.sleep(5)
        alarm.ring()
    with trio.move_on_after(5):
        await alarm.sleep(1.0, instead=lambda: True)
    alarm.go_on(1.0)
    start = trio.current_time()
    await alarm.sleep(3.0)
    assert trio.current_time() - start == pytest.approx(3.0, abs=TICK_S)


async def test_a_defect_of_what_is_done_instead_is_the_sleeper_s(timetable: Timetable, autojump_clock: object) -> None:
    """It is raised there, and the timetable goes on."""

    def slip() -> bool:
        raise KeyError("a slip of ours")

    alarm = timetable.alarm()
    with pytest.raises(KeyError, match="a slip of ours"):
        await alarm.sleep(1.0, instead=slip)
    await alarm.sleep(1.0)
    alarm.ring(KeyError("unheard"))
    await alarm.sleep(1.0)


async def test_a_sleep_can_be_hastened_but_not_drawn_out(timetable: Timetable, autojump_clock: object) -> None:
    """And then it ends, whatever was to be done instead; where nobody sleeps nothing happens."""
    alarm = timetable.alarm()
    alarm.hasten(0.0)
    for hasten_s, end_s, stays in ((2.0, 3.0, True), (100.0, 10.0, False)):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(alarm.sleep, 10.0, instead=partial(bool, stays)))
            await trio.sleep(1)
            alarm.hasten(hasten_s)
        assert trio.current_time() - start == pytest.approx(end_s, abs=2 * TICK_S)


@pytest.mark.parametrize(
    ("seconds", "step_s"), [(3600.0, 0.04), (3.0, 0.04), (1.0, 0.01), (0.1, 0.00125), (0.0, 0.000625)]
)
def test_short_sleeps_have_finer_steps(seconds: float, step_s: float) -> None:
    """A sixtieth of the sleep at most, so that a fast rhythm stays one."""
    assert Timetable().step_of(seconds) == pytest.approx(step_s)


async def test_some_hundreds_of_sleepers_share_every_other_moment(timetable: Timetable, autojump_clock: object) -> None:
    """Fewer would not meet, and more meet without."""
    steps = []
    async with trio.open_nursery() as nursery:
        for number in range(2000):
            if number in {100, 500, 1999}:
                steps.append(timetable.step_of(3.0) / TICK_S)
            nursery.start_soon(timetable.alarm().sleep, 3.0)
            await trio.lowlevel.checkpoint()
    assert steps == [1, 2, 1]


async def test_thousands_of_early_rings_leave_no_lists_behind(timetable: Timetable, autojump_clock: object) -> None:
    """A task that is rung again and again before its time must not fill the memory."""
    alarm = timetable.alarm()
    for _ in range(5000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarm.sleep, 1000.0)
            await trio.lowlevel.checkpoint()
            alarm.ring()
    assert timetable._entries <= 2001
