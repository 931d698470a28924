"""Polls that bring no news wake nobody; everything else does."""

from __future__ import annotations

import pytest
import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Job, ServerFailed, Status, Succeeded, TimedOut
from creche.engine import task_run
from creche.errors import AnswerError, JobNotFound, Outage
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, Lasting, count, submit_all, times, waits

RUNNING = Reading(status=JobStatus.PROCESSING, progress=0.5)


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When polling children asked by themselves."""
    moments: list[float] = []
    poll_once = task_run._PollingChild._poll_once

    async def note(child: task_run._PollingChild, *, alone: bool = False) -> object:
        moments.append(round(trio.current_time(), 1))
        return await poll_once(child, alone=alone)

    monkeypatch.setattr(task_run._PollingChild, "_poll_once", note)
    return moments


async def test_a_poll_without_news_wakes_nobody(engine: Engine, autojump_clock: object, woken: list[float]) -> None:
    """The provider is asked in its rhythm all the same, and the polls are counted; the end is news."""
    provider = Lasting(100)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert 30 <= count(provider, "poll") <= 35
    assert set(waits(provider)) <= {3.0, 3.1}
    assert len(woken) == 2
    assert engine.tools.counts["polls", "draw", "good"] == count(provider, "poll")


@pytest.mark.parametrize(
    "news", [Reading(status=JobStatus.PROCESSING, progress=0.6), Reading(status=JobStatus.PAUSED, progress=0.5)]
)
async def test_any_change_is_news(engine: Engine, autojump_clock: object, woken: list[float], news: Reading) -> None:
    """It is in the record when the poll is over, and the provider is not asked twice for it."""
    provider = FakeProvider(poll=[RUNNING, RUNNING, news, news])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(8)
    task = await engine.supervisor.get("t")
    assert (task.status, task.progress) == (Status(news.status.value), news.progress)
    assert times(provider) == [0, 3, 6]
    assert len(woken) == 2


async def test_an_error_is_news_and_is_told_once(engine: Engine, autojump_clock: object, woken: list[float]) -> None:
    """It counts as it would for a child that had waited; the answer after it forgives it."""
    provider = FakeProvider(poll=[RUNNING, AnswerError("500"), RUNNING, *[AnswerError("500")] * 5])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == ServerFailed(failures=5, message="500")
    assert engine.tools.counts["polls", "draw", "answer_error"] == 6


async def test_an_outage_under_many_is_noticed_and_over(engine: Engine, autojump_clock: object) -> None:
    """The condition shows, and after the first answer it is gone."""

    async def answer(_: Job) -> Reading:
        if 10 <= trio.current_time() < 100:
            raise Outage("away")
        return RUNNING

    await engine.start(engine.algorithm(FakeProvider(poll=[answer])))
    names = [f"t{number}" for number in range(20)]
    await submit_all(engine, names)
    await trio.sleep_until(90)
    assert {engine.condition(name) for name in names} == {"unreachable"}
    await trio.sleep_until(100 + 15 + 2 * 3)
    assert {engine.condition(name) for name in names} == {None}


async def test_a_cancel_reaches_the_provider_at_once(engine: Engine, autojump_clock: object) -> None:
    """Though the child has slept through all polls, and one is on the wire at this moment, whose answer is not lost."""
    on_the_wire = trio.Event()

    async def slowly(_: Job) -> Reading:
        if trio.current_time() > 50:
            on_the_wire.set()
            await trio.sleep(2)
            return Reading(status=JobStatus.CANCELLED)
        return RUNNING

    provider = FakeProvider(poll=[slowly])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await on_the_wire.wait()
    asked = count(provider, "poll")
    await engine.supervisor.cancel("t")
    await trio.sleep(0.1)
    assert count(provider, "cancel") == 1
    assert await engine.result() == Cancelled(reason="client")
    assert count(provider, "poll") == asked


async def test_the_deadline_ends_a_poll_on_the_wire(engine: Engine, autojump_clock: object) -> None:
    """The last poll is a new one; nobody hears of the old."""
    asked = 0

    async def never_again(_: Job) -> Reading:
        nonlocal asked
        asked += 1
        if asked > 1 and trio.current_time() < 59:
            await trio.sleep_forever()
        return RUNNING

    await engine.start(engine.algorithm(FakeProvider(poll=[never_again]), deadline_s=60.0))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=60.0)
    assert asked == 3


async def test_a_reload_reaches_children_that_sleep_through(engine: Engine, autojump_clock: object) -> None:
    """The old provider is not asked any more, though its last answer is still awaited."""

    async def slowly(_: Job) -> Reading:
        await trio.sleep(1)
        return RUNNING

    old, new = FakeProvider(poll=[slowly]), FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(old))
    await engine.submit()
    await trio.sleep_until(20.5)
    engine.supervisor.reload({"draw": engine.algorithm(new, rhythm=Rhythm(every_s=5))})
    await trio.sleep_until(24.5)
    asked = count(old, "poll")
    await trio.sleep_until(60)
    assert count(old, "poll") == asked
    assert count(new, "poll") >= 7


async def test_a_stop_leaves_no_poll_behind(engine: Engine, autojump_clock: object) -> None:
    """Answers that come after it meet nobody."""

    async def slowly(_: Job) -> Reading:
        await trio.sleep(2)
        return RUNNING

    provider = FakeProvider(poll=[slowly])
    await engine.start(engine.algorithm(provider))
    await submit_all(engine, [f"t{number}" for number in range(20)])
    await trio.sleep_until(31)
    await engine.stop()
    before = count(provider, "poll")
    await trio.sleep(20)
    assert count(provider, "poll") == before
    assert trio.lowlevel.current_statistics().tasks_living < 12


async def test_a_job_that_vanishes_is_lost(engine: Engine, autojump_clock: object) -> None:
    """An error of its own kind, after a thousand polls that said nothing new."""
    provider = FakeProvider(poll=[*[RUNNING] * 100, JobNotFound("404")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    outcome = await engine.result()
    assert getattr(outcome, "reason", None) == "job_lost"


async def test_a_defect_behind_a_poll_is_the_task_s_own(
    engine: Engine, autojump_clock: object, errors_logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, the task is minded again, and the others go on."""
    slips = iter([True])

    def slip(_: object) -> None:
        if next(slips, False):
            raise KeyError("a slip of ours")

    await engine.start(engine.algorithm(Lasting(100)))
    await submit_all(engine, ["a", "b"])
    await trio.sleep_until(20)
    monkeypatch.setattr(task_run._PollingChild, "_note_good", slip)
    await trio.sleep_until(40)
    assert len(errors_logged) == 1
    assert {type(await engine.result(name)) for name in "ab"} == {Succeeded}
