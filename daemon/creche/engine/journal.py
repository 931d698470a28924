"""The async face of a synchronous store: many tasks share one commit.

Whatever is written while a commit is under way forms the next batch, so under load thousands of writes share an
fsync and without load nobody waits. What must follow a commit (start the task, publish the outcome) is given as
`then` and runs in the journal's own task, in the order of commits: cancelling the one who waits can neither stop a
write nor what follows it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol, TypeVar

import trio
from loguru import logger

from creche.core.histogram import COUNTS, Histogram
from creche.core.task import Task
from creche.core.webhooks import Delivery
from creche.engine.ports import Accept, Accepted, Outbox, Save, Settle, Store, Write, Written
from creche.errors import CrecheError, NotOwner, StoreUnavailable, TaskLost

T = TypeVar("T")

MAX_BATCH = 1000
RETRY_EVERY_S = 1.0

CLOSE_GRACE_S = 5.0
"""How long a stop waits for a store that fails."""

PRUNE_STEP = 200
"""Tasks that retention removes at once: a thousand hold up the commits for a tenth of a second (bench/store.py)."""


class RunSync(Protocol):
    """Runs a synchronous function where it may block: in a worker thread, or in place when simulated."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


class _Request:
    """Writes that came together. `answers` has those of the first ones, in order; `done` is set with the last."""

    __slots__ = ("answers", "count", "done")

    def __init__(self, count: int) -> None:
        self.count = count
        self.answers: list[Written | StoreUnavailable] = []
        self.done = trio.Event()

    def answer(self, answer: Written | StoreUnavailable) -> None:
        self.answers.append(answer)
        if len(self.answers) == self.count:
            self.done.set()


class _Pending(NamedTuple):
    """One write on its way."""

    write: Write
    then: Callable[[Written], None] | None
    request: _Request


