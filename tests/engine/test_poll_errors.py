"""What errors do to a task that is being polled: which count, which are waited out, how they are shown."""

from __future__ import annotations

import msgspec
import pytest
import trio

from creche.core.reading import JobStatus, Reading
from creche.core.task import Failed, ServerFailed, Status, Succeeded, TimedOut
from creche.errors import AnswerError, CredentialsRefused, JobNotFound, Outage, ProviderError, Throttled
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, times, until, waits

RUNNING = Reading(status=JobStatus.PROCESSING, provider_status="running")
DONE = Reading(status=JobStatus.SUCCEEDED, provider_status="done", result=msgspec.Raw(b"7"))

HOUR_S = 3600.0


async def test_five_answer_errors_in_a_row_give_up(engine: Engine, autojump_clock: object) -> None:
    """As `server_failed` with their number, not as a time-out; the last message is told."""
    errors = [AnswerError(f"HTTP 500, number {number}") for number in range(1, 6)]
    provider = FakeProvider(poll=errors)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == ServerFailed(failures=5, message="HTTP 500, number 5")
    assert waits(provider) == [3, 6, 12, 24]


async def test_a_good_answer_between_forgives_all_errors(engine: Engine, autojump_clock: object) -> None:
    """Four errors, a good answer, four errors: minded on, with the wait back at its beginning."""
    four = [AnswerError("500")] * 4
    provider = FakeProvider(poll=[*four, RUNNING, *four, DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert waits(provider) == [3, 6, 12, 24, 3, 3, 6, 12, 24]


async def test_errors_in_a_row_are_shown(engine: Engine, autojump_clock: object) -> None:
    """While they last; a good answer clears them."""
    provider = until(10, AnswerError("HTTP 500"), RUNNING)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    found = engine.supervisor.roster.live_task("t")
    assert found is not None
    assert (found[1].failures, found[1].last_error, found[1].condition) == (2, "HTTP 500", None)
    await trio.sleep_until(60)
    found = engine.supervisor.roster.live_task("t")
    assert found is not None
    assert (found[1].failures, found[1].last_error) == (0, "")


@pytest.mark.parametrize(
    ("error", "condition"),
    [
        (Outage("no connection"), "unreachable"),
        (Throttled("HTTP 429"), "throttled"),
        (CredentialsRefused("HTTP 401"), "unauthorized"),
    ],
)
async def test_ten_minutes_away_fail_nothing(
    engine: Engine, autojump_clock: object, error: ProviderError, condition: str
) -> None:
    """An outage never counts; it is shown as a condition, and noticed to be over within a minute."""
    provider = until(600, error, DONE)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(599)
    assert engine.condition() == condition
    assert engine.supervisor.roster.conditions() == {"draw": {condition: 1}}
    assert isinstance(await engine.result(), Succeeded)
    assert trio.current_time() < 661
    assert engine.supervisor.roster.conditions() == {}


async def test_waits_double_up_to_a_minute(engine: Engine, autojump_clock: object) -> None:
    """While the provider is away."""
    provider = until(300, Outage("away"), DONE)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.result()
    assert waits(provider) == [3, 6, 12, 24, 48, 60, 60, 60, 60]


async def test_an_outage_does_not_forgive_answer_errors(engine: Engine, autojump_clock: object) -> None:
    """Only a good answer does: five of them with outages between are still five without one good answer."""
    provider = FakeProvider(poll=[AnswerError("500"), Outage("away")] * 4 + [AnswerError("500")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == ServerFailed(failures=5, message="500")


async def test_a_condition_is_over_with_a_good_answer(engine: Engine, autojump_clock: object) -> None:
    """The task goes on, and nothing is shown any more."""
    provider = until(20, Outage("away"), RUNNING)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(19)
    assert engine.condition() == "unreachable"
    await trio.sleep_until(60)
    assert engine.condition() is None


async def test_a_condition_is_over_even_if_its_error_said_nothing(engine: Engine, autojump_clock: object) -> None:
    """Some errors of transports have an empty text."""
    provider = until(20, Outage(""), RUNNING)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(60)
    assert engine.condition() is None


async def test_a_key_that_is_repaired_loses_nothing(engine: Engine, autojump_clock: object) -> None:
    """Almost an hour of 401 ends in the job's success."""
    provider = until(3500, CredentialsRefused("HTTP 401"), DONE)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(3499)
    assert engine.condition() == "unauthorized"
    assert isinstance(await engine.result(), Succeeded)


async def test_an_outage_to_the_end_is_a_time_out(engine: Engine, autojump_clock: object) -> None:
    """The deadline bounds everything."""
    await engine.start(engine.algorithm(FakeProvider(poll=[Outage("away")])))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=HOUR_S)


async def test_a_job_that_is_not_known_yet_is_waited_for(engine: Engine, autojump_clock: object) -> None:
    """Within the grace after the create a 404 means nothing, and it is asked again before the grace is over."""
    provider = until(8, JobNotFound("HTTP 404"), DONE)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert times(provider) == [0, 3, 9]


async def test_a_job_that_is_not_known_after_the_grace_is_lost(engine: Engine, autojump_clock: object) -> None:
    """Failed, with the reason."""
    provider = until(5, JobNotFound("too early"), RUNNING)
    await engine.start(engine.algorithm(provider))
    await engine.submit("early")
    gone = FakeProvider(poll=[RUNNING] * 6 + [JobNotFound("HTTP 404")])
    engine.supervisor.reload({"draw": engine.algorithm(gone)})
    assert await engine.result("early") == Failed(reason="job_lost", message="HTTP 404")


async def test_a_job_that_is_never_known_is_lost_when_the_grace_is_over(engine: Engine, autojump_clock: object) -> None:
    """Not later."""
    await engine.start(engine.algorithm(FakeProvider(poll=[JobNotFound("HTTP 404")])))
    await engine.submit()
    assert await engine.result() == Failed(reason="job_lost", message="HTTP 404")
    assert trio.current_time() == pytest.approx(10, abs=0.1)


async def test_an_unknown_status_goes_on(engine: Engine, autojump_clock: object, warnings_logged: list[str]) -> None:
    """A provider's new word is `processing`, and reported once however often it comes."""
    odd = Reading(status=JobStatus.PROCESSING, provider_status="warming_up", known=False)
    provider = FakeProvider(poll=[odd] * 20 + [DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(30)
    assert (await engine.supervisor.get("t")).status is Status.PROCESSING
    assert isinstance(await engine.result(), Succeeded)
    assert len([line for line in warnings_logged if "warming_up" in line]) == 1
