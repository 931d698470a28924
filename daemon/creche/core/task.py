"""What a task is, which statuses it can have, and how it gets from one to the next.

Two house rules. First: nothing here reads a clock, a socket or a file; times come in as values, in Unix seconds.
Second: a task is never changed, each function returns the record that follows; every change of status goes through
`MOVES`, so that a status which the table does not allow cannot come to be. The diagram in
docs/explanation/statuses.md is generated from this table and a test compares the two.

`unknown` is where a task waits for a person: nobody can tell whether its job exists (design: "never pay twice").
It is at rest, but it is no end: it has no outcome, and `resolve` leads out of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import assert_never

import msgspec

from creche.core.assets import Asset
from creche.core.reading import Reading


class Status(StrEnum):
    """Where a task is; the words of the API."""

    ACCEPTED = "accepted"
    CREATING = "creating"
    WAITING = "waiting"
    PROCESSING = "processing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SERVER_FAILED = "server_failed"
    UNKNOWN = "unknown"


ENDS = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT, Status.SERVER_FAILED})
"""The statuses that a task never leaves."""

AT_REST = ENDS | {Status.UNKNOWN}
"""The statuses in which no child works on the task."""

_MINDED = frozenset({Status.WAITING, Status.PROCESSING, Status.PAUSED})

MOVES: Mapping[Status, frozenset[Status]] = {
    # An attached job skips the create; a cancel before the create needs no provider.
    Status.ACCEPTED: _MINDED | {Status.CREATING, Status.CANCELLED, Status.FAILED, Status.SERVER_FAILED},
    # Back to accepted: the provider certainly made no job (busy, unreachable, unauthorized).
    Status.CREATING: _MINDED | ENDS | {Status.ACCEPTED, Status.CANCELLING, Status.UNKNOWN},
    Status.WAITING: ENDS | {Status.PROCESSING, Status.PAUSED, Status.CANCELLING},
    Status.PROCESSING: ENDS | {Status.WAITING, Status.PAUSED, Status.CANCELLING},
    Status.PAUSED: ENDS | {Status.WAITING, Status.PROCESSING, Status.CANCELLING},
    Status.CANCELLING: ENDS,
    # A person resolves: attach a job, create anew, drop.
    Status.UNKNOWN: frozenset({Status.WAITING, Status.ACCEPTED, Status.CANCELLED}),
}


DEADLINE = "deadline"
"""The reason of a cancel that nobody asked for but the algorithm's `on_timeout`."""


class IllegalMove(Exception):
    """A move that `MOVES` does not allow was asked for: a defect of the caller, never of the world."""


# -- outcomes ----------------------------------------------------------------------------------------


class ResultFile(msgspec.Struct, frozen=True):
    """A result that is kept in a file of its own: its size, and the SHA-256 of its bytes in hexadecimal digits."""

    bytes: int
    sha256: str


class Succeeded(msgspec.Struct, frozen=True, tag_field="status", tag="succeeded"):
    """The provider's success, the result in hand. `result` is JSON as the provider gave it; `partial` where it
    says so. With `file` the store has the result apart, and `result` is null. `assets` are its files, where these are
    saved.
    """

    result: msgspec.Raw = msgspec.Raw(b"null")
    partial: bool = False
    file: ResultFile | None = None
    assets: tuple[Asset, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag_field="status", tag="failed"):
    """The provider's failure. `reason` is one of:

    `provider` (the job failed), `expired` (the provider gave up on it), `create_refused` (there is no job),
    `job_lost` (the provider no longer knows it), `result_refused` (the job ended well but its result cannot be had).
    """

    reason: str
    message: str = ""


class Cancelled(msgspec.Struct, frozen=True, tag_field="status", tag="cancelled"):
    """`reason` is `client` (asked for here), `provider` (ended from the provider's side) or `dropped` (given up by
    `resolve`).
    """

    reason: str


class TimedOut(msgspec.Struct, frozen=True, tag_field="status", tag="timed_out"):
    """Our deadline passed, `after_s` seconds after the job began; one last poll was made first.

    `cancelled` tells that the provider agreed to end the job; else it may still run.
    """

    after_s: float
    cancelled: bool = False
    reason: str = "deadline"


