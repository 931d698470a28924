"""The seams of the engine: what it needs from the world, and how that may fail.

Order is part of the contract: a task is durable before the client hears its id; a job's id is durable before it is
polled; an outcome is durable before any listener hears it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from creche.core.assets import Asset
from creche.core.exchange import Call
from creche.core.fleet import Limit, Member
from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Status, Task
from creche.core.way import Way
from creche.core.webhooks import Delivery
from creche.errors import AlreadySettled, KeyConflict, NotOwner, TaskLost, TooManyTasks


class Accept(msgspec.Struct, frozen=True):
    """Write: a new task. Answered with `Accepted`, or `KeyConflict`.

    In a fleet this node owns it, unless it `waits` for one with room; then `TooManyTasks` is an answer, too.
    """

    task: Task
    waits: bool = False


class Save(msgspec.Struct, frozen=True):
    """Write: the new state of an unfinished task. Answered with None; ignored if the task is settled or gone. The
    `deliveries` are written with it, or not at all.

    In a fleet `NotOwner` is the answer about a task that another node has taken over, and `TaskLost` about one that is
    not there; so they are to `Settle`.
    """

    task: Task
    deliveries: tuple[Delivery, ...] = ()


class Settle(msgspec.Struct, frozen=True):
    """Write: a task with its outcome. Answered with its `Entry` in the feed, or `AlreadySettled`.

    Repeating a settle with the same outcome gives the entry that stands, so a commit whose answer was lost can be
    repeated. A result beyond the store's `max_inline` is kept in a file: entry and record then have its `ResultFile`.
    The `deliveries` are written with the outcome, or not at all.
    """

    task: Task
    deliveries: tuple[Delivery, ...] = ()


Write = Accept | Save | Settle


class Accepted(msgspec.Struct, frozen=True):
    """The answer to `Accept`: the task that stands, and whether this write made it.

    `new` is False when the key (or the id, with the same content) was seen before; `task` is then the first one.
    """

    task: Task
    new: bool


class Entry(msgspec.Struct, frozen=True):
    """One outcome in the feed. `seq` grows by commit order without being reused; gaps mean nothing."""

    seq: int
    task: Task


Written = Accepted | Entry | None | KeyConflict | AlreadySettled | NotOwner | TaskLost | TooManyTasks
"""What a single write was answered with. A refusal is a value here: it concerns one write, not its whole batch."""


PAGE_BYTES = 8 << 20
"""A page ends with the record that brings it to this size: one of a thousand large results would not fit in memory."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list, newest first. `after` is the id of the last task of the page before."""

    statuses: frozenset[Status] = frozenset()
    algorithm: str | None = None
    user: str | None = None
    labels: Mapping[str, str] = {}
    limit: int = 100
    after: str | None = None


class Page(msgspec.Struct, frozen=True):
    """The tasks that a `Query` found. `more`: there are others behind the last of these."""

    tasks: list[Task]
    more: bool


class Outbox(Protocol):
    """The part of a store that holds messages until they are delivered. Driven as the store's writes are.

    Every method raises `StoreUnavailable`; then it may be repeated.
    """

    def claim(self, now: float, until: float, limit: int) -> list[Delivery]:
        """Messages that are due at `now`, the longest due first; unless something is said of them they are due again at
        `until`.
        """

    def put_off(self, deliveries: Sequence[Delivery]) -> None:
        """Take over attempts, error and `due_at` of messages that are there; None gives one up."""

    def done(self, ids: Sequence[str]) -> None:
        """The messages were delivered: they go."""

    def listed(self, limit: int) -> list[Delivery]:
        """Messages without their bodies: those that were given up, the newest first, and then the pending ones."""

    def again(self, ids: Sequence[str] | None, now: float) -> list[str]:
        """Make messages due at `now`, given up or not; None means all that were given up. Returns those it found."""

    def forget(self, before: float) -> None:
        """Remove what was given up and is older than that."""

    def count(self) -> tuple[int, int]:
        """How many are pending, and how many were given up."""


