"""Creates that were turned away, refused or lost: which are repeated, and where a person must decide."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
import trio

from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Failed, Status, Succeeded, Task, doubt_after_restore
from creche.core.way import Way
from creche.core.wire import ResolveIn
from creche.engine.ports import Accept, Save
from creche.errors import (
    AnswerError,
    CreateRefused,
    CreateUncertain,
    CredentialsRefused,
    Outage,
    ProviderError,
    Throttled,
)
from creche.testing import FakeProvider, make_task
from tests.engine.conftest import Engine, count, times

MADE = Reading(status=JobStatus.WAITING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))
STOPPED = Reading(status=JobStatus.CANCELLED)
LOST = CreateUncertain("reset by peer")


# -- creates that made no job --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "condition"),
    [
        (Outage("no connection"), "unreachable"),
        (Throttled("HTTP 429"), "throttled"),
        (CredentialsRefused("HTTP 401"), "unauthorized"),
    ],
)
@pytest.mark.parametrize("repeatable", [True, False])
async def test_busy_is_no_failure(
    engine: Engine,
    autojump_clock: object,
    error: ProviderError,
    condition: str,
    repeatable: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The task is put back to wait, visibly, and tried again, whatever the provider's class."""
    provider = FakeProvider(create=[*[error] * 4, MADE], repeat="token" if repeatable else "none")
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(20)
    assert engine.stored().status is Status.ACCEPTED
    assert engine.stored().note == str(error)
    assert engine.condition() == condition
    assert isinstance(await engine.result(), Succeeded)
    assert times(provider, "create") == [0, 3, 9, 21, 45]
    assert engine.stored().note == ""


