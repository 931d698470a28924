"""What an answer means for a task, and when to ask again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.core.polling import Ask, Decision, End, Fetch, Poller, Rhythm, error_wait_s, outcome_of
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Failed, Outcome, ServerFailed, Succeeded
from creche.errors import AnswerError, CredentialsRefused, JobNotFound, Outage, ProviderError, Throttled

RUNNING = Reading(status=JobStatus.PROCESSING)
MIDDLE = 0.5
"""Dice that neither shorten nor lengthen a wait."""


def good(poller: Poller, reading: Reading = RUNNING) -> Decision:
    return poller.good(reading, dice=MIDDLE)


def bad(poller: Poller, error: ProviderError, age_s: float = 100.0) -> Decision:
    return poller.bad(error, dice=MIDDLE, age_s=age_s)


def test_five_answer_errors_in_a_row_end_the_task() -> None:
    """The fifth, and not before; the outcome has the last message."""
    poller = Poller(Rhythm())
    for number in range(4):
        assert isinstance(bad(poller, AnswerError(f"HTTP 500: {number}")), Ask)
    assert bad(poller, AnswerError("HTTP 500: last")) == End(ServerFailed(failures=5, message="HTTP 500: last"))


def test_a_good_answer_forgives_all_errors() -> None:
    """Only errors in a row count."""
    poller = Poller(Rhythm())
    for _ in range(3):
        for _ in range(4):
            bad(poller, AnswerError("HTTP 500"))
        good(poller)
        assert (poller.failures, poller.last_error) == (0, "")


@pytest.mark.parametrize("error", [Outage("no connection"), Throttled("429"), CredentialsRefused("401")])
def test_an_absent_provider_never_counts_against_a_task(error: ProviderError) -> None:
    """However long it lasts; the condition tells why nothing moves."""
    poller = Poller(Rhythm())
    for _ in range(100):
        decision = bad(poller, error)
        assert isinstance(decision, Ask)
        assert decision.condition == error.code
    assert poller.failures == 0


def test_an_outage_neither_counts_nor_forgives() -> None:
    """Answer errors before and after it are still in a row: no good answer came between."""
    poller = Poller(Rhythm(max_failures=2))
    bad(poller, AnswerError("HTTP 500"))
    bad(poller, Outage("no connection"))
    assert isinstance(bad(poller, AnswerError("HTTP 500")), End)


def test_a_job_may_be_unknown_for_a_while_after_the_create() -> None:
    """Within the grace it is asked for again, and no later than the grace ends."""
    poller = Poller(Rhythm(grace_s=10.0))
    assert bad(poller, JobNotFound("404"), age_s=8.0) == Ask(2.0)
    assert bad(poller, JobNotFound("404"), age_s=10.0) == End(Failed(reason="job_lost", message="404"))


def test_a_cancelled_job_that_is_not_found_is_over() -> None:
    """Behind the grace; within it the provider may not know the job yet, and it runs on."""
    poller = Poller(Rhythm(grace_s=10.0))
    young, old = (poller.bad(JobNotFound("404"), dice=MIDDLE, age_s=age_s, cancelled="client") for age_s in (8.0, 10.0))
    assert (young, old) == (Ask(2.0), End(Cancelled(reason="client")))


def test_waits_between_errors_double_up_to_a_minute() -> None:
    """So a provider in trouble gets fewer questions, and its repair is noticed soon."""
    poller = Poller(Rhythm(every_s=3.0))
    waits = [bad(poller, Outage("away")) for _ in range(7)]
    assert [wait.seconds for wait in waits if isinstance(wait, Ask)] == [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0]


@given(
    every_s=st.floats(0.05, 1000),
    errors=st.integers(1, 10**6),
    dice=st.floats(0, 1),
    hint_s=st.none() | st.floats(0, 3600),
)
def test_a_wait_after_an_error_is_always_sane(every_s: float, errors: int, dice: float, hint_s: float | None) -> None:
    """Never shorter than the provider asked, never much longer than the longest wait."""
    wait_s = error_wait_s(every_s, errors, hint_s, dice)
    if hint_s is None:
        assert 0.95 * every_s <= wait_s * 1.000001
        assert wait_s <= 1.05 * max(60.0, every_s) * 1.000001
    else:
        floor_s = max(hint_s, min(every_s, 1.0))
        assert floor_s <= wait_s * 1.000001
        assert wait_s <= floor_s * 1.1 * 1.000001


def test_waits_spread_around_their_length() -> None:
    """Tasks that began together drift apart: half up, half down."""
    waits = [Poller(Rhythm(every_s=10.0)).good(RUNNING, dice=dice) for dice in (0.0, 0.5, 1.0)]
    assert waits == [Ask(9.5), Ask(10.0), Ask(10.5)]


def test_the_provider_s_hint_comes_first() -> None:
    """And is only ever exceeded, by a little."""
    hinted = Reading(status=JobStatus.WAITING, ask_again_s=20.0)
    assert [Poller(Rhythm()).good(hinted, dice=dice) for dice in (0.0, 1.0)] == [Ask(20.0), Ask(22.0)]


def test_a_hint_of_nothing_does_not_make_a_busy_loop() -> None:
    """After a good answer there is a shortest wait."""
    assert good(Poller(Rhythm()), Reading(status=JobStatus.WAITING, ask_again_s=0.0)) == Ask(0.05)


def test_waits_grow_along_the_curve() -> None:
    """From `every` by `grow` up to `up_to`."""
    poller = Poller(Rhythm(every_s=4.0, grow=2.0, up_to_s=10.0))
    assert [good(poller) for _ in range(4)] == [Ask(4.0), Ask(8.0), Ask(10.0), Ask(10.0)]


def test_a_curve_never_falls_below_its_beginning() -> None:
    """An `up_to` smaller than `every` is no limit."""
    poller = Poller(Rhythm(every_s=100.0, grow=1.0, up_to_s=60.0))
    assert [good(poller) for _ in range(2)] == [Ask(100.0), Ask(100.0)]


@pytest.mark.parametrize(
    ("reading", "outcome"),
    [
        (Reading(status=JobStatus.SUCCEEDED, partial=True), Succeeded(partial=True)),
        (Reading(status=JobStatus.FAILED, message="no"), Failed(reason="provider", message="no")),
        (Reading(status=JobStatus.EXPIRED, message="no"), Failed(reason="expired", message="no")),
        (Reading(status=JobStatus.LOST, message="no"), Failed(reason="job_lost", message="no")),
        (Reading(status=JobStatus.CANCELLED), Cancelled(reason="provider")),
    ],
)
def test_every_end_of_a_job_has_its_outcome(reading: Reading, outcome: Outcome) -> None:
    """The reason tells them apart."""
    assert good(Poller(Rhythm()), reading) == End(outcome)


def test_a_cancelled_job_has_the_reason_of_who_asked() -> None:
    """The client's cancel, where there was one."""
    assert outcome_of(Reading(status=JobStatus.CANCELLED), "client") == Cancelled(reason="client")


def test_a_job_that_outran_its_cancel_has_succeeded() -> None:
    """The provider's true end is reported, whatever was asked."""
    assert outcome_of(Reading(status=JobStatus.SUCCEEDED), "client") == Succeeded()


def test_an_end_that_needs_a_second_request_is_no_outcome_yet() -> None:
    """A job is over only when its result is in hand."""
    reading = Reading(status=JobStatus.SUCCEEDED, to_fetch=True)
    assert good(Poller(Rhythm()), reading) == Fetch(reading)


def test_a_cancelled_after_a_refused_cancel_is_doubted() -> None:
    """The provider contradicts itself, so it is asked on."""
    poller = Poller(Rhythm())
    assert poller.good(Reading(status=JobStatus.CANCELLED), dice=MIDDLE, cancel_refused=True) == Ask(3.0)
    assert isinstance(poller.good(Reading(status=JobStatus.SUCCEEDED), dice=MIDDLE, cancel_refused=True), End)
