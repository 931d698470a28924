"""A task as a trace, told when it has ended: its life is the span, each status that it came to a span within. So are
the requests whose answers the record has, of polls that were answered alike the last one, and the settling.

Everything follows from the record, so that a trace is whole though the daemon was restarted in the midst of it, and
costs nothing before the end. The form is OTLP in JSON (https://opentelemetry.io/docs/specs/otlp/), the ids are those of
W3C Trace Context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from creche.core.task import Moment, Status, Succeeded, Task

_INTERNAL, _CLIENT = 1, 3
_OK, _ERROR = 1, 2
_SAMPLED = 0x01


class Context(NamedTuple):
    """Where a task is in its trace: `parent` is the span of whoever submitted it, "" where it is the first."""

    trace: str
    span: str
    parent: str
    sampled: bool


def context_of(task: Task) -> Context:
    """It is the same whenever it is asked for: the task's span has an id that follows from the task's token."""
    made = hashlib.sha256(f"{task.id} {task.token}".encode()).hexdigest()
    if task.traceparent is None:
        return Context(made[:32], made[32:48], "", sampled=True)
    _, trace, parent, flags = task.traceparent.split("-")
    return Context(trace, made[32:48], parent, sampled=bool(int(flags, 16) & _SAMPLED))


def spans(task: Task) -> list[dict[str, Any]]:
    """The spans of a task that has ended, as OTLP has them; none of one that is not to be sampled."""
    context = context_of(task)
    if not context.sampled or task.settled_at is None:
        return []
    moments = [Moment(task.accepted_at, Status.ACCEPTED), *task.story, Moment(task.settled_at, task.status)]
    reason = getattr(task.outcome, "reason", None)
    status: dict[str, Any] = {"code": _OK}
    if not isinstance(task.outcome, Succeeded):
        status = {"code": _ERROR, "message": f"{task.status}: {reason}"}
    about: dict[str, str | None] = {
        "creche.task.id": task.id,
        "creche.algorithm": task.algorithm,
        "creche.status": task.status.value,
        "creche.reason": reason,
        "creche.job.id": None if task.job is None else task.job.id,
        "enduser.id": task.user,
    }
    ids: dict[str, Any] = {"traceId": context.trace, "spanId": context.span, "kind": _INTERNAL}
    if context.parent:
        ids["parentSpanId"] = context.parent
    whole = {
        **ids,
        "name": f"task {task.algorithm}",
        **_times(moments[0].at, moments[-1].at),
        "attributes": attributes(about),
        "status": status,
    }
    parts = [
        {
            **ids,
            "spanId": _span_id(f"{context.span} {number}"),
            "parentSpanId": context.span,
            "name": now.status.value,
            **_times(now.at, after.at),
            "attributes": attributes({"creche.job.status": now.provider_status}),
        }
        for number, (now, after) in enumerate(pairwise(moments))
    ]
    requests = [
        {
            **ids,
            "spanId": _span_id(f"{context.span} {answered.request} {number}"),
            "parentSpanId": context.span,
            "kind": _CLIENT,
            "name": answered.request,
            **_times(answered.at - answered.seconds, answered.at),
            "attributes": attributes({"creche.answer": answered.said}),
        }
        for number, answered in enumerate(task.answers)
        if answered.seconds is not None
    ]
    last = max([moments[-2].at, *(answered.at for answered in task.answers)])
    settling = {
        **ids,
        "spanId": _span_id(f"{context.span} settle"),
        "parentSpanId": context.span,
        "name": "settle",
        **_times(last, task.settled_at),
        "attributes": [],
    }
    return [whole, *parts, *requests, settling]


def document(batch: Iterable[dict[str, Any]], resource: Mapping[str, str]) -> bytes:
    """An OTLP request."""
    scope = {"scope": {"name": "creche"}, "spans": list(batch)}
    return msgspec.json.encode(
        {"resourceSpans": [{"resource": {"attributes": attributes(resource)}, "scopeSpans": [scope]}]}
    )


def attributes(values: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """As OTLP has them; what is not there is left out."""
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items() if value is not None]


def _span_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _times(start: float, end: float) -> dict[str, str]:
    return {"startTimeUnixNano": _nanoseconds(start), "endTimeUnixNano": _nanoseconds(max(start, end))}


def _nanoseconds(unix_s: float) -> str:
    return str(round(unix_s * 1e6) * 1000)
