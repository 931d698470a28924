"""One task's run on a simulated clock: its deadline, when it is asked about, what errors do to it, its cancel."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Failed, Job, ServerFailed, Status, Succeeded, TimedOut
from creche.errors import (
    AnswerError,
    CredentialsRefused,
    JobNotFound,
    Outage,
    ProviderError,
    Throttled,
    WrongStatus,
)
from creche.testing import FakeProvider

if TYPE_CHECKING:
    from tests.engine.conftest import Engine

RUNNING = Reading(status=JobStatus.PROCESSING, provider_status="running")
DONE = Reading(status=JobStatus.SUCCEEDED, provider_status="done", result=msgspec.Raw(b"7"))
TO_FETCH = Reading(status=JobStatus.SUCCEEDED, provider_status="done", to_fetch=True)
STOPPED = Reading(status=JobStatus.CANCELLED, provider_status="canceled")

HOUR_S = 3600.0


def times(provider: FakeProvider, method: str = "poll") -> list[float]:
    """When a method was called, in seconds since the start, to the tick."""
    return [round(call.at, 1) for call in provider.calls if call.method == method]


def waits(provider: FakeProvider, method: str = "poll") -> list[float]:
    """The seconds between two calls of a method."""
    at = times(provider, method)
    return [round(after - before, 1) for before, after in pairwise(at)]


def until(at_s: float, before: Reading | ProviderError, then: Reading) -> FakeProvider:
    """A provider that says one thing before a time and another from then on."""

    async def answer(_: Job) -> Reading:
        said = before if trio.current_time() < at_s else then
        if isinstance(said, ProviderError):
            raise said
        return said

    return FakeProvider(poll=[answer])


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
    """As `on_timeout` says, after the last poll; the outcome is the same."""
    provider = FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider, on_timeout=on_timeout, deadline_s=60))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=60)
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


# -- errors --------------------------------------------------------------------------------------------


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
    found = engine.supervisor.live_task("t")
    assert found is not None
    assert (found[1].failures, found[1].last_error, found[1].condition) == (2, "HTTP 500", None)
    await trio.sleep_until(60)
    found = engine.supervisor.live_task("t")
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
    assert engine.supervisor.conditions() == {"draw": {condition: 1}}
    assert isinstance(await engine.result(), Succeeded)
    assert trio.current_time() < 661
    assert engine.supervisor.conditions() == {}


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


# -- cancel --------------------------------------------------------------------------------------------


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
    assert await engine.supervisor.cancel("t") == first
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
