"""Events about tasks for those who count them: a job was made, a task has ended.

An event is a message like that of a webhook, written with what it tells of and kept until it is taken; but many go in
one request, so they wait for each other a little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from creche.core.task import Task
from creche.core.webhooks import Delivery
from creche.core.wire import utc

PREFIX = "analytics."
"""Of the names under which collectors stand in the outbox; no webhook has a name with a dot."""

GATHER_S = 5.0
"""Events of so many seconds go together."""

Form = Literal["json", "sensors"]


class Collector(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to send events. `secret` lets us in. No `algorithms` mean all."""

    name: str
    url: str
    form: Form = "json"
    secret: str = ""
    algorithms: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Collector({self.name})"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What a collector gets. `id` is the same whenever an event is sent once more. `seconds` is how long the task took
    from its acceptance until then.
    """

    id: str
    event: Literal["created", "settled"]
    time: datetime
    task: str
    algorithm: str
    user: str | None
    job: str | None
    status: str
    reason: str | None
    seconds: float
    trace: str | None


def events(task: Task, collectors: Iterable[Collector], now: float) -> tuple[Delivery, ...]:
    """The messages about a task that has its job now, or its outcome."""
    names = [one.name for one in collectors if not one.algorithms or task.algorithm in one.algorithms]
    if not names:
        return ()
    event: Literal["created", "settled"] = "settled" if task.ended else "created"
    told = Event(
        id=f"{task.id}.{event}",
        event=event,
        time=utc(now),
        task=task.id,
        algorithm=task.algorithm,
        user=task.user,
        job=None if task.job is None else task.job.id,
        status=task.status,
        reason=getattr(task.outcome, "reason", None),
        seconds=round(max(0.0, now - task.accepted_at), 3),
        trace=task.trace_id,
    )
    body = msgspec.json.encode(told)
    due_at = math.ceil(now / GATHER_S) * GATHER_S
    return tuple(
        Delivery(id=f"{told.id}.{name}", task=task.id, endpoint=name, body=body, since=now, due_at=due_at)
        for name in names
    )
