"""Clocks that are set and machines that sleep: a deadline is as far away as it was, less the time that has passed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Succeeded, TimedOut
from creche.engine.clock import LOOK_EVERY_S, Clock, Jumps
from creche.errors import CreateUncertain
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, count, times

RUNNING = Reading(status=JobStatus.PROCESSING)
HOUR_S = 3600.0


async def minded(engine: Engine, provider: FakeProvider | None = None) -> FakeProvider:
    """One task that runs, ten seconds old."""
    provider = provider or FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=10)))
    await engine.submit()
    await trio.sleep_until(10)
    return provider


@pytest.mark.parametrize("set_by_s", [-86_400.0, -60.0, 60.0, 86_400.0])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_clock_that_is_set_moves_no_deadline(
    engine: Engine,
    autojump_clock: object,
    set_by_s: float,
    restart: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Neither the one that runs nor the one on disk."""
    await minded(engine)
    engine.clock_set_by_s += set_by_s
    await trio.sleep_until(1000)
    if restart:
        await engine.crash()
        await trio.sleep_until(2000)
        await engine.start()
    assert await engine.result() == TimedOut(after_s=HOUR_S)
    assert trio.current_time() == pytest.approx(HOUR_S, abs=1)


@pytest.mark.parametrize("sleep_s", [60.0, 1800.0])
async def test_the_time_of_a_suspend_counts(engine: Engine, autojump_clock: object, sleep_s: float) -> None:
    """The job at the provider did not sleep."""
    await minded(engine)
    engine.slept_s += sleep_s
    assert await engine.result() == TimedOut(after_s=HOUR_S)
    assert trio.current_time() + sleep_s == pytest.approx(HOUR_S, abs=1)


async def test_a_deadline_that_passed_in_a_suspend_gets_its_last_poll(engine: Engine, autojump_clock: object) -> None:
    """As one that passed while the daemon was away."""
    provider = await minded(engine)
    engine.slept_s += 2 * HOUR_S
    assert await engine.result() == TimedOut(after_s=HOUR_S)
    assert trio.current_time() <= 10 + LOOK_EVERY_S + 1
    assert times(provider)[-1] >= 10


async def test_a_set_clock_and_a_suspend_at_once(engine: Engine, autojump_clock: object) -> None:
    """They are told apart."""
    await minded(engine)
    engine.slept_s += 600
    engine.clock_set_by_s -= 7200
    assert await engine.result() == TimedOut(after_s=HOUR_S)
    assert trio.current_time() + 600 == pytest.approx(HOUR_S, abs=1)


async def test_a_task_that_begins_behind_a_jump(engine: Engine, autojump_clock: object) -> None:
    """Before anyone has noticed it: its deadline is moved along with it."""
    await minded(engine)
    engine.clock_set_by_s += 7200
    await engine.submit("u")
    await trio.sleep_until(100)
    await engine.crash()
    await engine.start()
    assert await engine.result("u") == TimedOut(after_s=HOUR_S)
    assert trio.current_time() == pytest.approx(HOUR_S + 10, abs=1)


async def test_a_task_that_begins_behind_a_suspend(engine: Engine, autojump_clock: object) -> None:
    """Before anyone has noticed it: it has its whole time."""
    await minded(engine)
    engine.slept_s += 1800
    await engine.submit("u")
    assert await engine.result("u") == TimedOut(after_s=HOUR_S)
    assert trio.current_time() == pytest.approx(10 + HOUR_S, abs=1)


@pytest.mark.parametrize("jump", ["slept_s", "clock_set_by_s"])
async def test_start_at_is_a_time_of_day(engine: Engine, autojump_clock: object, jump: str) -> None:
    """It has come when the clock says so, however that came about."""
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    start_at = datetime.fromtimestamp(engine.wall() + HOUR_S, UTC)
    await engine.submit(start_at=start_at)
    await trio.sleep_until(10)
    setattr(engine, jump, HOUR_S)
    assert isinstance(await engine.result(), Succeeded)
    assert times(provider, "create")[0] <= 10 + LOOK_EVERY_S


async def test_doubt_about_a_create_does_not_age_with_the_clock(engine: Engine, autojump_clock: object) -> None:
    """A clock that was set to tomorrow does not make the provider forget."""
    provider = FakeProvider(create=[CreateUncertain("lost"), CreateUncertain("lost"), RUNNING])
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=10)))
    await engine.submit()
    await trio.sleep_until(5)
    engine.clock_set_by_s += 86_400
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "create") == 3


async def test_the_clock_follows_what_drifts(autojump_clock: object) -> None:
    """Small differences are taken over without a word."""
    drift_s = 0.0
    clock = Clock(wall=lambda: 1000 + trio.current_time() + drift_s, uptime=trio.current_time)
    assert clock.look() == Jumps(0.0, 0.0)
    for _ in range(100):
        drift_s += 0.1
        await trio.sleep(5)
        assert clock.look() == Jumps(0.0, 0.0)
    assert clock.now() == pytest.approx(1000 + trio.current_time() + drift_s)
