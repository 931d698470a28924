"""Stand-ins for the world, in memory, for tests and simulation; nothing else imports this.

Whoever writes a plug-in finds here the suite that every provider must pass: `checks`, over a `Recording`.

`MemoryStore` runs through the same suite as the real stores, so what holds on it holds on them. Both are for one thread
and for any clock, a mock one too.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar, assert_never

import msgspec
import trio

from creche.conformance import SECRET, TOKEN, Check, FakeTransport, checks
from creche.core import exchange
from creche.core.assets import urls_in
from creche.core.reading import JobStatus, Reading
from creche.core.recording import Recording, load_recording
from creche.core.task import Job, Task, set_apart
from creche.core.way import Repeat, Way
from creche.engine.ports import PAGE_BYTES, Accept, Accepted, Entry, Page, Poll, Query, Save, Settle, Write, Written
from creche.errors import AlreadySettled, KeyConflict, StoreUnavailable
from creche.testing_outbox import MemoryOutbox

__all__ = [
    "SECRET",
    "TOKEN",
    "Call",
    "Check",
    "FakeProvider",
    "FakeTransport",
    "MemoryStore",
    "Recording",
    "Standing",
    "checks",
    "load_recording",
    "make_task",
]

T = TypeVar("T")


def make_task(task_id: str, **changes: Any) -> Task:  # noqa: ANN401 - any field of a task
    """A task as it is accepted; its fingerprint is its id, unless told otherwise."""
    task = Task(id=task_id, algorithm="draw", token=f"token-{task_id}", accepted_at=1.0, fingerprint=task_id)
    return msgspec.structs.replace(task, **changes)


class MemoryStore:
    """`ports.Store` in dictionaries. While `failing` is True, every method raises `StoreUnavailable`.

    What was written outlives `close`, so the same object opened again is a daemon's restart.
    """

    def __init__(self, *, max_inline: int = 256 << 10) -> None:
        self.identity = secrets.token_hex(6)
        self.failing = False
        self.outbox = MemoryOutbox(self._fail)
        self.files: dict[str, bytes] = {}
        self._max_inline = max_inline
        self._tasks: dict[str, Task] = {}  # in order of acceptance
        self._ids: dict[str, str] = {}  # by key
        self._seqs: dict[str, int] = {}  # by id, in the order of the feed
        self._floor = 0
        self._head = 0

    def open(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        """All writes, each answered in order."""
        self._fail()
        return [self._write(write) for write in writes]

    def get(self, task_id: str) -> Task | None:
        """One task, or None."""
        self._fail()
        return self._tasks.get(task_id)

    def unfinished(self) -> list[Task]:
        """Every task without an outcome, in order of acceptance."""
        self._fail()
        return [task for task in self._tasks.values() if task.id not in self._seqs]

    def result_of(self, task_id: str) -> bytes | None:
        """The result that is kept apart, None where there is none."""
        self._fail()
        return self.files.get(task_id)

    def left_results(self) -> list[str]:
        """Unfinished tasks whose result is kept apart."""
        self._fail()
        return [task_id for task_id in self.files if task_id in self._tasks and task_id not in self._seqs]

    def list_tasks(self, query: Query) -> Page:
        """Tasks by `query`, newest first, without inputs."""
        self._fail()
        tasks = list(reversed(self._tasks.values()))
        if query.after is not None:
            if query.after not in self._tasks:
                return Page([], more=False)
            tasks = tasks[tasks.index(self._tasks[query.after]) + 1 :]
        return Page(*_page((_bare(task) for task in tasks if _wanted(query, task)), query.limit))

    def feed_after(self, seq: int, limit: int) -> list[Entry]:
        """Entries with a greater `seq`, in order, without inputs."""
        self._fail()
        tasks, _ = _page((_bare(self._tasks[task_id]) for task_id, at in self._seqs.items() if at > seq), limit)
        return [Entry(self._seqs[task.id], task) for task in tasks]

    def feed_bounds(self) -> tuple[int, int]:
        """`(floor, head)`."""
        self._fail()
        return self._floor, self._head

    def prune(self, *, settled_before: float, keep: int, limit: int) -> int:
        """Remove settled tasks from the start of the feed: the old ones, and those beyond the newest `keep`."""
        self._fail()
        pruned = 0
        for task_id in list(self._seqs)[:limit]:
            settled_at = self._tasks[task_id].settled_at or 0.0
            if settled_at >= settled_before and len(self._seqs) <= keep:
                break
            self._floor = self._seqs.pop(task_id)
            del self._tasks[task_id]
            self.files.pop(task_id, None)
            pruned += 1
        self._ids = {key: task_id for key, task_id in self._ids.items() if task_id in self._tasks}
        return pruned

    def _fail(self) -> None:
        if self.failing:
            raise StoreUnavailable("the store was told to fail")

    def _write(self, write: Write) -> Written:
        match write:
            case Accept(task):
                return self._accept(task)
            case Save(task, deliveries):
                if task.id in self._tasks and task.id not in self._seqs:
                    self._tasks[task.id] = task
                    self.outbox.put(deliveries)
                return None
            case Settle(task, deliveries):
                is_first = task.id in self._tasks and task.id not in self._seqs
                answer = self._settle(task)
                if is_first:
                    self.outbox.put(deliveries)
                return answer
            case _:
                assert_never(write)

    def _accept(self, task: Task) -> Accepted | KeyConflict:
        first = self._tasks.get(task.id) or self._tasks.get(self._ids.get(task.key or "", ""))
        if first is None:
            self._tasks[task.id] = task
            if task.key is not None:
                self._ids[task.key] = task.id
            return Accepted(task, new=True)
        if first.fingerprint == task.fingerprint:
            return Accepted(first, new=False)
        return KeyConflict(f'key "{task.key}" or id {task.id}: used before, for task {first.id} with other content')

    def _settle(self, task: Task) -> Entry | AlreadySettled:
        first = self._tasks.get(task.id)
        if first is None:
            return AlreadySettled(f"task {task.id} is not in the store")
        task, result = set_apart(task, self._max_inline)
        if task.id not in self._seqs:
            if result is not None:
                self.files[task.id] = result
            self._head += 1
            self._seqs[task.id] = self._head
            self._tasks[task.id] = first = task
        if first.outcome == task.outcome:
            return Entry(self._seqs[task.id], first)
        return AlreadySettled(f"task {task.id} settled before, as {first.status}")


def _bare(task: Task) -> Task:
    return msgspec.structs.replace(task, input=None)


def _wanted(query: Query, task: Task) -> bool:
    return (
        (not query.statuses or task.status in query.statuses)
        and query.algorithm in {None, task.algorithm}
        and query.user in {None, task.user}
        and query.labels.items() <= task.labels.items()
    )


def _page(tasks: Iterable[Task], limit: int) -> tuple[list[Task], bool]:
    """The first tasks, and whether there are more."""
    page: list[Task] = []
    size_bytes = 0
    for task in tasks:
        if len(page) == limit or size_bytes >= PAGE_BYTES:
            return page, True
        page.append(task)
        size_bytes += len(msgspec.json.encode(task))
    return page, False


# -- a provider that plays a script ------------------------------------------------------------------

Step: TypeAlias = T | Exception | Callable[..., Awaitable[T]]
"""What a call does: return a value, raise an error, or await a function of the method's arguments for a value."""


