"""What is to be done next about an unfinished task, whoever meets it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.core.reading import JobStatus, Reading
from creche.core.reconcile import Create, Doubt, Fetch, Finish, LookUp, Mind, Park, Policy, Rest, next_step
from creche.core.task import Cancelled, Job, Sent, Status, Task
from creche.core.way import Repeat, Way
from creche.testing import make_task

NOW = 10_000.0
JOB = Job("j", {}, NOW)
ENDED = Reading(status=JobStatus.SUCCEEDED, to_fetch=True)
LOST = "the daemon ended while the create was on the wire"


def creating(**changes: Any) -> Task:  # noqa: ANN401 - any field of a task
    """A task whose create may have arrived, sent a minute ago."""
    return make_task("t", status=Status.CREATING, **{"sent": Sent(NOW - 60, "w"), **changes})


def policy(repeat: Repeat = "token", **changes: Any) -> Policy:  # noqa: ANN401 - any field of a policy
    """A policy whose creates go by the way `w`."""
    return Policy(way=Way(repeat=repeat, digest="w", within_s=86_400.0), **changes)


@pytest.mark.parametrize(
    ("task", "step"),
    [
        (make_task("t"), Create()),
        (make_task("t", cancel_reason="client"), Finish(Cancelled("client"))),
        (make_task("t", status=Status.PROCESSING, job=JOB), Mind()),
        (make_task("t", status=Status.CANCELLING, job=JOB, cancel_reason="client"), Mind()),
        (make_task("t", status=Status.PROCESSING, job=JOB, fetching=ENDED), Fetch(ENDED)),
        (make_task("t", status=Status.UNKNOWN), Rest()),
    ],
)
@pytest.mark.parametrize("repeat", ["none", "token", "id", "lookup"])
def test_without_doubt_the_class_does_not_matter(task: Task, step: object, repeat: Repeat) -> None:
    """What the record says is enough."""
    assert next_step(task, policy(repeat), NOW) == step


@pytest.mark.parametrize(
    ("repeat", "step"), [("none", Park(LOST)), ("token", Create()), ("id", Create()), ("lookup", LookUp())]
)
@pytest.mark.parametrize("cancel_reason", [None, "client"])
def test_a_create_that_may_have_arrived(repeat: Repeat, step: object, cancel_reason: str | None) -> None:
    """Each class has its way; a cancel does not change it: first it must be known whether there is a job."""
    assert next_step(creating(cancel_reason=cancel_reason), policy(repeat), NOW) == step


@pytest.mark.parametrize(
    ("repeat", "step"), [("none", Create()), ("token", Create()), ("id", Create()), ("lookup", LookUp())]
)
def test_on_unknown_retry(repeat: Repeat, step: object) -> None:
    """Where nobody can tell a second create is accepted; who can look, looks."""
    assert next_step(creating(), policy(repeat, retry=True), NOW) == step


@pytest.mark.parametrize("repeat", ["token", "id", "lookup"])
@pytest.mark.parametrize(
    ("doubt", "again"),
    [
        (Doubt(tried_s=3599), True),
        (Doubt(tried_s=3600), False),
        (Doubt(failures=4), True),
        (Doubt(failures=5), False),
        (Doubt(hopeless=True), False),
    ],
)
def test_doubt_ends(repeat: Repeat, doubt: Doubt, again: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """After as long as the job itself might take, after too many answers that helped nothing, or where none will."""
    assert isinstance(next_step(creating(), policy(repeat), NOW, doubt), Park) is not again


@pytest.mark.parametrize("repeat", ["token", "id", "lookup"])
def test_what_the_provider_may_have_forgotten_is_not_repeated(repeat: Repeat) -> None:
    """A token from yesterday makes a second job: the daemon was away for longer than the provider remembers."""
    assert next_step(creating(sent=Sent(NOW - 86_399, "w")), policy(repeat), NOW) in (Create(), LookUp())
    assert next_step(creating(sent=Sent(NOW - 86_400, "w")), policy(repeat), NOW) == Park(LOST)
    assert next_step(creating(sent=None, accepted_at=NOW - 86_400), policy(repeat), NOW) == Park(LOST)


@pytest.mark.parametrize("repeat", ["none", "token", "id", "lookup"])
def test_a_create_whose_way_has_changed_is_not_repeated(repeat: Repeat) -> None:
    """Another recipe, parameter or address would make another job, whatever token it carries."""
    step = next_step(creating(sent=Sent(NOW - 60, "another")), policy(repeat), NOW)
    assert step == Park(f"{LOST}; since then the way in which it is sent has changed")
    assert next_step(creating(sent=Sent(NOW - 60, "another")), policy(repeat, retry=True), NOW) == Create()


def test_a_way_that_is_not_known_has_not_changed() -> None:
    """The algorithm has left the configuration for a while, or the record is from before ways were kept."""
    away = Policy(way=Way(repeat="token"))
    assert next_step(creating(), away, NOW) == Create()
    assert next_step(creating(sent=Sent(NOW - 60)), policy(), NOW) == Create()
    assert next_step(creating(sent=None, accepted_at=NOW - 60), policy(), NOW) == Create()


def test_a_park_tells_what_was_learned() -> None:
    """Not merely that the daemon was restarted."""
    doubt = Doubt(why="HTTP 500: no")
    assert next_step(creating(), policy("none"), NOW, doubt) == Park("HTTP 500: no")


def test_a_record_survives_the_store() -> None:
    """What is decided after a restart is decided by what was written."""
    task = creating(fetching=ENDED)
    assert msgspec.json.decode(msgspec.json.encode(task), type=Task) == task