class Journal:
    """Writes to a store in groups. `run_write` and `run_read` each run one function at a time.

    `fault` is what is wrong with the store now; `commit_s` how long commits took, `batches` how many writes they had.
    """

    def __init__(self, store: Store, *, run_write: RunSync, run_read: RunSync) -> None:
        self._store = store
        self._run_write = run_write
        self._run_read = run_read
        self._queue: deque[_Pending] = deque()
        self._notes: dict[str, Task] = {}
        self._wake = trio.Event()
        self._closing = False
        self._give_up_at = math.inf
        self._last: _Request | None = None
        self.fault: str | None = None
        self.commit_s = Histogram()
        self.batches = Histogram(COUNTS)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what comes until `close` was called and everything is written."""
        task_status.started()
        while True:
            if not self._queue and not self._notes:
                if self._closing:
                    return
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            await self._commit_batch()

    def close(self) -> None:
        """Let `run` end once nothing is left to write, or the store has failed for some seconds more.

        Call it after the last writer has ended.
        """
        self._closing = True
        self._give_up_at = trio.current_time() + CLOSE_GRACE_S
        self._wake.set()

    async def flush(self) -> None:
        """Wait until every write that was given so far is committed or refused, and what follows it is done."""
        if self._last is not None:
            await self._last.done.wait()

    async def write(self, write: Write, *, then: Callable[[Written], None] | None = None) -> Written:
        """Write durably; returns when committed. Raises `StoreUnavailable`, and the refusals that the store answers.

        If cancelled the write is still made and `then` still called; only the answer is lost.
        """
        [answer] = await self._request([(write, then)])
        if isinstance(answer, CrecheError):
            raise answer
        return answer

    async def write_all(
        self, writes: Sequence[tuple[Write, Callable[[Written], None] | None]]
    ) -> list[Written | StoreUnavailable]:
        """Write many in as few commits as possible, each answered on its own; refusals are values here."""
        return await self._request(writes) if writes else []

    async def save_surely(self, record: Callable[[], Task], messages: tuple[Delivery, ...] = ()) -> None:
        """Save a task, and messages about it; while the store is unavailable try again: it waits in memory, nothing is
        given up.

        Each try asks `record` for what is to be written now: an old state must not overwrite what came meanwhile.
        Cancelled (the daemon stops), what the task has learned is still tried while the journal closes, but no message.
        """
        try:
            await self._write_surely(lambda: Save(record(), messages), None, record)
        except trio.Cancelled:
            self.note(record())
            raise

    async def settle_surely(
        self, settle: Callable[[], Settle], *, record: Callable[[], Task], then: Callable[[Written], None]
    ) -> None:
        """Settle a task, likewise; `record` is the task before that. Cancelled while the store fails, the task stays
        unfinished for the next start.
        """
        await self._write_surely(settle, then, record)

    async def _write_surely(
        self, write: Callable[[], Write], then: Callable[[Written], None] | None, record: Callable[[], Task]
    ) -> None:
        while True:
            try:
                await self.write(write(), then=then)
            except TaskLost:
                [refusal] = await self.put_back([record()])
                if isinstance(refusal, StoreUnavailable):
                    await trio.sleep(RETRY_EVERY_S)
                elif refusal is not None:
                    raise refusal from None
            except StoreUnavailable:
                await trio.sleep(RETRY_EVERY_S)
            else:
                return

    async def put_back(self, tasks: Sequence[Task]) -> list[NotOwner | StoreUnavailable | None]:
        """Accept unfinished tasks of this node once more, which the server has lost; None for each that is there now.

        `NotOwner` for one that was submitted anew meanwhile: the log then tells of its job, and nothing else does.
        """
        answers = await self.write_all([(Accept(task), None) for task in tasks])
        return [_refusal(task, answer) for task, answer in zip(tasks, answers, strict=True)]

    def note(self, task: Task) -> None:
        """Save soon what is nice to find after a restart but need not be waited for; of several notes the last
        counts.
        """
        self._notes[task.id] = task
        self._wake.set()

    async def read(self, function: Callable[[Store], T]) -> T:
        """Run a query of the store. Raises `StoreUnavailable`."""
        return await self._run_read(lambda: function(self._store))

    async def outbox(self, function: Callable[[Outbox], T]) -> T:
        """Do something about messages that are to be delivered. Raises `StoreUnavailable`."""
        return await self._run_write(lambda: function(self._store.outbox))

    async def prune(self, *, settled_before: float, keep: int) -> int:
        """Apply retention to some of what is due; the number of tasks that went. Raises `StoreUnavailable`."""
        return await self._run_write(
            lambda: self._store.prune(settled_before=settled_before, keep=keep, limit=PRUNE_STEP)
        )

    async def answers(self) -> None:
        """Returns once the store has answered to a read and a write, whatever it says; not while it hangs."""
        with suppress(StoreUnavailable):
            await self.read(lambda store: store.feed_bounds())
        with suppress(StoreUnavailable):
            await self._run_write(lambda: None)

    async def probe(self) -> None:
        """Prove that the store can be written, if the last write failed. Raises `StoreUnavailable`."""
        if self.fault is not None:
            await self._commit([])

    async def _request(
        self, writes: Sequence[tuple[Write, Callable[[Written], None] | None]]
    ) -> list[Written | StoreUnavailable]:
        request = self._last = _Request(len(writes))
        for write, then in writes:
            # A full save overtakes an older note about the same task, which must not be written after it.
            self._notes.pop(write.task.id, None)
            self._queue.append(_Pending(write, then, request))
        self._wake.set()
        await request.done.wait()
        return request.answers

    async def _commit_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
        # Notes wait until the queue is empty: one may be newer than a write of its task that is still there.
        noted = [] if self._queue else list(self._notes)[:MAX_BATCH]
        notes = [Save(self._notes.pop(task_id)) for task_id in noted]
        try:
            answers = await self._commit([*(pending.write for pending in batch), *notes])
        except StoreUnavailable as exc:
            # Not those that something newer has overtaken meanwhile: they would be written after it.
            newer = {pending.write.task.id for pending in self._queue} | self._notes.keys()
            self._notes.update({note.task.id: note.task for note in notes if note.task.id not in newer})
            for pending in batch:
                pending.request.answer(exc)
            # Notes wait for better times; without a pause they would be tried in a busy loop.
            if trio.current_time() < self._give_up_at:
                await trio.sleep(RETRY_EVERY_S)
                return
            for task in self._notes.values():
                logger.error("{}: could not be saved: {}, job {}", task.id, task.status, task.job and task.job.id)
            self._notes.clear()
            return
        for pending, answer in zip(batch, answers, strict=False):
            if pending.then is not None:
                pending.then(answer)
            pending.request.answer(answer)

    async def _commit(self, writes: list[Write]) -> list[Written]:
        began = trio.current_time()
        try:
            answers = await self._run_write(lambda: self._store.commit(writes))
        except StoreUnavailable as exc:
            if self.fault is None:
                logger.error("the store cannot be written, tasks go on in memory: {}", exc)
            self.fault = str(exc)
            raise
        if self.fault is not None:
            logger.info("the store can be written again")
            self.fault = None
        self.commit_s.observe(trio.current_time() - began)
        self.batches.observe(len(writes))
        return answers


def _refusal(task: Task, answer: Written | StoreUnavailable) -> NotOwner | StoreUnavailable | None:
    """What keeps a task from being put back."""
    if isinstance(answer, Accepted) and answer.task.id == task.id:
        return None
    if isinstance(answer, StoreUnavailable | NotOwner):
        return answer
    why = f"its key is that of task {answer.task.id} now" if isinstance(answer, Accepted) else str(answer)
    logger.error("{}: cannot be put back: {}; job {}", task.id, why, task.job and task.job.id)
    return NotOwner(f"task {task.id} is lost: {why}")
