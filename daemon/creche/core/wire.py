"""What goes over the API and the stream, as msgspec structs, and how refusals look (RFC 9457).

Field order is the order on the wire. Times are RFC 3339 in UTC, durations as in config.toml ("90s") or a number of
seconds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import msgspec

from creche.core.assets import Asset
from creche.core.document import parse_duration, suggestion
from creche.core.exchange import Response
from creche.core.task import (
    Answered,
    Cancelled,
    Failed,
    Moment,
    ResultFile,
    ServerFailed,
    Status,
    Succeeded,
    Task,
    TimedOut,
)
from creche.errors import InvalidRequest

T = TypeVar("T")

_PLAIN = r"^[^\x00-\x1f\x7f]*(?!\n)$"
"""No control characters: these values go into logs and headers. (`$` alone would let a last line feed through.)"""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_PLAIN)]
TaskId = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}(?!\n)$", description="1 to 64 characters")
]
JobId = Annotated[
    str, msgspec.Meta(min_length=1, max_length=2000, pattern=_PLAIN, description="the provider's id of a job")
]

_URL = r"^https?://[!-~]+(?!\n)$"

LabelValue = Annotated[str, msgspec.Meta(max_length=200, pattern=_PLAIN)]

MAX_LABELS = 32
MAX_KEPT = 32
MAX_DEADLINE_S = 400 * 86400.0
"""A little over a year: beyond it a deadline is more likely a unit mistaken (milliseconds) than a wish."""


class JobIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job that exists, with the values that its recipe would have kept from the create answer."""

    id: JobId
    keep: Annotated[dict[Name, Annotated[str, msgspec.Meta(max_length=4000)]], msgspec.Meta(max_length=MAX_KEPT)] = {}


class TaskIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A task as a client submits it: `algorithm`, and either `input` (create a job) or `job` (attach to one that
    exists).
    """

    algorithm: Name
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    job: JobId | JobIn | msgspec.UnsetType = msgspec.UNSET
    id: TaskId | None = None
    key: Name | None = None
    user: Name | None = None
    labels: Annotated[dict[Name, LabelValue], msgspec.Meta(max_length=MAX_LABELS)] = {}
    deadline: str | float | None = None
    start_at: datetime | None = None
    traceparent: (
        Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?!\n)$")] | None
    ) = None
    priority: Annotated[int, msgspec.Meta(ge=-100, le=100)] = 0
    callback: Annotated[str, msgspec.Meta(max_length=2000, pattern=_URL)] | None = None


class ResolveIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person decided about an unknown task. `attach` needs `job`."""

    action: str
    job: JobId | JobIn | msgspec.UnsetType = msgspec.UNSET


class JobOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """The provider's side of a task."""

    id: str
    since: datetime
    status: str | None = None


class MomentOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """A status that a task came to, when, and the provider's own word for it."""

    at: datetime
    status: Status
    job_status: str | None = None


class AnsweredOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the provider said: its word for the job's state, or what went wrong."""

    at: datetime
    request: str
    said: str
    seconds: float | None = None


class TaskOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A task as clients see it. Fields without a value are left out.

    `result` (and `partial`) come with `succeeded`, or instead `result_file` when it is large: `GET …/result` has it
    then; `assets` are its files, where they are saved; `reason` and `message` with every other end. `condition`,
    `failures`, `last_error` and `heartbeat_at` are there while a child minds the task. `story` (asked for) has its
    moments in order, from the acceptance to the end; with it come the last `answers` of the provider.
    """

    id: str
    algorithm: str
    status: Status
    reason: str | None = None
    message: str | None = None
    result: msgspec.Raw | None = None
    result_file: ResultFile | None = None
    assets: tuple[Asset, ...] = ()
    partial: bool = False
    progress: float | None = None
    job: JobOut | None = None
    key: str | None = None
    user: str | None = None
    labels: Mapping[str, str] = {}
    priority: int = 0
    accepted_at: datetime
    start_at: datetime | None = None
    deadline_at: datetime | None = None
    settled_at: datetime | None = None
    cancel_reason: str | None = None
    note: str = ""
    traceparent: str | None = None
    callback: str | None = None
    condition: str | None = None
    failures: int = 0
    last_error: str = ""
    heartbeat_at: datetime | None = None
    input: msgspec.Raw | None = None
    story: tuple[MomentOut, ...] = ()
    answers: tuple[AnsweredOut, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """A page of tasks, newest first. `after` asks for the next one; null on the last."""

    tasks: list[TaskOut]
    after: str | None


class Results(msgspec.Struct, frozen=True):
    """Outcomes in the order of the feed. `cursor` asks for what follows. `resync`: some before these fell to
    retention.
    """

    results: list[TaskOut]
    cursor: str
    resync: bool = False


class Hello(msgspec.Struct, frozen=True, tag_field="type", tag="hello"):
    """The stream's first message: where the feed stands, and which node speaks."""

    cursor: str
    node: str
    version: str


class Result(msgspec.Struct, frozen=True, tag_field="type", tag="result"):
    """One outcome; `cursor` resumes behind it."""

    cursor: str
    task: TaskOut


class Resync(msgspec.Struct, frozen=True, tag_field="type", tag="resync"):
    """The cursor is older than retention, or not of this store: outcomes may be missing; look tasks up by id."""

    cursor: str


class Update(msgspec.Struct, frozen=True, tag_field="type", tag="update"):
    """A task that changed without ending (`?updates=1`); of several changes in quick succession only the last is
    sent.
    """

    task: TaskOut


class ProblemDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """One cause; `pointer` is an RFC 6901 pointer into the request body."""

    detail: str
    pointer: str | None = None


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A refusal (RFC 9457). `code` is stable; docs/reference/errors.md lists all codes."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    errors: list[ProblemDetail] = []


_TITLES = {code.value: code.phrase for code in HTTPStatus}


def problem(status: int, code: str, detail: str, *, pointer: str | None = None) -> Problem:
    """A refusal as a value."""
    errors = [ProblemDetail(detail, pointer)] if pointer is not None else []
    return Problem(title=_TITLES.get(status, "Error"), status=status, code=code, detail=detail, errors=errors)


def problem_response(status: int, code: str, detail: str, *, pointer: str | None = None) -> Response:
    """A refusal as an answer. 503 asks to come back in a second."""
    headers = (("Retry-After", "1"),) if status == 503 else ()  # noqa: PLR2004
    body = msgspec.json.encode(problem(status, code, detail, pointer=pointer))
    return Response(status=status, body=body, content_type="application/problem+json", headers=headers)


def decode(body: bytes, type_: type[T]) -> T:
    """Decode a request body. Raises `InvalidRequest` with a pointer to what is wrong."""
    try:
        body.decode()  # what is passed on verbatim is not looked into otherwise
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as exc:
        message, _, path = str(exc).partition(" - at `$")
        pointer = _path_to_pointer(path.rstrip("`"))
        unknown = re.search(r"unknown field `(.*)`", message)
        if unknown:
            if not pointer:
                message += suggestion(unknown[1], (field.encode_name for field in _fields(type_)))
            pointer = f"{pointer}/{_escape(unknown[1])}"
        raise InvalidRequest(message, pointer=pointer) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"the body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidRequest("the body is nested too deeply") from exc


def _fields(type_: Any) -> tuple[msgspec.structs.FieldInfo, ...]:  # noqa: ANN401 - a struct class
    return msgspec.structs.fields(type_)