class Call(NamedTuple):
    """One call of a provider: when (`trio.current_time()`), which method, and about which task's or job's id."""

    at: float
    method: str
    id: str


_DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b'"done"'))


class Standing:
    """`ports.Poll` of a coroutine function, which is awaited for each question; an equal reading is no news."""

    def __init__(self, ask: Callable[[], Awaitable[Reading]]) -> None:
        self._ask = ask
        self._last: Reading | None = None
        self._news: Reading | Exception | None = None
        self._asking: trio.CancelScope | None = None
        self._done: Callable[[bool], None] = lambda _: None

    async def __call__(self) -> Reading:
        """Ask, or take what came."""
        if self._asking is not None:
            came = trio.Event()
            self._last, self._done = None, lambda _: came.set()
            try:
                await came.wait()
            finally:
                self.abandon()
        news, self._news = self._news, None
        if isinstance(news, Exception):
            raise news
        self._last = news if news is not None else await self._ask()
        return self._last

    def repeat(self, done: Callable[[bool], None], *, step_s: float) -> bool:  # noqa: ARG002 - at once is soon enough
        """Asks in a system task, once there is something to compare with."""
        if self._last is None:
            return False
        self._asking, self._done = trio.CancelScope(), done
        trio.lowlevel.spawn_system_task(self._ask_alone, self._asking)
        return True

    def abandon(self) -> None:
        """The system task ends without a word."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask_alone(self, scope: trio.CancelScope) -> None:
        with scope:
            try:
                said: Reading | Exception = await self._ask()
            except Exception as exc:  # noqa: BLE001 - it is raised when somebody comes for it
                said = exc
            if scope is self._asking:
                self._asking = None
                self._news = None if said == self._last else said
                self._done(self._news is not None)


class FakeProvider:
    """`ports.Provider` by script: each method takes its steps one after another, and repeats the last one for ever.

    The steps are shared by all tasks; where each needs its own, let a function decide (it may also sleep or wait).
    Left to itself a provider creates `job-{task id}` and says of every job that it has succeeded; it brings the result
    that the reading has, agrees to every cancel, and finds no job. `calls` records every call at its start, in order.
    """

    def __init__(
        self,
        *,
        create: Sequence[Step[Reading]] = (),
        poll: Sequence[Step[Reading]] = (),
        poll_many: Sequence[Step[Mapping[str, Reading]]] = (),
        fetch: Sequence[Step[Reading]] = (),
        cancel: Sequence[Step[bool]] = (),
        find: Sequence[Step[Reading | None]] = (),
        repeat: Repeat = "token",
        way: Way | None = None,
        told_once: bool = False,
        given_once: bool = False,
        cancel_deletes: bool = False,
        cancel_ends: frozenset[JobStatus] = frozenset(),
        batch: int = 1,
        account: str = "",
    ) -> None:
        self.way = way if way is not None else Way(repeat=repeat)
        self.told_once = told_once
        self.given_once = given_once
        self.cancel_deletes = cancel_deletes
        self.cancel_ends = cancel_ends
        self.batch = batch
        self.account = account
        self.calls: list[Call] = []
        self._create = list(create)
        self._poll = list(poll)
        self._poll_many = list(poll_many)
        self._fetch = list(fetch)
        self._cancel = list(cancel)
        self._find = list(find)

    async def create(self, task: Task) -> Reading:
        """The next step of `create`; a reading without a job gets `job-{task id}`."""
        self._note("create", task.id)
        reading = await _play(self._create, Reading(status=JobStatus.WAITING), task)
        return reading if reading.job is not None else msgspec.structs.replace(reading, job=f"job-{task.id}")

    async def find(self, task: Task) -> Reading | None:
        """The next step of `find`."""
        self._note("find", task.id)
        return await _play(self._find, None, task)

    def poll_of(self, job: Job) -> Poll:
        """Each question is the next `poll`."""
        return Standing(partial(self.poll, job))

    async def poll(self, job: Job) -> Reading:
        """The next step of `poll`."""
        self._note("poll", job.id)
        return await _play(self._poll, _DONE, job)

    async def poll_many(self, jobs: Sequence[Job]) -> Mapping[str, Reading]:
        """The next step of `poll_many`; the call is about all their ids, with commas."""
        self._note("poll_many", ",".join(job.id for job in jobs))
        return await _play(self._poll_many, {job.id: _DONE for job in jobs}, jobs)

    async def fetch(self, job: Job, reading: Reading) -> Reading:
        """The next step of `fetch`."""
        self._note("fetch", job.id)
        return await _play(self._fetch, msgspec.structs.replace(reading, to_fetch=False), job, reading)

    def assets_of(self, job: Job, reading: Reading) -> Sequence[exchange.Call]:
        """Whatever URLs the result has."""
        self._note("assets_of", job.id)
        return [exchange.Call(method="GET", url=url) for url in urls_in(reading.result, ("",))]

    async def cancel(self, job: Job) -> bool:
        """The next step of `cancel`."""
        self._note("cancel", job.id)
        return await _play(self._cancel, True, job)

    def _note(self, method: str, about: str) -> None:
        self.calls.append(Call(trio.current_time(), method, about))


async def _play(steps: list[Step[T]], default: T, *arguments: object) -> T:
    await trio.lowlevel.checkpoint()
    if not steps:
        return default
    step = steps.pop(0) if len(steps) > 1 else steps[0]
    if isinstance(step, Exception):
        raise step
    return await step(*arguments) if callable(step) else step
