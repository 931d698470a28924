"""Cancel: of a job that runs, and around the create that makes it."""

from __future__ import annotations

import msgspec
import pytest
import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Status, Succeeded, Task, TimedOut
from creche.errors import AnswerError, JobNotFound, Outage, Throttled, WrongStatus
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, count, times, until

RUNNING = Reading(status=JobStatus.PROCESSING, provider_status="running")
DONE = Reading(status=JobStatus.SUCCEEDED, provider_status="done", result=msgspec.Raw(b"7"))
STOPPED = Reading(status=JobStatus.CANCELLED, provider_status="canceled")
MADE = Reading(status=JobStatus.WAITING)


# -- once there is a job -------------------------------------------------------------------------------


async def test_a_cancel_is_durable_before_it_is_answered(engine: Engine, autojump_clock: object) -> None:
    """With its reason; the status says that it is under way."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    await engine.submit()
    await trio.sleep_until(4)
    answered = await engine.supervisor.cancel("t")
    stored = engine.stored()
    assert (answered.status, answered.cancel_reason) == (Status.CANCELLING, "client")
    assert (stored.status, stored.cancel_reason) == (Status.CANCELLING, "client")


async def test_a_cancel_goes_to_the_provider_at_once(engine: Engine, autojump_clock: object) -> None:
    """Not at the next poll; and its end is what the provider then says."""
    provider = FakeProvider(poll=[RUNNING, RUNNING, STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.supervisor.cancel("t")
    assert await engine.result() == Cancelled(reason="client")
    assert times(provider, "cancel") == [4]
    assert times(provider)[-1] == 4


async def test_the_provider_hears_of_a_cancel_when_it_is_on_disk(engine: Engine, autojump_clock: object) -> None:
    """Not before, however slow the disk: after a crash nobody would know who had it cancelled."""
    provider = FakeProvider(poll=[*[RUNNING] * 6, STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    before, slow = engine.around_io, trio.Event()
    engine.around_io = slow.wait
    async with trio.open_nursery() as client:
        client.start_soon(engine.supervisor.cancel, "t")
        await trio.sleep_until(8)
        assert count(provider, "cancel") == 0
        assert times(provider)[-1] > 4
        engine.around_io = before
        slow.set()
    assert await engine.result() == Cancelled(reason="client")
    assert times(provider, "cancel") == [8]


async def test_a_cancel_is_sent_until_the_provider_agrees(engine: Engine, autojump_clock: object) -> None:
    """Errors do not end it; an agreement does."""
    provider = FakeProvider(
        poll=[RUNNING] * 8 + [STOPPED], cancel=[Outage("away"), AnswerError("500"), Throttled("429"), True]
    )
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.supervisor.cancel("t")
    assert await engine.result() == Cancelled(reason="client")
    assert times(provider, "cancel") == [4, 7, 10, 13]


async def test_the_provider_s_true_end_is_reported(engine: Engine, autojump_clock: object) -> None:
    """A job that succeeded despite the cancel has succeeded."""
    provider = until(10, RUNNING, DONE)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.supervisor.cancel("t")
    assert await engine.result() == Succeeded(result=msgspec.Raw(b"7"))
    assert engine.stored().cancel_reason == "client"


async def test_a_refused_cancel_is_noted(engine: Engine, autojump_clock: object) -> None:
    """It is not asked again; the job is minded to its own end."""
    provider = FakeProvider(poll=[*[RUNNING] * 20, DONE], cancel=[False])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.supervisor.cancel("t")
    await trio.sleep_until(20)
    assert "does not cancel" in (await engine.supervisor.get("t")).note
    assert isinstance(await engine.result(), Succeeded)
    assert times(provider, "cancel") == [4]


async def test_a_provider_that_contradicts_itself_is_not_believed(engine: Engine, autojump_clock: object) -> None:
    """It refused the cancel and then says cancelled: it is asked on until it says something else."""
    provider = FakeProvider(poll=[RUNNING, RUNNING, STOPPED, STOPPED, DONE], cancel=[False])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.supervisor.cancel("t")
    assert await engine.result() == Succeeded(result=msgspec.Raw(b"7"))


async def test_a_provider_may_forget_what_it_has_cancelled(engine: Engine, autojump_clock: object) -> None:
    """A job that is not known any more after an agreed cancel is cancelled, not lost."""
    provider = FakeProvider(poll=[RUNNING, RUNNING, JobNotFound("HTTP 404")])
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=20)))
    await engine.submit()
    await trio.sleep_until(30)
    await engine.supervisor.cancel("t")
    assert await engine.result() == Cancelled(reason="client")


async def test_a_job_cancelled_over_there_says_so(engine: Engine, autojump_clock: object) -> None:
    """Nobody asked for it here."""
    await engine.start(engine.algorithm(FakeProvider(poll=[STOPPED])))
    await engine.submit()
    assert await engine.result() == Cancelled(reason="provider")


async def test_cancelling_again_changes_nothing(engine: Engine, autojump_clock: object) -> None:
    """The same answer, and one request; also when it has been cancelled."""
    provider = FakeProvider(poll=[*[RUNNING] * 5, STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(1)
    first = await engine.supervisor.cancel("t")
    again = await engine.supervisor.cancel("t")  # the provider has answered to the first meanwhile
    assert msgspec.structs.replace(again, answers=first.answers) == first
    await trio.sleep_until(2)
    assert (await engine.supervisor.cancel("t")).status is Status.CANCELLING
    ended = await engine.at_rest()
    assert await engine.supervisor.cancel("t") == ended
    assert len(times(provider, "cancel")) == 1


@pytest.mark.parametrize("end", [DONE, Reading(status=JobStatus.FAILED, message="no")])
async def test_what_has_ended_otherwise_cannot_be_cancelled(
    engine: Engine, autojump_clock: object, end: Reading
) -> None:
    """And says how it ended."""
    await engine.start(engine.algorithm(FakeProvider(poll=[end])))
    await engine.submit()
    ended = await engine.at_rest()
    with pytest.raises(WrongStatus, match=ended.status):
        await engine.supervisor.cancel("t")


async def test_a_cancel_that_is_never_agreed_to_ends_with_the_deadline(engine: Engine, autojump_clock: object) -> None:
    """Nothing waits for ever."""
    provider = FakeProvider(poll=[RUNNING], cancel=[Outage("away")])
    await engine.start(engine.algorithm(provider, deadline_s=60))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.supervisor.cancel("t")
    assert await engine.result() == TimedOut(after_s=60)


# -- around the create ---------------------------------------------------------------------------------


async def test_a_cancel_before_the_create_needs_no_provider(engine: Engine, autojump_clock: object) -> None:
    """Nothing was sent, nothing will be."""
    provider = FakeProvider(create=[Throttled("busy", retry_after_s=1000)])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(10)
    await engine.supervisor.cancel("t")
    assert await engine.result(within_s=1) == Cancelled(reason="client")
    assert [call.method for call in provider.calls] == ["create"]


async def test_a_cancel_while_the_create_is_on_the_wire(engine: Engine, autojump_clock: object) -> None:
    """The create is not cut; when the job is known it is cancelled, and its own end is reported."""
    answer = trio.Event()

    async def create(_: Task) -> Reading:
        await answer.wait()
        return MADE

    provider = FakeProvider(create=[create], poll=[STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(5)
    answered = await engine.supervisor.cancel("t")
    assert (answered.status, answered.cancel_reason) == (Status.CREATING, "client")
    assert engine.stored().cancel_reason == "client"
    await trio.sleep_until(10)
    assert count(provider, "cancel") == 0
    answer.set()
    assert await engine.result() == Cancelled(reason="client")
    assert [call.method for call in provider.calls] == ["create", "cancel", "poll"]


async def test_a_cancel_on_the_wire_survives_a_crash(engine: Engine, autojump_clock: object) -> None:
    """The create is repeated to learn the job, which is then cancelled."""

    async def create(_: Task) -> Reading:
        if trio.current_time() < 20:
            await trio.sleep_forever()
        return MADE

    provider = FakeProvider(create=[create], poll=[STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(5)
    await engine.supervisor.cancel("t")
    await engine.crash()
    await trio.sleep_until(30)
    await engine.start()
    assert await engine.result() == Cancelled(reason="client")
    assert [call.method for call in provider.calls] == ["create", "create", "cancel", "poll"]
