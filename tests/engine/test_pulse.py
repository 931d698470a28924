"""The pulse, with heartbeats in memory and a clock that jumps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import trio
import trio.testing

from creche.engine.pulse import BEAT_EVERY_S, Pulse
from creche.errors import HeartbeatsUnreachable


class Beats:
    """Heartbeats that remember; unreachable while `away`, and each beat takes `takes_s`."""

    def __init__(self) -> None:
        self.calls: list[tuple[set[str], set[str], dict[str, int], float]] = []
        self.times: list[float] = []
        self.away = False
        self.takes_s = 0.0

    async def beat(self, *, alive: Sequence[str], ended: Sequence[str], active: Mapping[str, int], now: float) -> None:
        self.times.append(trio.current_time())
        await trio.sleep(self.takes_s)
        if self.away:
            raise HeartbeatsUnreachable("cannot reach it")
        self.calls.append((set(alive), set(ended), dict(active), now))

    async def aclose(self) -> None:
        """Nothing to close."""


def wall() -> float:
    return 1000.0 + trio.current_time()


async def test_it_beats_every_two_seconds(nursery: trio.Nursery, autojump_clock: object) -> None:
    """At once, and then in a rhythm that the length of a beat does not shift."""
    beats = Beats()
    beats.takes_s = 0.7
    start = trio.current_time()
    await nursery.start(Pulse(beats, wall=wall).run)
    await trio.sleep(7)
    assert [time - start for time in beats.times] == pytest.approx([0.0, 2.0, 4.0, 6.0])


async def test_beats_missed_in_a_stall_are_not_made_up(nursery: trio.Nursery, autojump_clock: object) -> None:
    """One beat at once, and then the rhythm again."""
    beats = Beats()
    beats.takes_s = 5.0
    start = trio.current_time()
    await nursery.start(Pulse(beats, wall=wall).run)
    await trio.sleep(1)
    beats.takes_s = 0.0
    await trio.sleep(9)
    assert [time - start for time in beats.times] == pytest.approx([0.0, 5.0, 7.0, 9.0])


async def test_it_beats_for_who_is_in(autojump_clock: object) -> None:
    """A task is in as long as its heartbeat child lives, and is counted under its algorithm."""
    beats = Beats()
    pulse = Pulse(beats, wall=wall)
    async with trio.open_nursery() as nursery:
        for task, algorithm in (("t1", "draw"), ("t2", "draw"), ("t3", "sing")):
            nursery.start_soon(pulse.beat_while_alive, task, algorithm)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pulse) == 3
        await pulse.beat()
        nursery.cancel_scope.cancel()
    assert len(pulse) == 0
    await pulse.beat()
    assert [call[:3] for call in beats.calls] == [
        ({"t1", "t2", "t3"}, set(), {"draw": 2, "sing": 1}),
        (set(), set(), {}),
    ]


async def test_an_ended_task_is_removed_once() -> None:
    """The next beat takes its key away; later ones need not."""
    beats = Beats()
    pulse = Pulse(beats, wall=wall)
    pulse.end("t1")
    await pulse.beat()
    await pulse.beat()
    assert [call[1] for call in beats.calls] == [{"t1"}, set()]


async def test_what_could_not_be_removed_is_removed_later() -> None:
    """Redis was away when the task ended."""
    beats = Beats()
    pulse = Pulse(beats, wall=wall)
    pulse.end("t1")
    beats.away = True
    await pulse.beat()
    pulse.end("t2")
    beats.away = False
    await pulse.beat()
    assert [call[1] for call in beats.calls] == [{"t1", "t2"}]


async def test_a_task_that_ends_during_a_beat_is_removed_by_the_next(autojump_clock: object) -> None:
    """The beat on its way does not know of it."""
    beats = Beats()
    beats.takes_s = 1.0
    pulse = Pulse(beats, wall=wall)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.beat)
        await trio.sleep(0.5)
        pulse.end("t1")
    await pulse.beat()
    assert [call[1] for call in beats.calls] == [set(), {"t1"}]


async def test_an_unreachable_redis_only_skips_beats(nursery: trio.Nursery, autojump_clock: object) -> None:
    """The fault shows while it lasts; beats resume by themselves."""
    beats = Beats()
    beats.away = True
    pulse = Pulse(beats, wall=wall)
    await nursery.start(pulse.run)
    await trio.sleep(5)
    faults = [pulse.fault]
    beats.away = False
    await trio.sleep(BEAT_EVERY_S)
    faults.append(pulse.fault)
    assert faults == ["cannot reach it", None]
    assert len(beats.calls) == 1


async def test_without_redis_the_times_are_kept_here(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Entering counts as the first beat; who is not alive has none."""
    pulse = Pulse(None, wall=wall)
    await nursery.start(pulse.run)
    await trio.sleep(1)
    nursery.start_soon(pulse.beat_while_alive, "t1", "draw")
    await trio.testing.wait_all_tasks_blocked()
    entered = wall()
    assert pulse.last_beat("t1") == pytest.approx(entered)
    await trio.sleep(4.5)
    assert pulse.last_beat("t1") == pytest.approx(entered + 3)
    assert pulse.last_beat("t2") is None