class ServerFailed(msgspec.Struct, frozen=True, tag_field="status", tag="server_failed"):
    """`failures` answer errors in a row without one good answer; `message` is the last one. The job may still run."""

    failures: int
    message: str
    reason: str = "answer_errors"


Outcome = Succeeded | Failed | Cancelled | TimedOut | ServerFailed


def status_of(outcome: Outcome) -> Status:
    """The end that an outcome stands for."""
    match outcome:
        case Succeeded():
            return Status.SUCCEEDED
        case Failed():
            return Status.FAILED
        case Cancelled():
            return Status.CANCELLED
        case TimedOut():
            return Status.TIMED_OUT
        case ServerFailed():
            return Status.SERVER_FAILED
        case _:
            assert_never(outcome)


# -- the record --------------------------------------------------------------------------------------


class Job(msgspec.Struct, frozen=True):
    """The provider's side of a task.

    `id` is the provider's; `keep` are values that the recipe took from the create answer and needs again (poll and
    result URLs, a parent's id); `since` is when we learned of it.
    """

    id: str
    keep: Mapping[str, str] = {}
    since: float = 0.0


class Sent(msgspec.Struct, frozen=True):
    """A create that may be on the wire: since when it may, and by which way (`core.way`) it went first."""

    since: float
    way: str = ""


class Moment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A status that a task came to, when, and what the provider called it."""

    at: float
    status: Status
    provider_status: str | None = None


class Answered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the provider said to a request, when, and after how long; None where many tasks were asked for at once."""

    at: float
    request: str
    said: str
    seconds: float | None = None


MAX_ANSWERS = 8
MAX_SAID = 200

MAX_STORY = 40
"""Moments that are kept of a task: of a job that goes to and fro the last ones."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One task, whole: what the client said, and what became of it.

    `token` identifies the create towards the provider (idempotency key, client-chosen job id); it is on disk before the
    first byte leaves and stays the same however often the create is repeated. `fingerprint` tells whether a repeated
    `key` came with the same content. `sent` is there while nobody knows whether the create arrived. `deadline_at` is
    set when the job begins; before that only `deadline_s` counts. `fetching` is what the provider said of a job that
    is over, while its result is yet to be fetched. In a fleet `epoch` tells how often it was taken over: what was
    written by an owner of before is refused. `story` tells what it went through between its acceptance and its end,
    `answers` what the provider said last.
    """

    # what the client said
    id: str
    algorithm: str
    input: msgspec.Raw | None = None
    key: str | None = None
    user: str | None = None
    labels: Mapping[str, str] = {}
    priority: int = 0
    deadline_s: float = 3600.0
    start_at: float | None = None
    traceparent: str | None = None
    callback: str | None = None
    fingerprint: str = ""
    # what became of it
    token: str
    accepted_at: float
    epoch: int = 0
    status: Status = Status.ACCEPTED
    sent: Sent | None = None
    job: Job | None = None
    deadline_at: float | None = None
    provider_status: str | None = None
    progress: float | None = None
    fetching: Reading | None = None
    cancel_reason: str | None = None
    note: str = ""
    story: tuple[Moment, ...] = ()
    answers: tuple[Answered, ...] = ()
    outcome: Outcome | None = None
    settled_at: float | None = None

    @property
    def trace_id(self) -> str | None:
        """Of the W3C trace context that came with the task."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]

    @property
    def ended(self) -> bool:
        """Whether the task has its one outcome."""
        return self.outcome is not None


def _move(task: Task, status: Status) -> None:
    if status != task.status and status not in MOVES.get(task.status, frozenset()):
        raise IllegalMove(f"task {task.id}: {task.status} -> {status}")


def _replace(task: Task, **changes: object) -> Task:
    return msgspec.structs.replace(task, **changes)


def remember(task: Task, before: Task, now: float) -> Task:
    """Add to the story what has changed since `before`. The same object if the status is the same."""
    if task.status is before.status and task.provider_status == before.provider_status:
        return task
    moment = Moment(now, task.status, task.provider_status)
    return _replace(task, story=(*task.story[-MAX_STORY + 1 :], moment))


def hear(task: Task, answered: Answered) -> Task:
    """Keep what the provider said. The same once more stands for both, with the newer times."""
    kept = task.answers
    if kept and (kept[-1].request, kept[-1].said) == (answered.request, answered.said):
        kept = kept[:-1]
    return _replace(task, answers=(*kept[-MAX_ANSWERS + 1 :], answered))


def begin_create(task: Task, now: float, way: str) -> Task:
    """The intent: from here on the request may be on the wire. A repetition leaves it as the first one was."""
    _move(task, Status.CREATING)
    sent = task.sent if task.status is Status.CREATING and task.sent is not None else Sent(now, way)
    return _replace(task, status=Status.CREATING, sent=sent, note="")


def put_back(task: Task, note: str) -> Task:
    """The provider certainly made no job: wait and create later. `note` says why."""
    _move(task, Status.ACCEPTED)
    return _replace(task, status=Status.ACCEPTED, sent=None, note=note)


def begin_job(task: Task, job: Job, now: float, reading: Reading | None = None) -> Task:
    """The job is known, created or attached; its deadline starts here. `reading`: what the create's answer said."""
    status = Status.CANCELLING if task.cancel_reason and task.status is Status.CREATING else Status.WAITING
    _move(task, status)
    fetching = reading if reading is not None and reading.to_fetch else None
    deadline_at = now + task.deadline_s
    return _replace(task, status=status, sent=None, job=job, deadline_at=deadline_at, fetching=fetching, note="")


