"""The table of moves, and the functions that take a task from one status to the next."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.core import task as rules
from creche.core.task import (
    AT_REST,
    ENDS,
    MOVES,
    Cancelled,
    Failed,
    IllegalMove,
    Job,
    Outcome,
    ServerFailed,
    Status,
    Succeeded,
    Task,
    TimedOut,
)

OUTCOMES: dict[Status, Outcome] = {
    Status.SUCCEEDED: Succeeded(),
    Status.FAILED: Failed("provider"),
    Status.CANCELLED: Cancelled("client"),
    Status.TIMED_OUT: TimedOut(60.0),
    Status.SERVER_FAILED: ServerFailed(5, "HTTP 500"),
}


def a_task(status: Status = Status.ACCEPTED, cancel_reason: str | None = None) -> Task:
    return Task(
        id="t1",
        algorithm="draw",
        token="k1",
        accepted_at=100.0,
        status=status,
        deadline_s=60.0,
        cancel_reason=cancel_reason,
    )


def test_ends_are_final() -> None:
    """No move leads out of an end, and every other status has one."""
    assert frozenset(Status) - MOVES.keys() == ENDS


def test_every_status_can_be_reached() -> None:
    """Nothing in the table is dead: each status but the first is the target of a move."""
    assert frozenset().union(*MOVES.values()) | {Status.ACCEPTED} == frozenset(Status)


def test_an_unknown_task_is_at_rest_but_has_not_ended() -> None:
    """A person has to look; until then there is no outcome."""
    assert Status.UNKNOWN in AT_REST
    assert Status.UNKNOWN not in ENDS


@pytest.mark.parametrize("status", ENDS)
def test_every_end_has_its_outcome(status: Status) -> None:
    """Settling with an outcome leads to the end that it stands for, and to no other."""
    settled = rules.settle(a_task(Status.PROCESSING), OUTCOMES[status], 170.0)
    assert (settled.status, settled.outcome, settled.settled_at, settled.ended) == (
        status,
        OUTCOMES[status],
        170.0,
        True,
    )


@pytest.mark.parametrize("outcome", OUTCOMES.values())
def test_an_outcome_survives_the_store(outcome: Outcome) -> None:
    """The tag tells the types apart again."""
    assert msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome) == outcome


Step = Callable[[Task], Task]

STEPS: dict[str, Step] = {
    "begin_create": lambda task: rules.begin_create(task, 105.0, "by post"),
    "put_back": lambda task: rules.put_back(task, "busy"),
    "begin_job": lambda task: rules.begin_job(task, Job("j1"), 110.0),
    "wait": lambda task: rules.observe(task, Status.WAITING, "queued", None),
    "process": lambda task: rules.observe(task, Status.PROCESSING, "running", 0.5),
    "pause": lambda task: rules.observe(task, Status.PAUSED, "asks", 0.5),
    "cancel": lambda task: rules.request_cancel(task, "client"),
    "park": lambda task: rules.park_unknown(task, "lost"),
    "anew": lambda task: rules.create_anew(task, "k2"),
    **{f"settle {end}": partial(rules.settle, outcome=outcome, now=170.0) for end, outcome in OUTCOMES.items()},
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=30))
def test_no_walk_leaves_the_table(walk: list[str]) -> None:
    """Whatever is called in whatever order: a task moves as the table allows, or is refused and stays as it was."""
    task = a_task()
    for name in walk:
        before, copy = task, msgspec.structs.replace(task)
        try:
            task = STEPS[name](task)
        except IllegalMove:
            continue
        finally:
            assert before == copy, "records are never changed"
        assert task.status is before.status or task.status in MOVES[before.status]
        assert task.ended == (task.status in ENDS)


def test_a_refused_move_names_both_statuses() -> None:
    """The message is for whoever has to find the defect."""
    with pytest.raises(IllegalMove, match="task t1: succeeded -> processing"):
        rules.observe(a_task(Status.SUCCEEDED), Status.PROCESSING, "running", None)


def test_the_deadline_begins_with_the_job() -> None:
    """Time in the queue does not count."""
    task = rules.begin_job(rules.begin_create(a_task(), 140.0, "by post"), Job("j1"), 150.0)
    assert (task.status, task.deadline_at) == (Status.WAITING, 210.0)


def test_a_cancel_during_the_create_waits_for_the_job() -> None:
    """First the job must be known; then it is cancelled."""
    asked = rules.request_cancel(a_task(Status.CREATING), "client")
    assert asked.status is Status.CREATING
    assert rules.begin_job(asked, Job("j1"), 110.0).status is Status.CANCELLING


@pytest.mark.parametrize("status", [Status.WAITING, Status.PROCESSING, Status.PAUSED])
def test_a_cancelling_task_stays_so_while_the_job_runs(status: Status) -> None:
    """What the provider says of the running job is recorded, but the status tells what we are doing."""
    task = rules.observe(rules.request_cancel(a_task(status), "client"), Status.PROCESSING, "running", 0.5)
    assert (task.status, task.provider_status, task.progress) == (Status.CANCELLING, "running", 0.5)


def test_an_observation_without_news_changes_nothing() -> None:
    """The same object comes back, so that nobody writes or sends it."""
    task = rules.observe(a_task(Status.WAITING), Status.PROCESSING, "running", 0.5)
    assert rules.observe(task, Status.PROCESSING, "running", 0.5) is task


def test_a_create_anew_has_a_new_token() -> None:
    """Under the old one the provider might answer with the job that is in doubt."""
    assert rules.create_anew(rules.park_unknown(a_task(Status.CREATING), "lost"), "k2").token == "k2"


def test_success_is_complete() -> None:
    """Progress is 1 at the end of a success, and stays what it was at every other end."""
    task = rules.observe(a_task(Status.WAITING), Status.PROCESSING, "running", 0.4)
    assert rules.settle(task, Succeeded(), 170.0).progress == 1.0
    assert rules.settle(task, Failed("provider"), 170.0).progress == 0.4


def test_a_story_tells_what_changed() -> None:
    """Status and the provider's word, with the time; progress alone is no news."""
    first = a_task(Status.WAITING)
    second = rules.observe(first, Status.PROCESSING, "running", 0.1)
    told = rules.remember(second, first, 120.0)
    assert told.story == (rules.Moment(120.0, Status.PROCESSING, "running"),)
    third = rules.observe(told, Status.PROCESSING, "running", 0.2)
    assert rules.remember(third, told, 130.0) is third


def test_a_long_story_loses_its_beginning() -> None:
    """A job that goes to and fro does not let the record grow for ever."""
    task = a_task(Status.WAITING)
    for number in range(3 * rules.MAX_STORY):
        before = task
        status = (Status.PROCESSING, Status.WAITING)[number % 2]
        task = rules.remember(rules.observe(before, status, "s", None), before, float(number))
    assert len(task.story) == rules.MAX_STORY
    assert task.story[-1].at == 3 * rules.MAX_STORY - 1.0
