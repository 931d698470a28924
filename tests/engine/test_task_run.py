"""One task's run on a simulated clock: its deadline, when it is asked about, its result."""

from __future__ import annotations

import msgspec
import pytest
import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Failed, Job, Status, Succeeded, TimedOut
from creche.errors import AnswerError, Outage, ProviderError, Throttled
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, times, until, waits

RUNNING = Reading(status=JobStatus.PROCESSING, provider_status="running")
DONE = Reading(status=JobStatus.SUCCEEDED, provider_status="done", result=msgspec.Raw(b"7"))
TO_FETCH = Reading(status=JobStatus.SUCCEEDED, provider_status="done", to_fetch=True)

HOUR_S = 3600.0


# -- the deadline --------------------------------------------------------------------------------------


async def test_a_job_that_never_ends_times_out_after_an_hour(engine: Engine, autojump_clock: object) -> None:
    """At 3600 s, not before, and the last poll is made then."""
    provider = FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=HOUR_S)
    assert trio.current_time() == pytest.approx(HOUR_S, abs=0.1)
    assert times(provider)[-1] == HOUR_S
    assert times(provider).count(HOUR_S) == 1


async def test_it_is_not_timed_out_before(engine: Engine, autojump_clock: object) -> None:
    """A second before the hour it is still minded, and its heart beats."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    await engine.submit()
    await trio.sleep_until(HOUR_S - 1)
    assert (await engine.supervisor.get("t")).status is Status.PROCESSING
    assert len(engine.pulse) == 1


async def test_the_last_poll_s_success_wins(engine: Engine, autojump_clock: object) -> None:
    """A job that ended between the last poll in the rhythm and the deadline has succeeded."""
    provider = until(HOUR_S - 0.5, RUNNING, DONE)
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=1000)))
    await engine.submit()
    assert await engine.result() == Succeeded(result=msgspec.Raw(b"7"))
    assert times(provider) == [0, 1000, 2000, 3000, HOUR_S]


async def test_the_last_poll_brings_the_result_too(engine: Engine, autojump_clock: object) -> None:
    """Also where a success needs its second request."""
    provider = until(100, RUNNING, TO_FETCH)
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=1000), deadline_s=200))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert times(provider, "fetch") == [200]


async def test_a_poll_that_hangs_is_cut_by_the_deadline(engine: Engine, autojump_clock: object) -> None:
    """The deadline does not wait for an answer; the last poll gets ten seconds."""

    async def hang(_: Job) -> Reading:
        await trio.sleep(HOUR_S)
        return RUNNING

    await engine.start(engine.algorithm(FakeProvider(poll=[hang]), deadline_s=60))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=60)
    assert trio.current_time() == pytest.approx(70, abs=0.1)


@pytest.mark.parametrize("last", [AnswerError("500"), Outage("away"), RUNNING])
async def test_only_an_end_counts_at_the_deadline(
    engine: Engine, autojump_clock: object, last: Reading | ProviderError
) -> None:
    """Whatever else the last poll brings, the task has timed out."""
    await engine.start(engine.algorithm(FakeProvider(poll=[last]), rhythm=Rhythm(max_failures=1000), deadline_s=60))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=60)


async def test_five_errors_that_end_at_the_deadline_are_a_time_out(engine: Engine, autojump_clock: object) -> None:
    """The fifth error in a row, coming with the last poll, does not turn the deadline into a failure."""
    provider = FakeProvider(poll=[AnswerError("500")])
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=10), deadline_s=100))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=100)
    assert times(provider) == [0, 10, 30, 70, 100]


@pytest.mark.parametrize(("own", "expected"), [(None, 600.0), ("10m", 600.0), ("90s", 90.0), (7200, 7200.0)])
async def test_a_task_s_deadline_comes_before_its_algorithm_s(
    engine: Engine, autojump_clock: object, own: str | float | None, expected: float
) -> None:
    """Per task and per algorithm settable; the task's wins, shorter or longer."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING]), deadline_s=600))
    await engine.submit(deadline=own)
    assert await engine.result() == TimedOut(after_s=expected)
    assert trio.current_time() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("on_timeout", "cancels"), [("leave", []), ("cancel", [60])])
async def test_a_job_is_left_or_cancelled_at_the_deadline(
    engine: Engine, autojump_clock: object, on_timeout: str, cancels: list[float]
) -> None:
    """As `on_timeout` says, after the last poll; the outcome tells whether the job may still run."""
    provider = FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider, on_timeout=on_timeout, deadline_s=60))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=60, cancelled=bool(cancels))
    assert times(provider, "cancel") == cancels


async def test_a_job_that_ended_by_the_last_poll_is_not_cancelled(engine: Engine, autojump_clock: object) -> None:
    """A deleting request is never sent after an end."""
    provider = until(55, RUNNING, DONE)
    await engine.start(
        engine.algorithm(provider, rhythm=Rhythm(every_s=50), on_timeout="cancel", deadline_s=60),
    )
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert times(provider, "cancel") == []


async def test_the_deadline_begins_with_the_job(engine: Engine, autojump_clock: object) -> None:
    """Waiting for a slot, or for a provider that is busy, is not the job's time."""
    provider = FakeProvider(
        create=[Throttled("busy", retry_after_s=1000), Reading(status=JobStatus.WAITING)], poll=[RUNNING]
    )
    await engine.start(engine.algorithm(provider, deadline_s=60))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=60)
    assert trio.current_time() == pytest.approx(1000 * 1.05 + 60, abs=0.1)