def observe(task: Task, status: Status, provider_status: str | None, progress: float | None) -> Task:
    """A good answer of a running job. Returns the same object when it says nothing new; a cancelling task stays so."""
    if task.status is Status.CANCELLING:
        status = Status.CANCELLING
    if task.status is status and task.provider_status == provider_status and task.progress == progress:
        return task
    _move(task, status)
    return _replace(task, status=status, provider_status=provider_status, progress=progress)


def request_cancel(task: Task, reason: str) -> Task:
    """Record that a cancel was asked for. While the create is on the wire the status stays: first the job must be
    known.
    """
    if task.status in _MINDED:
        return _replace(task, status=Status.CANCELLING, cancel_reason=reason)
    return _replace(task, cancel_reason=reason)


def park_unknown(task: Task, note: str) -> Task:
    """Nobody can tell whether the job exists; a person must look. `note` says what happened."""
    _move(task, Status.UNKNOWN)
    return _replace(task, status=Status.UNKNOWN, sent=None, note=note)


def create_anew(task: Task, token: str) -> Task:
    """`resolve`: a person decided that no job exists, or that a second one is all right; hence a new token."""
    _move(task, Status.ACCEPTED)
    return _replace(task, status=Status.ACCEPTED, token=token, note="")


def doubt_after_restore(task: Task) -> Task:
    """A task out of a backup: its create may have been sent since that was made. The same object if it has a job."""
    if task.status is not Status.ACCEPTED:
        return task
    return _replace(task, status=Status.CREATING, sent=Sent(task.accepted_at))


def shift(task: Task, by_s: float) -> Task:
    """The clock was set by so much: what is to come stays as far away as it was. The same object if nothing is."""
    if task.sent is not None:
        return _replace(task, sent=Sent(task.sent.since + by_s, task.sent.way))
    if task.job is None or task.deadline_at is None:
        return task
    job = Job(task.job.id, task.job.keep, task.job.since + by_s)
    return _replace(task, job=job, deadline_at=task.deadline_at + by_s)


def set_apart(task: Task, max_inline: int) -> tuple[Task, bytes | None]:
    """The task as it is recorded, and its result where that is longer than `max_inline` bytes: it goes in a file."""
    outcome = task.outcome
    if not isinstance(outcome, Succeeded) or len(outcome.result) <= max_inline:
        return task, None
    result = bytes(outcome.result)
    file = ResultFile(len(result), hashlib.sha256(result).hexdigest())
    return _replace(task, outcome=Succeeded(partial=outcome.partial, file=file, assets=outcome.assets)), result


def settle(task: Task, outcome: Outcome, now: float) -> Task:
    """Give the task its one outcome."""
    if task.outcome is not None:
        raise IllegalMove(f"task {task.id} has its outcome: {task.status}")
    status = status_of(outcome)
    _move(task, status)
    progress = 1.0 if isinstance(outcome, Succeeded) else task.progress
    return _replace(
        task, status=status, outcome=outcome, settled_at=now, sent=None, fetching=None, progress=progress, note=""
    )
