"""What follows when a job is over, or its deadline: cancels that are sent until they are taken, results to fetch."""

from __future__ import annotations

import msgspec
import pytest
import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Failed, Job, Status, Succeeded, TimedOut, settle
from creche.engine.ports import Settle
from creche.engine.task_run import LAST_CANCEL_S
from creche.errors import AnswerError, CredentialsRefused, JobNotFound, Outage
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, count, times, until

RUNNING = Reading(status=JobStatus.PROCESSING, provider_status="running")
DONE = Reading(status=JobStatus.SUCCEEDED, provider_status="done", result=msgspec.Raw(b"7"))
STOPPED = Reading(status=JobStatus.CANCELLED)
ENDED = msgspec.structs.replace(DONE, to_fetch=True)


# -- cancels at the deadline ---------------------------------------------------------------------------


async def test_a_cancel_at_the_deadline_is_sent_until_it_is_taken(engine: Engine, autojump_clock: object) -> None:
    """Across a restart too; the task shows that it is cancelling, and beats."""
    provider = FakeProvider(poll=[RUNNING], cancel=[Outage("away")])
    await engine.start(engine.algorithm(provider, on_timeout="cancel", deadline_s=60))
    await engine.submit()
    await trio.sleep_until(100)
    assert (engine.stored().status, engine.stored().cancel_reason) == (Status.CANCELLING, "deadline")
    assert len(engine.pulse) == 1
    await engine.crash()
    agreeing = FakeProvider(poll=[RUNNING], cancel=[Outage("away"), Outage("away"), True])
    await engine.start(engine.algorithm(agreeing, on_timeout="cancel", deadline_s=60))
    assert await engine.result() == TimedOut(after_s=60, cancelled=True)
    assert len(times(provider, "cancel")) > 3
    assert len(times(agreeing, "cancel")) == 3


async def test_a_cancel_at_the_deadline_is_not_sent_for_ever(engine: Engine, autojump_clock: object) -> None:
    """Then the task ends, and says that its job may still run."""
    provider = FakeProvider(poll=[RUNNING], cancel=[Outage("away")])
    await engine.start(engine.algorithm(provider, on_timeout="cancel", deadline_s=60))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=60)
    assert trio.current_time() == pytest.approx(60 + LAST_CANCEL_S, abs=1)


@pytest.mark.parametrize(
    ("end", "outcome"), [(DONE, Succeeded(DONE.result)), (STOPPED, TimedOut(after_s=60, cancelled=True))]
)
async def test_what_a_job_became_after_the_cancel_at_its_deadline(
    engine: Engine, autojump_clock: object, end: Reading, outcome: object
) -> None:
    """A job that was faster than the cancel has ended as it has; one that was ended by it has timed out."""
    provider = until(60.5, RUNNING, end)

    async def cancel(_: Job) -> bool:
        await trio.sleep(1)
        return True

    provider._cancel.append(cancel)
    await engine.start(
        engine.algorithm(provider, rhythm=Rhythm(every_s=50), on_timeout="cancel", deadline_s=60),
    )
    await engine.submit()
    assert await engine.result() == outcome


async def test_a_client_may_cancel_what_the_deadline_cancels(engine: Engine, autojump_clock: object) -> None:
    """Then it is the client's."""
    provider = FakeProvider(poll=[RUNNING, RUNNING, RUNNING, STOPPED], cancel=[Outage("away"), Outage("away"), True])
    await engine.start(
        engine.algorithm(provider, rhythm=Rhythm(every_s=50), on_timeout="cancel", deadline_s=60),
    )
    await engine.submit()
    await trio.sleep_until(61)
    await engine.supervisor.cancel("t")
    assert await engine.result() == Cancelled(reason="client")


# -- results -------------------------------------------------------------------------------------------


def fetches(provider: FakeProvider) -> list[str]:
    """What was asked after the end was known."""
    methods = [call.method for call in provider.calls]
    return methods[methods.index("fetch") :]