def _path_to_pointer(path: str) -> str:
    """`.labels[...]` (msgspec) to `/labels` (RFC 6901); what msgspec does not name ends the pointer."""
    pointer = ""
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        if index == "...":
            break
        pointer += "/" + (_escape(name) if name else index)
    return pointer


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def seconds_of(value: str | float, pointer: str) -> float:
    """A duration from a client. Raises `InvalidRequest`."""
    try:
        seconds = parse_duration(value) if isinstance(value, str) else float(value)
    except ValueError as exc:
        raise InvalidRequest(f"{exc} or a number of seconds", pointer=pointer) from exc
    if not 0 < seconds <= MAX_DEADLINE_S:
        raise InvalidRequest(f"expected more than 0 and at most {MAX_DEADLINE_S:.0f} seconds", pointer=pointer)
    return seconds


def fingerprint(task: TaskIn) -> str:
    """What makes two submits the same: everything but the id under which the task is kept, and the trace.

    A repetition may have a new span, and its labels in another order.
    """
    content = msgspec.json.encode(msgspec.structs.replace(task, id=None, traceparent=None), order="deterministic")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def moment(unix_s: float | None) -> datetime | None:
    """As `utc`, of a time that may not have come."""
    return None if unix_s is None else utc(unix_s)


def utc(unix_s: float) -> datetime:
    """Unix seconds as a time in UTC, to the millisecond."""
    return datetime.fromtimestamp(round(unix_s, 3), UTC)


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """What only the daemon that minds a task knows of it."""

    condition: str | None = None
    failures: int = 0
    last_error: str = ""
    heartbeat_at: float | None = None


def task_out(task: Task, live: Live | None = None, *, with_input: bool = False, with_story: bool = False) -> TaskOut:
    """A task for the wire."""
    live = live or Live()
    reason, message, result, partial = _outcome_out(task)
    file = task.outcome.file if isinstance(task.outcome, Succeeded) else None
    job = task.job
    return TaskOut(
        id=task.id,
        algorithm=task.algorithm,
        status=task.status,
        reason=reason,
        message=message or None,
        result=result if file is None else None,
        result_file=file,
        assets=task.outcome.assets if isinstance(task.outcome, Succeeded) else (),
        partial=partial,
        progress=task.progress,
        job=None if job is None else JobOut(job.id, utc(job.since), task.provider_status),
        key=task.key,
        user=task.user,
        labels=task.labels,
        priority=task.priority,
        accepted_at=utc(task.accepted_at),
        start_at=moment(task.start_at),
        deadline_at=moment(task.deadline_at),
        settled_at=moment(task.settled_at),
        cancel_reason=task.cancel_reason,
        note=task.note,
        traceparent=task.traceparent,
        callback=None if task.callback is None else task.callback.partition("?")[0],
        condition=live.condition,
        failures=live.failures,
        last_error=live.last_error,
        heartbeat_at=moment(live.heartbeat_at),
        input=task.input if with_input else None,
        story=_story_out(task) if with_story else (),
        answers=tuple(map(_answered_out, task.answers)) if with_story else (),
    )


def _story_out(task: Task) -> tuple[MomentOut, ...]:
    moments = [Moment(task.accepted_at, Status.ACCEPTED), *task.story]
    if task.settled_at is not None:
        moments.append(Moment(task.settled_at, task.status))
    return tuple(MomentOut(utc(moment.at), moment.status, moment.provider_status) for moment in moments)


def _answered_out(answered: Answered) -> AnsweredOut:
    return AnsweredOut(utc(answered.at), answered.request, answered.said, answered.seconds)


def _outcome_out(task: Task) -> tuple[str | None, str, msgspec.Raw | None, bool]:
    match task.outcome:
        case None:
            return None, "", None, False
        case Succeeded(result=result, partial=partial):
            return None, "", result, partial
        case Cancelled(reason=reason):
            return reason, "", None, False
        case TimedOut(reason=reason, after_s=after_s, cancelled=cancelled):
            job = "the provider ends the job" if cancelled else "the job may still run"
            return reason, f"no end within {after_s:g} s; {job}", None, False
        case Failed(reason=reason, message=message):
            return reason, message, None, False
        case ServerFailed(reason=reason, message=message, failures=failures):
            return reason, f"{failures} answers in a row were errors; the last: {message}", None, False