async def test_a_busy_provider_says_when(engine: Engine, autojump_clock: object) -> None:
    """Retry-After of a create that was turned away is obeyed."""
    provider = FakeProvider(create=[Throttled("HTTP 429", retry_after_s=100), MADE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.at_rest()
    assert times(provider, "create") == [0, 105]


async def test_a_refused_create_is_a_failure(engine: Engine, autojump_clock: object) -> None:
    """There is no job and there will be none."""
    provider = FakeProvider(create=[CreateRefused("HTTP 422: no such model")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == Failed(reason="create_refused", message="HTTP 422: no such model")
    assert [call.method for call in provider.calls] == ["create"]


async def test_a_create_s_answer_may_already_be_the_end(engine: Engine, autojump_clock: object) -> None:
    """Then nothing is polled; the job's id is kept."""
    provider = FakeProvider(create=[msgspec.structs.replace(DONE, job="quick")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    task = await engine.at_rest()
    assert task.outcome == Succeeded(result=msgspec.Raw(b"7"))
    assert task.job is not None
    assert task.job.id == "quick"
    assert [call.method for call in provider.calls] == ["create"]


async def test_a_create_s_end_that_must_be_fetched_is_fetched(engine: Engine, autojump_clock: object) -> None:
    """A job is over only when its result is in hand."""
    ended = msgspec.structs.replace(DONE, to_fetch=True)
    provider = FakeProvider(create=[ended], poll=[ended])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "fetch") == 1


# -- creates that may have made a job ------------------------------------------------------------------


def by_token(error: ProviderError, losses: int) -> tuple[FakeProvider, Counter[str]]:
    """A provider that knows its tokens and loses its first answers; and how often each token came."""
    tokens: Counter[str] = Counter()

    async def create(task: Task) -> Reading:
        tokens[task.token] += 1
        if tokens[task.token] <= losses:
            raise error
        return msgspec.structs.replace(MADE, job=f"job-{task.token}")

    return FakeProvider(create=[create]), tokens


@pytest.mark.parametrize("error", [LOST, AnswerError("HTTP 500")])
async def test_a_lost_create_is_repeated_with_the_same_token(
    engine: Engine, autojump_clock: object, error: ProviderError
) -> None:
    """Where the provider makes one job of it; waits grow."""
    provider, tokens = by_token(error, 3)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert list(tokens.values()) == [4]
    assert times(provider, "create") == [0, 3, 9, 21]


async def test_a_create_that_goes_wrong_is_told_in_the_log(
    engine: Engine, autojump_clock: object, warnings_logged: list[str]
) -> None:
    """Once per kind of error, not once per attempt."""
    provider, _ = by_token(AnswerError("HTTP 500"), 3)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.at_rest()
    assert len([line for line in warnings_logged if "HTTP 500" in line]) == 1


@pytest.mark.parametrize("error", [LOST, AnswerError("HTTP 500")])
async def test_a_lost_create_that_cannot_be_repeated_is_unknown(
    engine: Engine, autojump_clock: object, warnings_logged: list[str], error: ProviderError
) -> None:
    """At rest, loudly, with a note; `wait` returns, the feed has no outcome, and nothing is ever sent again."""
    provider = FakeProvider(create=[error], repeat="none")
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    task = await engine.supervisor.wait("t", 3000)
    assert trio.current_time() < 1
    assert task.status is Status.UNKNOWN
    assert str(error) in task.note
    assert engine.stored() == task
    await trio.sleep(10_000)
    assert count(provider, "create") == 1
    assert engine.feed_ids() == []
    assert any("creche resolve" in line for line in warnings_logged)


async def test_an_unknown_task_stays_unknown_after_a_restart(engine: Engine, autojump_clock: object) -> None:
    """And can still be resolved."""
    provider = FakeProvider(create=[LOST], repeat="none")
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.at_rest()
    await engine.crash()
    await engine.start()
    assert (await engine.supervisor.wait("t", 3000)).status is Status.UNKNOWN
    await trio.sleep(10_000)
    assert count(provider, "create") == 1
    await engine.supervisor.resolve("t", ResolveIn(action="attach", job="found"))
    assert isinstance(await engine.result(), Succeeded)


async def test_on_unknown_retry_repeats(engine: Engine, autojump_clock: object) -> None:
    """Where a second job costs less than a person."""
    provider = FakeProvider(create=[LOST, LOST, MADE], repeat="none")
    await engine.start(engine.algorithm(provider, on_unknown="retry"))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "create") == 3


async def test_an_outage_after_a_loss_proves_nothing(engine: Engine, autojump_clock: object) -> None:
    """The repeated create did not arrive, but the first may have: a cancel waits until the job is known."""
    provider = FakeProvider(create=[LOST, *[Outage("away")] * 5, MADE], poll=[STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(5)
    assert engine.stored().status is Status.CREATING
    await engine.supervisor.cancel("t")
    await trio.sleep_until(10)
    assert (await engine.supervisor.get("t")).status is Status.CREATING
    assert await engine.result() == Cancelled(reason="client")
    assert [call.method for call in provider.calls] == [*["create"] * 7, "cancel", "poll"]


# -- where repeating leads nowhere ---------------------------------------------------------------------


@pytest.mark.parametrize("error", [AnswerError("odd"), CreateUncertain("HTTP 500", answered=True)])
async def test_five_error_answers_to_a_create_are_enough(
    engine: Engine, autojump_clock: object, error: ProviderError
) -> None:
    """Whether one of them made a job cannot be told, so a person decides; the create is not repeated for ever."""
    provider = FakeProvider(create=[error], repeat="token")
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    task = await engine.supervisor.wait("t", 3600)
    assert task.status is Status.UNKNOWN
    assert count(provider, "create") == 5


async def test_lost_answers_to_a_create_are_borne_for_as_long_as_a_job_may_take(
    engine: Engine, autojump_clock: object
) -> None:
    """Then a person decides: providers forget tokens, and the slot is kept from others."""
    provider = FakeProvider(create=[LOST])
    await engine.start(engine.algorithm(provider, deadline_s=1800.0))
    await engine.submit()
    await trio.sleep_until(1700)
    assert (await engine.supervisor.get("t")).status is Status.CREATING
    assert (await engine.supervisor.wait("t", 300)).status is Status.UNKNOWN


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_refusal_after_a_lost_answer(engine: Engine, autojump_clock: object, *, repeatable: bool) -> None:
    """It says that there is no second job, and nothing about the first."""
    provider = FakeProvider(create=[LOST, CreateRefused("HTTP 400")], repeat="token" if repeatable else "none")
    await engine.start(engine.algorithm(provider, on_unknown="retry"))
    await engine.submit()
    assert (await engine.supervisor.wait("t", 3600)).status is Status.UNKNOWN
    assert count(provider, "create") == 2


async def test_a_create_that_is_under_way_is_asked_for_again(engine: Engine, autojump_clock: object) -> None:
    """The answer to the first was lost, and the provider is still working on it: it will tell of the job later."""
    provider = FakeProvider(create=[LOST, CreateRefused("HTTP 409", in_progress=True), MADE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)


async def test_a_cancel_gives_up_a_create_that_is_always_lost(engine: Engine, autojump_clock: object) -> None:
    """With one more attempt to learn of the job; then its slot is free for others."""
    provider = FakeProvider(create=[LOST])
    await engine.start(engine.algorithm(provider, in_flight=1))
    await engine.submit()
    await trio.sleep_until(1)
    await engine.supervisor.cancel("t")
    assert (await engine.supervisor.wait("t", 100)).status is Status.UNKNOWN
    assert count(provider, "create") == 2
    assert engine.supervisor.roster.slots("draw").holders == set()


# -- out of a backup -------------------------------------------------------------------------------------


async def out_of_a_backup(engine: Engine, provider: FakeProvider) -> None:
    """Start on a store that was put back to when the task had just been accepted."""
    task = make_task("t", accepted_at=engine.wall() - 60)
    engine.store.commit([Accept(task), Save(doubt_after_restore(task))])
    await engine.start(engine.algorithm(provider))


async def test_a_repeatable_task_out_of_a_backup_is_repeated(engine: Engine, autojump_clock: object) -> None:
    """With its token: a job that was made since the backup is met again."""
    provider = FakeProvider(repeat="token")
    await out_of_a_backup(engine, provider)
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "create") == 1
    assert engine.stored().token == "token-t"


async def test_a_task_out_of_a_backup_is_looked_for(engine: Engine, autojump_clock: object) -> None:
    """Where the provider has a list; what is found is not made again."""
    way = Way(repeat="lookup", digest="w", within_s=86_400.0, appears_within_s=30.0)
    provider = FakeProvider(way=way, find=[Reading(status=JobStatus.WAITING, job="found")])
    await out_of_a_backup(engine, provider)
    assert isinstance(await engine.result(), Succeeded)
    assert (count(provider, "find"), count(provider, "create")) == (1, 0)


async def test_a_task_out_of_a_backup_that_nobody_can_tell_about(engine: Engine, autojump_clock: object) -> None:
    """Is for a person to decide, even though the backup says that nothing was sent."""
    provider = FakeProvider(repeat="none")
    await out_of_a_backup(engine, provider)
    assert (await engine.at_rest()).status is Status.UNKNOWN
    assert count(provider, "create") == 0