class Store(Protocol):
    """Keeps tasks and the feed. Synchronous, and driven by one caller at a time for writes and one for reads.

    Every method raises `StoreUnavailable` when the world fails it (disk full, locked, read-only); then nothing of the
    batch was written, as far as the store can tell, and the caller may repeat it. `open` raises `StartError`.
    """

    identity: str
    """A random name given when the store was made; cursors carry it, so that those of another store are recognised."""

    @property
    def outbox(self) -> Outbox:
        """Messages that are yet to be delivered."""

    def open(self) -> None:
        """Open or make the store, and lock it against a second daemon."""

    def close(self) -> None:
        """Close it; nothing written is lost. May be called twice."""

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        """Do all writes in one transaction, durably, and answer each in order.

        An empty batch changes nothing that can be seen, but still proves that the store can be written.
        """

    def get(self, task_id: str) -> Task | None:
        """One task, or None."""

    def unfinished(self) -> list[Task]:
        """Every task without an outcome, in order of acceptance."""

    def result_of(self, task_id: str) -> bytes | None:
        """The result that is kept in a file, whole; None where there is none."""

    def left_results(self) -> list[str]:
        """Unfinished tasks whose result is in a file: the process died before the outcome was committed."""

    def list_tasks(self, query: Query) -> Page:
        """Tasks by `query`, newest first, without their inputs; no more than `PAGE_BYTES`, but at least one.

        An unknown `after` gives an empty page.
        """

    def feed_after(self, seq: int, limit: int) -> list[Entry]:
        """Entries with a greater `seq`, in order, without their inputs; no more than `PAGE_BYTES`, but at least one."""

    def feed_bounds(self) -> tuple[int, int]:
        """`(floor, head)`: every entry with floor < seq <= head is there, and no other; the rest fell to retention."""

    def prune(self, *, settled_before: float, keep: int, limit: int) -> int:
        """Remove up to `limit` settled tasks, with their feed entries, in the order of the feed.

        Those settled before the given time, and those beyond the newest `keep`; the first that is neither ends it, so
        that a clock that jumped leaves no hole in the feed. Unfinished ones are never touched. Returns how many went;
        less than `limit` means that nothing is left to remove.
        """


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """What a member hears when it renews its lease.

    `members` is what each tells of itself; `gone` who has left tasks, and how many; `waiting` how many tasks nobody
    has room for; `counts` how many tasks of the whole fleet have each status; `wishes` what clients of other nodes
    want, by task; `owned` how many unfinished tasks are this member's; `portions` what it may have of each limit.
    """

    members: Mapping[str, bytes]
    gone: Mapping[str, int]
    waiting: int
    counts: Mapping[Status, int]
    wishes: Mapping[str, bytes]
    owned: int
    portions: Mapping[str, float]


class Places(msgspec.Struct, frozen=True):
    """What was heard of already, besides outcomes; "" stands for all that was before now."""

    bell: str = ""
    changes: str = ""


class News(msgspec.Struct, frozen=True):
    """Outcomes in the order of the feed; whether a node is wanted to look (a wish, a task that waits, a node that is
    gone); which tasks changed without ending; and the places behind all that.
    """

    entries: list[Entry]
    rung: bool
    changed: frozenset[str]
    places: Places


class Membership(Protocol):
    """A node's part in a fleet: its lease, the tasks that it owns, what it hears of the others.

    Synchronous, and called from several threads. Every method raises `StoreUnavailable`; then it may have been done.
    """

    def join(self, member: Member) -> None:
        """From now on this node is `member`; what it owned before is for others."""

    def renew(self, member: Member, limits: Sequence[Limit]) -> Renewal:
        """Tell of oneself, and hear of the others. Raises `NotOwner` when this member was declared gone."""

    def bury(self, name: str, told: bytes) -> None:
        """Another member is gone, unless it has told something new since: its tasks may be adopted."""

    def leave(self) -> None:
        """This member goes: its tasks may be adopted at once."""

    def adopt(self, limit: int) -> list[Task]:
        """Take over up to `limit` tasks of those that are gone, and then of those that wait. Raises `NotOwner`."""

    def owned(self) -> list[str]:
        """The ids of this member's unfinished tasks."""

    def wish(self, task_id: str, wish: bytes) -> bool:
        """Leave a wish for whoever owns the task, which stays until it is granted; False when the task has ended."""

    def granted(self, task_id: str, wish: bytes) -> None:
        """The wish was done, or cannot be."""

    def news(self, seq: int, places: Places, *, changes: bool, wait_s: float) -> News:
        """What is behind `seq` and the places, `changes` only where they are wanted; waits a little for some."""


