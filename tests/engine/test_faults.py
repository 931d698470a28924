"""A store that is away, and defects of our own: what they do to tasks, and what they do not."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
import trio
import trio.testing

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, ServerFailed, Status, Succeeded, Task, TimedOut
from creche.errors import StoreUnavailable, WrongStatus
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, Lasting, count, times, until

RUNNING = Reading(status=JobStatus.PROCESSING)
QUEUED = Reading(status=JobStatus.WAITING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))
STOPPED = Reading(status=JobStatus.CANCELLED)


# -- the store is away ---------------------------------------------------------------------------------


async def test_without_a_store_nothing_is_accepted(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """Nothing starts; when it is back, the same submit is taken."""
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    engine.store.failing = True
    with pytest.raises(StoreUnavailable):
        await engine.submit()
    await trio.sleep(100)
    assert provider.calls == []
    faults = [engine.journal.fault]
    engine.store.failing = False
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    faults.append(engine.journal.fault)
    assert faults == ["the store was told to fail", None]
    assert len(errors_logged) == 1


async def test_an_outcome_waits_for_the_store(engine: Engine, autojump_clock: object, errors_logged: list[str]) -> None:
    """However long; nobody hears of it before it is durable, and then once."""
    await engine.start(engine.algorithm(until(10, RUNNING, DONE), deadline_s=100))
    reader = engine.feed.reader(None, lambda _: True)
    await engine.submit()
    await trio.sleep_until(5)
    engine.store.failing = True
    await trio.sleep_until(1000)
    assert await reader.next_nowait() == []
    assert (await engine.supervisor.wait("t", 10)).status is Status.PROCESSING
    engine.store.failing = False
    assert isinstance(await engine.result(within_s=3), Succeeded)
    await trio.sleep(100)
    assert engine.feed_ids() == ["t"]
    assert [item.task.id for item in await reader.next_nowait()] == ["t"]
    assert len(errors_logged) == 1


async def test_a_cancel_that_cannot_be_written_is_not_promised(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """The client is told so, each time it asks; when the store is back the next cancel is durable."""
    await engine.start(engine.algorithm(FakeProvider(poll=[*[RUNNING] * 12, STOPPED])))
    await engine.submit()
    await trio.sleep_until(4)
    engine.store.failing = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await engine.supervisor.cancel("t")
    engine.store.failing = False
    await engine.supervisor.cancel("t")
    assert engine.stored().cancel_reason == "client"
    assert await engine.result() == Cancelled(reason="client")
    assert len(errors_logged) == 1


async def test_a_cancel_that_could_not_be_written_is_passed_on_once_it_is(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """The client was told that nothing is promised; a wish that stands is not left half done, though."""
    provider = FakeProvider(poll=[*[RUNNING] * 8, STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        engine.store.failing = True

    before, engine.around_io = engine.around_io, fail  # behind the probe that a cancel begins with
    with pytest.raises(StoreUnavailable):
        await engine.supervisor.cancel("t")
    engine.around_io = before
    await trio.sleep_until(11)
    assert (len(times(provider)) > 2, count(provider, "cancel")) == (True, 0)
    engine.store.failing = False
    assert await engine.result() == Cancelled(reason="client")
    assert engine.stored().cancel_reason == "client"
    assert count(provider, "cancel") == 1
    assert len(errors_logged) == 1


async def test_a_retried_write_does_not_take_back_a_cancel(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """The job's id could not be written, then a cancel could: what is on disk in the end has both."""

    async def create(_: Task) -> Reading:
        engine.store.failing = True
        return QUEUED

    await engine.start(engine.algorithm(FakeProvider(create=[create], poll=[QUEUED]), rhythm=Rhythm(first_s=60)))
    await engine.submit()
    await trio.sleep_until(1.5)
    engine.store.failing = False
    await engine.supervisor.cancel("t")
    assert engine.stored().cancel_reason == "client"
    await trio.sleep_until(30)
    assert engine.stored().cancel_reason == "client"
    assert engine.stored().job is not None
    assert len(errors_logged) == 1


async def test_a_task_that_ends_while_its_cancel_is_written_keeps_its_end(
    engine: Engine, autojump_clock: object
) -> None:
    """The cancel came too late, and says so."""
    answer = trio.Event()
    await engine.start(engine.algorithm(until(6, RUNNING, DONE)))
    await engine.submit()
    await trio.sleep_until(5)
    before, engine.around_io = engine.around_io, answer.wait
    await trio.sleep_until(7)
    async with trio.open_nursery() as client:
        client.start_soon(cancel_too_late, engine)
        await trio.testing.wait_all_tasks_blocked()
        engine.around_io = before
        answer.set()
    assert isinstance(await engine.result(), Succeeded)
    assert engine.stored().cancel_reason is None


async def cancel_too_late(engine: Engine) -> None:
    """Cancel, and be refused or told the end."""
    with contextlib.suppress(WrongStatus):
        assert (await engine.supervisor.cancel("t")).status is Status.SUCCEEDED


# -- the error boundary --------------------------------------------------------------------------------


async def test_a_defect_once_is_survived(engine: Engine, autojump_clock: object, errors_logged: list[str]) -> None:
    """It is logged with the task's id, and the task goes on."""
    provider = FakeProvider(poll=[RUNNING, RuntimeError("boom"), DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert len(errors_logged) == 1
    assert errors_logged[0].startswith("t: ")


async def test_five_defects_in_a_row_end_their_task_alone(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """`server_failed` with the reason `internal`; the others are unharmed."""
    await engine.start(
        engine.algorithm(FakeProvider(poll=[RuntimeError("boom")])), engine.algorithm(Lasting(100), "paint")
    )
    await engine.submit("ill")
    await engine.submit("well", algorithm="paint")
    outcome = await engine.result("ill")
    assert isinstance(outcome, ServerFailed)
    assert (outcome.failures, outcome.reason) == (5, "internal")
    assert isinstance(await engine.result("well"), Succeeded)
    assert len(errors_logged) == 5
    assert engine.supervisor.roster.slots("draw").holders == set()
    assert engine.feed_ids() == ["ill", "well"]


async def test_good_answers_between_defects_forgive_them(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """Only those in a row count: five in an hour, each survived, end nothing."""
    steps: list[Reading | Exception] = [RUNNING, RuntimeError("boom")]
    provider = FakeProvider(poll=[*steps * 8, DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert len(errors_logged) == 8


async def test_a_defect_in_a_create_makes_no_second_job(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """Nobody knows how far it came: it is as uncertain as a lost answer."""
    provider = FakeProvider(create=[RuntimeError("boom"), DONE], repeat="none")
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert (await engine.at_rest()).status is Status.UNKNOWN
    assert len(provider.calls) == 1
    assert len(errors_logged) == 1


async def test_a_defect_does_not_stretch_the_deadline(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """It is the task's, not the child's."""
    provider = FakeProvider(poll=[RuntimeError("boom"), RUNNING])
    await engine.start(engine.algorithm(provider, deadline_s=100))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=100)
    assert trio.current_time() == pytest.approx(100, abs=0.1)
    assert len(errors_logged) == 1