async def test_a_result_is_fetched_again_on_its_own(engine: Engine, autojump_clock: object) -> None:
    """The job is over: nobody asks for its state again, and no cancel is sent."""
    provider = FakeProvider(poll=[RUNNING, ENDED], fetch=[Outage("away"), AnswerError("HTTP 500"), DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.supervisor.cancel("t")
    assert await engine.result() == Succeeded(DONE.result)
    assert fetches(provider) == ["fetch"] * 3


async def test_a_restart_goes_on_with_the_fetch(engine: Engine, autojump_clock: object) -> None:
    """An end that was told is not asked for once more."""
    provider = FakeProvider(poll=[ENDED], fetch=[Outage("away")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(20)
    await engine.crash()
    later = FakeProvider(poll=[JobNotFound("told already")])
    await engine.start(engine.algorithm(later))
    assert isinstance(await engine.result(), Succeeded)
    assert [call.method for call in later.calls] == ["fetch"]


async def test_a_result_behind_an_expired_url_is_polled_for_again(engine: Engine, autojump_clock: object) -> None:
    """A 403 of a signed URL: the next poll brings a new one."""
    provider = FakeProvider(poll=[ENDED], fetch=[CredentialsRefused("HTTP 403"), DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert fetches(provider) == ["fetch", "poll", "fetch"]


async def test_a_result_that_cannot_be_had_by_the_deadline(engine: Engine, autojump_clock: object) -> None:
    """The job did not time out: it is its result that is missing, and the outcome says why."""
    provider = FakeProvider(poll=[ENDED], fetch=[Outage("no route")])
    await engine.start(engine.algorithm(provider, deadline_s=60))
    await engine.submit()
    outcome = await engine.result()
    assert outcome == Failed(reason="result_refused", message="not to be had before the deadline: no route")


@pytest.mark.parametrize("method", ["poll", "fetch"])
@pytest.mark.parametrize("end", ["deadline", "stop"])
async def test_what_is_given_out_once_is_not_cut_off(
    engine: Engine, autojump_clock: object, method: str, end: str
) -> None:
    """A request that may bring it ends as it would, past the deadline and at a stop; what it brought is kept."""

    async def slowly(*_: object) -> Reading:
        await trio.sleep(4)
        return DONE

    provider = (
        FakeProvider(poll=[RUNNING, slowly], told_once=True)
        if method == "poll"
        else FakeProvider(poll=[RUNNING, ENDED], fetch=[slowly], given_once=True)
    )
    await engine.start(engine.algorithm(provider, deadline_s=5 if end == "deadline" else 3600))
    await engine.submit()
    await trio.sleep_until(4)
    if end == "stop":
        await engine.stop()
        assert engine.stored().outcome == Succeeded(DONE.result)
    else:
        assert await engine.result() == Succeeded(DONE.result)
    assert count(provider, method) == (2 if method == "poll" else 1)


# -- a result that was on disk when the daemon was killed ------------------------------------------------


async def test_a_result_that_was_left_is_taken(engine: Engine, autojump_clock: object) -> None:
    """The provider is not asked again: perhaps it would not give it out once more."""
    provider = FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.crash()
    engine.store.files["t"] = b'"left"'
    asked = len(provider.calls)
    await engine.start(engine.algorithm(provider))
    assert await engine.result() == Succeeded(msgspec.Raw(b'"left"'))
    assert len(provider.calls) == asked


async def test_a_result_that_was_left_waits_for_the_store(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """It is read as soon as that can be."""
    await engine.start(engine.algorithm(provider := FakeProvider(poll=[RUNNING])))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.crash()
    engine.store.files["t"] = b'"left"'
    await engine.start(engine.algorithm(provider))
    engine.store.failing = True
    await trio.sleep(20)
    engine.store.failing = False
    assert await engine.result(within_s=3) == Succeeded(msgspec.Raw(b'"left"'))
    assert len(errors_logged) == 1


async def test_an_outcome_that_is_refused_ends_nothing_else(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """Another outcome stands in the store; the daemon goes on."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING, RUNNING, DONE])))
    await engine.submit("t")
    await trio.sleep(1)
    task = engine.stored("t")
    engine.store.commit([Settle(settle(task, Cancelled("client"), 9.0))])
    await trio.sleep(10)
    assert len(errors_logged) == 1
    assert "the outcome was refused" in errors_logged[0]
    assert isinstance(engine.stored("t").outcome, Cancelled)
    await engine.submit("u")
    assert (await engine.at_rest("u")).ended