class Heartbeats(Protocol):
    """Shows the outside world which tasks are alive."""

    async def beat(self, *, alive: Sequence[str], ended: Sequence[str], active: Mapping[str, int], now: float) -> None:
        """Write `now` for every task in `alive`, remove those in `ended`, set the number of live tasks by algorithm.

        Raises `HeartbeatsUnreachable` when that failed or took too long; it may have been done in part, and is
        repeated by the next beat. Bounded in time; cancellation waits for that bound at most.
        """

    async def aclose(self) -> None:
        """Close the connection. Keys of live tasks stay and tell the truth: their time no longer moves."""


class AssetSaver(Protocol):
    """Saves files of results."""

    async def save(self, task_id: str, number: int, call: Call) -> Asset:
        """Ask for a task's file and save it; the `number` tells the task's files apart. One that was saved before is
        not asked for again.

        Raises `Outage` where another attempt may help, `AnswerError` where not. Bounded in time. Cancelled: nothing
        half-done stays.
        """


class Poll(Protocol):
    """The standing question about one job. One question at a time; whatever is the same for all is done once.

    Most answers say what the last one said; nobody needs to be woken for those.
    """

    async def __call__(self) -> Reading:
        """Ask, and wait for the answer, or take the one that came with news.

        An answer that says what the last one said may bring the same `Reading` object again. Raises, besides what all
        methods of a provider raise, `JobNotFound` when the provider does not know the job.
        """

    def repeat(self, done: Callable[[bool], None], *, step_s: float) -> bool:
        """Ask without waiting, if that can be done at once; False when not, then nothing was done.

        `done` is called later, by up to `step_s` seconds later than it could: with False when the answer was just as
        the last one, with True when there is news, an error be it, which the next call of this brings. It must not
        raise.
        """

    def abandon(self) -> None:
        """Whoever called `repeat` does not want to hear of it any more."""


class Provider(Protocol):
    """Creates, polls, fetches and cancels jobs at one provider account; a recipe or a plug-in stands behind it.

    All methods may raise, besides what they name: `Outage`, `Throttled`, `CredentialsRefused`, `AnswerError`. Each
    bounds the time of its own requests. Cancelling a `create` leaves open whether a job was made; callers do not
    do that.
    """

    way: Way
    """How creates go, and what can be done about one that may have arrived."""

    told_once: bool
    """Whether an end is told only once: a poll that is cut off may have brought it."""

    given_once: bool
    """Whether a result is given out only once: a fetch that is cut off may have brought it."""

    cancel_deletes: bool
    """Whether a cancel also removes a job that is over, and its result with it."""

    cancel_ends: frozenset[JobStatus]
    """How a job may end that was cancelled, besides `CANCELLED`."""

    batch: int
    """How many jobs one `poll_many` may ask for; 1 where the provider has no such request."""

    account: str
    """Equal for two providers exactly when one `poll_many` of either can ask for the jobs of both; shows no secret.
    Without meaning where `batch` is 1.
    """

    async def create(self, task: Task) -> Reading:
        """Make the job. The reading carries its id, and may already be the end.

        `Outage`, `Throttled`, `CredentialsRefused`: certainly no job was made. `CreateRefused`: nor will one be.
        `CreateUncertain`: cannot be told.
        """

    async def find(self, task: Task) -> Reading | None:
        """Look for the job of a create that may have arrived; only where `way.repeat` is "lookup".

        None: when this was asked there was none, or it was not shown yet. Where that cannot be told it is an
        `AnswerError`.
        """

    def poll_of(self, job: Job) -> Poll:
        """What asks for the job's state, time after time."""

    async def poll_many(self, jobs: Sequence[Job]) -> Mapping[str, Reading]:
        """Ask for the state of up to `batch` jobs at once: what the answer says, by job id.

        That a job is not in it proves nothing: ask for it by itself. Errors are about the request, so about all jobs.
        """

    async def fetch(self, job: Job, reading: Reading) -> Reading:
        """Bring the result of a job that ended well; the reading returned has it, or is a failure."""

    def assets_of(self, job: Job, reading: Reading) -> Sequence[Call]:
        """The requests for the files that belong to a result, by GET; what is answered to them is the file.

        Raises `AnswerError` for one that must not be sent.
        """

    async def cancel(self, job: Job) -> bool:
        """Ask the provider to end the job; True when it agreed (or the job had ended), False when it refused."""