# -- when to ask ---------------------------------------------------------------------------------------


async def test_it_asks_at_once_and_then_every_three_seconds(engine: Engine, autojump_clock: object) -> None:
    """The default rhythm."""
    provider = until(14, RUNNING, DONE)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.result()
    assert times(provider) == [0, 3, 6, 9, 12, 15]


@pytest.mark.parametrize(("dice", "expected"), [(0.0, 19.0), (1.0, 21.0)])
async def test_waits_are_spread(engine: Engine, autojump_clock: object, dice: float, expected: float) -> None:
    """Half of a tenth up, half down, so that tasks which began together drift apart."""
    engine.dice = lambda: dice
    provider = until(30, RUNNING, DONE)
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=20)))
    await engine.submit()
    await engine.result()
    assert times(provider) == [0, expected, 2 * expected]


async def test_the_first_poll_may_have_to_wait(engine: Engine, autojump_clock: object) -> None:
    """`first_s` after the job is known."""
    provider = until(22, RUNNING, DONE)
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(first_s=20)))
    await engine.submit()
    await engine.result()
    assert times(provider) == [20, 23]


async def test_a_growing_curve(engine: Engine, autojump_clock: object) -> None:
    """Each wait is longer by `grow`, up to `up_to_s`."""
    provider = until(100, RUNNING, DONE)
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=2, grow=2, up_to_s=30)))
    await engine.submit()
    await engine.result()
    assert waits(provider) == [2, 4, 8, 16, 30, 30, 30]


async def test_the_provider_s_hint_wins(engine: Engine, autojump_clock: object) -> None:
    """Over the curve, for this one wait; a tenth of the dice later, never earlier."""
    hint = msgspec.structs.replace(RUNNING, ask_again_s=40.0)
    provider = FakeProvider(poll=[RUNNING, hint, RUNNING, DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.result()
    assert times(provider) == [0, 3, 45, 48]


async def test_a_hint_with_an_error_wins_too(engine: Engine, autojump_clock: object) -> None:
    """Retry-After of a 429 is obeyed."""
    provider = FakeProvider(poll=[Throttled("busy", retry_after_s=200), DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.result()
    assert times(provider) == [0, 210]


async def test_an_attached_job_is_minded_without_a_create(engine: Engine, autojump_clock: object) -> None:
    """It exists; polling begins at once."""
    provider = until(5, RUNNING, DONE)
    await engine.start(engine.algorithm(provider))
    await engine.submit(job="theirs")
    assert isinstance(await engine.result(), Succeeded)
    assert {(call.method, call.id) for call in provider.calls} == {("poll", "theirs")}


async def test_what_a_poll_says_is_kept(engine: Engine, autojump_clock: object) -> None:
    """Values the recipe keeps are in the next poll's job, and survive in the store."""
    seen: list[Job] = []

    async def answer(job: Job) -> Reading:
        seen.append(job)
        return DONE if len(seen) == 3 else msgspec.structs.replace(RUNNING, keep={"url": f"u{len(seen)}"})

    await engine.start(engine.algorithm(FakeProvider(poll=[answer])))
    await engine.submit()
    await engine.result()
    assert [dict(job.keep) for job in seen] == [{}, {"url": "u1"}, {"url": "u2"}]
    stored = engine.stored().job
    assert stored is not None
    assert stored.keep == {"url": "u2"}


# -- the result ----------------------------------------------------------------------------------------


async def test_a_success_needs_its_result(engine: Engine, autojump_clock: object) -> None:
    """Where the recipe says so the job is over only with the result in hand."""
    complete = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b'{"n":1}'))
    provider = FakeProvider(poll=[RUNNING, TO_FETCH], fetch=[complete])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == Succeeded(result=msgspec.Raw(b'{"n":1}'))
    assert times(provider, "fetch") == [3]


async def test_a_result_may_turn_out_to_be_a_failure(engine: Engine, autojump_clock: object) -> None:
    """Then that is the outcome."""
    provider = FakeProvider(poll=[TO_FETCH], fetch=[Reading(status=JobStatus.FAILED, message="no memory")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == Failed(reason="provider", message="no memory")


async def test_a_result_that_cannot_be_had_is_a_failure(engine: Engine, autojump_clock: object) -> None:
    """After five errors in a row, long before the deadline; the good polls between them do not forgive."""
    provider = FakeProvider(poll=[TO_FETCH], fetch=[AnswerError("HTTP 500")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == Failed(reason="result_refused", message="HTTP 500")
    assert len(times(provider, "fetch")) == 5


async def test_an_outage_while_fetching_is_waited_out(engine: Engine, autojump_clock: object) -> None:
    """Nothing is lost by it."""
    provider = FakeProvider(poll=[TO_FETCH], fetch=[*[Outage("away")] * 20, DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == Succeeded(result=msgspec.Raw(b"7"))


async def test_waits_double_while_the_result_is_out_of_reach(engine: Engine, autojump_clock: object) -> None:
    """As between any errors, though the polls between them are good."""
    provider = FakeProvider(poll=[TO_FETCH], fetch=[*[Outage("away")] * 4, DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.result()
    assert waits(provider, "fetch") == [3, 6, 12, 24]
