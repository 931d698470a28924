"""Cancels that delete, and ends that are called otherwise."""

from __future__ import annotations

import msgspec
import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Failed, Status, Succeeded
from creche.errors import JobNotFound, Outage
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, count, until

RUNNING = Reading(status=JobStatus.PROCESSING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))
FAILED = Reading(status=JobStatus.FAILED, message="terminated")
ENDS = frozenset({JobStatus.FAILED})


async def cancelled_at(engine: Engine, at_s: float) -> None:
    await engine.submit()
    await trio.sleep_until(at_s)
    await engine.supervisor.cancel(engine.stored().id)


def order(provider: FakeProvider, after_s: float) -> list[str]:
    return [call.method for call in provider.calls if call.at >= after_s]


async def test_a_poll_comes_before_a_cancel_that_deletes(engine: Engine, autojump_clock: object) -> None:
    """The job still runs, so it is deleted; that it is not known then is its end."""

    async def poll(_: object) -> Reading:
        if count(provider, "cancel"):
            raise JobNotFound("HTTP 404")
        return RUNNING

    provider = FakeProvider(poll=[poll], cancel_deletes=True)
    await engine.start(engine.algorithm(provider))
    await cancelled_at(engine, 20.5)
    assert await engine.result() == Cancelled(reason="client")
    assert order(provider, 20.5)[:2] == ["poll", "cancel"]


async def test_a_result_that_is_there_is_told_and_not_deleted(engine: Engine, autojump_clock: object) -> None:
    """It came since the last poll, and a delete would have removed it."""
    provider = until(20, RUNNING, DONE)
    provider.cancel_deletes = True
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=30.0)))
    await cancelled_at(engine, 25)
    assert await engine.result() == Succeeded(DONE.result)
    assert count(provider, "cancel") == 0


async def test_nothing_is_deleted_while_the_provider_is_away(engine: Engine, autojump_clock: object) -> None:
    """Whether there is a result cannot be told then."""

    async def poll(_: object) -> Reading:
        if trio.current_time() < 20:
            return RUNNING
        if trio.current_time() < 60:
            raise Outage("away")
        return DONE

    provider = FakeProvider(poll=[poll], cancel_deletes=True)
    await engine.start(engine.algorithm(provider))
    await cancelled_at(engine, 30)
    assert engine.stored().status in {Status.CANCELLING, Status.PROCESSING}
    assert await engine.result() == Succeeded(DONE.result)
    assert count(provider, "cancel") == 0


async def test_a_job_that_ends_as_failed_was_cancelled(engine: Engine, autojump_clock: object) -> None:
    """Once the provider has agreed to end it."""

    async def poll(_: object) -> Reading:
        return FAILED if count(provider, "cancel") else RUNNING

    provider = FakeProvider(poll=[poll], cancel_ends=ENDS)
    await engine.start(engine.algorithm(provider))
    await cancelled_at(engine, 10)
    assert await engine.result() == Cancelled(reason="client")


async def test_a_refused_cancel_leaves_a_failure_a_failure(engine: Engine, autojump_clock: object) -> None:
    """The job has failed by itself."""

    async def poll(_: object) -> Reading:
        return FAILED if count(provider, "cancel") else RUNNING

    provider = FakeProvider(poll=[poll], cancel=[False], cancel_ends=ENDS)
    await engine.start(engine.algorithm(provider))
    await cancelled_at(engine, 10)
    assert await engine.result() == Failed(reason="provider", message="terminated")


async def test_without_a_cancel_a_failure_is_a_failure(engine: Engine, autojump_clock: object) -> None:
    """Nobody asked for an end."""
    await engine.start(engine.algorithm(FakeProvider(poll=[FAILED], cancel_ends=ENDS)))
    await engine.submit()
    assert await engine.result() == Failed(reason="provider", message="terminated")


async def test_nothing_is_deleted_while_its_poll_waits_for_its_turn(engine: Engine, autojump_clock: object) -> None:
    """A provider that may be asked rarely: the delete waits for the answer, which is the result."""
    provider = until(20, RUNNING, DONE)
    provider.cancel_deletes = True
    await engine.start(engine.algorithm(provider, polls_per_s=0.01))
    await cancelled_at(engine, 30)
    assert await engine.result() == Succeeded(DONE.result)
    assert count(provider, "cancel") == 0


async def test_a_result_that_is_there_at_the_deadline_is_not_deleted(engine: Engine, autojump_clock: object) -> None:
    """The last poll comes before the cancel."""
    provider = until(20, RUNNING, DONE)
    provider.cancel_deletes = True
    rhythm = Rhythm(every_s=50.0)
    await engine.start(engine.algorithm(provider, rhythm=rhythm, deadline_s=30, on_timeout="cancel"))
    await engine.submit()
    assert await engine.result() == Succeeded(DONE.result)
    assert count(provider, "cancel") == 0


async def test_a_job_that_failed_before_its_cancel_has_failed(engine: Engine, autojump_clock: object) -> None:
    """The provider was away when somebody cancelled, and so has not agreed to anything."""

    async def cancel(_: object) -> bool:
        raise Outage("away")

    provider = until(20, RUNNING, FAILED)
    provider.cancel_ends = ENDS
    provider._cancel.append(cancel)
    await engine.start(engine.algorithm(provider))
    await cancelled_at(engine, 10)
    assert await engine.result() == Failed(reason="provider", message="terminated")


async def test_a_restart_asks_for_the_cancel_again(engine: Engine, autojump_clock: object) -> None:
    """That the provider had agreed is not on disk; it agrees once more, and the end is what it was."""
    provider = until(30, RUNNING, FAILED)
    provider.cancel_ends = ENDS
    await engine.start(engine.algorithm(provider))
    await cancelled_at(engine, 10)
    await trio.sleep_until(20)
    await engine.crash()
    await trio.sleep_until(40)
    await engine.start(engine.algorithm(provider))
    assert await engine.result() == Cancelled(reason="client")
    assert count(provider, "cancel") == 2
