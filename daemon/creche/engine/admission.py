"""From what a client or the configuration says to what the engine minds, or the reason why not."""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NoReturn
from urllib.parse import urlsplit

import msgspec

from creche.core import task as rules
from creche.core.document import suggestion
from creche.core.exchange import Call
from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Status, Task
from creche.core.way import Way
from creche.core.wire import MAX_DEADLINE_S, JobIn, ResolveIn, TaskIn, fingerprint, seconds_of
from creche.engine.live import Algorithm
from creche.engine.ports import Poll
from creche.errors import InvalidRequest, Outage, UnknownAlgorithm, WrongStatus


def admit(task_in: TaskIn, algorithms: Mapping[str, Algorithm], now: float, *, callbacks: bool = True) -> Task:
    """The record of a new task, accepted at `now` (Unix seconds). `callbacks`: whether it may have one. Raises
    `InvalidRequest`, `UnknownAlgorithm`.
    """
    algorithm = algorithms.get(task_in.algorithm)
    if algorithm is None:
        hint = suggestion(task_in.algorithm, algorithms)
        raise UnknownAlgorithm(f'no algorithm is called "{task_in.algorithm}"{hint}', pointer="/algorithm")
    if (task_in.input is msgspec.UNSET) == (task_in.job is msgspec.UNSET):
        raise InvalidRequest('expected either "input" (create a job) or "job" (attach to one)', pointer="")
    if task_in.start_at is not None and task_in.job is not msgspec.UNSET:
        raise InvalidRequest('"start_at" is for jobs that are yet to be created', pointer="/start_at")
    if task_in.callback is not None:
        _check_callback(task_in.callback, callbacks=callbacks)
    start_at = None if task_in.start_at is None else _moment(task_in.start_at, now)
    deadline_s = algorithm.deadline_s if task_in.deadline is None else seconds_of(task_in.deadline, "/deadline")
    task = Task(
        id=task_in.id or _new_id(),
        algorithm=task_in.algorithm,
        input=None if task_in.input is msgspec.UNSET else task_in.input,
        key=task_in.key,
        user=task_in.user,
        labels=task_in.labels,
        priority=task_in.priority,
        deadline_s=deadline_s,
        start_at=start_at,
        traceparent=task_in.traceparent,
        callback=task_in.callback,
        fingerprint=fingerprint(task_in),
        token=new_token(),
        accepted_at=now,
    )
    return task if task_in.job is msgspec.UNSET else rules.begin_job(task, attached(task_in.job, now), now)


def _check_callback(url: str, *, callbacks: bool) -> None:
    if not callbacks:
        raise InvalidRequest("this daemon signs no callbacks: set [callbacks] secret", pointer="/callback")
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InvalidRequest("expected https://HOST/PATH, or http://", pointer="/callback")


def _moment(given: datetime, now: float) -> float:
    if given.tzinfo is None:
        raise InvalidRequest('expected a time with its zone, such as "2030-01-31T12:00:00Z"', pointer="/start_at")
    try:
        moment = given.timestamp()
    except (OverflowError, ValueError):
        moment = math.inf
    if not 0 <= moment <= now + MAX_DEADLINE_S:
        raise InvalidRequest(f"expected a time within {MAX_DEADLINE_S / 86400:.0f} days from now", pointer="/start_at")
    return moment


def attached(job: str | JobIn, now: float) -> Job:
    """A job that exists already, known to us since now."""
    return Job(job, {}, now) if isinstance(job, str) else Job(job.id, job.keep, now)


def check_cancel(task: Task) -> None:
    """Whether a cancel can be asked for. Raises `WrongStatus`."""
    if task.status in rules.AT_REST:
        hint = "`creche resolve ID drop` gives it up" if task.status is Status.UNKNOWN else "it has ended"
        raise WrongStatus(f"the task is {task.status}: {hint}")


def decide(task: Task, decision: ResolveIn, now: float) -> Task | None:
    """What a person's decision makes of an `unknown` task; None: it is to be dropped. Raises `InvalidRequest`."""
    if decision.action != "attach" and decision.job is not msgspec.UNSET:
        raise InvalidRequest('only action "attach" takes a job', pointer="/job")
    match decision.action:
        case "attach":
            if decision.job is msgspec.UNSET:
                raise InvalidRequest('action "attach" needs the job', pointer="/job")
            return rules.begin_job(task, attached(decision.job, now), now)
        case "create":
            return rules.create_anew(task, new_token())
        case "drop":
            return None
        case action:
            raise InvalidRequest(f'expected attach, create or drop, got "{action}"', pointer="/action")


def new_token() -> str:
    """What identifies a create towards the provider: random, because a repeated one would find another task's job."""
    return secrets.token_hex(16)


def _new_id() -> str:
    """Sixteen letters and digits, 80 random bits: unguessable, and one double click selects it."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


def not_configured(name: str) -> Algorithm:
    """Stands in for an algorithm that has left the configuration: its tasks wait, visibly, until it returns.

    No slots: whoever has no job yet waits for one, so that the limit holds when the algorithm is back.
    """
    return Algorithm(name=name, provider=_NotConfigured(name), rhythm=Rhythm(), in_flight=0)


class _NeverAsked:
    def __init__(self, refuse: Callable[[], NoReturn]) -> None:
        self._refuse = refuse

    async def __call__(self) -> Reading:
        self._refuse()

    def repeat(self, _: Callable[[bool], None], *, step_s: float) -> bool:  # noqa: ARG002 - never
        return False

    def abandon(self) -> None:
        pass


class _NotConfigured:
    # Nothing is sent; a create that may have arrived stays open until the real provider is back.
    way = Way(repeat="token")
    told_once = given_once = cancel_deletes = False
    cancel_ends: frozenset[JobStatus] = frozenset()
    batch = 1
    account = ""

    def __init__(self, name: str) -> None:
        self._complaint = f'algorithm "{name}" is no longer in the configuration'

    async def create(self, _: Task) -> Reading:
        self._refuse()

    async def find(self, _: Task) -> Reading | None:
        self._refuse()

    def poll_of(self, _: Job) -> Poll:
        return _NeverAsked(self._refuse)

    async def poll_many(self, _: Sequence[Job]) -> dict[str, Reading]:
        self._refuse()

    async def fetch(self, _: Job, __: Reading) -> Reading:
        self._refuse()

    def assets_of(self, _: Job, __: Reading) -> Sequence[Call]:
        return ()

    async def cancel(self, _: Job) -> bool:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise Outage(self._complaint)
