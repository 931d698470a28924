"""The store of a fleet, in Redis or Valkey.

All keys begin with `{PREFIX}:`, which a cluster keeps in one slot:

`meta`            identity, format, `head` and `floor` of the feed, `pos` of the last task
`t:ID`            a task: `r` its record without the input, `i` its input, `o` the member that owns it ("" none), `e`
                  its epoch, `s` its status, `k` its key, `p` its place in the order of acceptance, `q` its number in
                  the feed
`result:ID`       a result that is too large for the record
`keys`            which task a key stands for
`feed`            the stream of outcomes, each by the id of its task
`by:status:S`, `by:algorithm:A`, `by:user:U`, `by:label:…`  tasks by `p`
`members`         who is in the fleet; `gone`: who was, and has left tasks
`owned:MEMBER`    its unfinished tasks by `p`; `waiting`: those that nobody has room for
`wishes`          what clients of other nodes want of tasks
`bell`            a stream that has all nodes look; `changes`: one of tasks that changed without ending
`portion:LIMIT`   what each member has of a limit
`outbox`, `given-up`, `d:ID`  messages that are yet to be delivered; see store_redis_outbox.py

All that changes a task is one script, `store_redis.lua`, so that each write is done whole or not at all. A batch is
one pipeline: its writes are done in order, and where the connection breaks, the first ones may be done. Repeating all
is safe: an accept finds its own task, a save is the same again, a settle gives its entry.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, assert_never

from creche.core.task import Status, Task, set_apart
from creche.core.webhooks import Delivery
from creche.edges.store_redis_outbox import RedisOutbox, known_of
from creche.edges.store_redis_server import Move, RedisServer, chunks, record_of, task_of
from creche.engine.ports import PAGE_BYTES, Accept, Accepted, Entry, Page, Query, Save, Settle, Write, Written
from creche.errors import AlreadySettled, KeyConflict, NotOwner, StartError, TaskLost, TooManyTasks

FORMAT = b"1"
MAX_WAITING = 1_000_000
"""Tasks that may wait for a node with room."""

_MICRO = 1_000_000
_STEP = 20
"""Records that retention looks at together: they may be large."""


class RedisStore:
    """`ports.Store` on a server, for whoever is its `member`. `wall` gives Unix seconds.

    Methods may be called from several threads at once.
    """

    def __init__(self, server: RedisServer, *, max_inline: int, wall: Callable[[], float]) -> None:
        self._server = server
        self._max_inline = max_inline
        self._wall = wall
        self.outbox = RedisOutbox(server)
        self.identity = ""

    def open(self) -> None:
        """Connect, and make the store where there is none. Raises `StartError`."""
        found = self._server.open(
            {"identity": secrets.token_hex(6), "format": FORMAT.decode(), "head": 0, "floor": 0, "pos": 0}
        )
        if found["format"] != FORMAT:
            raise StartError(
                f"the store at {self._server.label} is of format {found['format'].decode()}, this version of creche "
                f"knows {FORMAT.decode()}"
            )
        self.identity = found["identity"].decode()
        self._server.known = int(found["head"])

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._server.close()

    # -- writing -------------------------------------------------------------------------------------

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        """Do all writes, in order; each is done whole. Raises `StoreUnavailable`: then any of them may be done."""
        with self._server.errors("written"):
            rows = self._server.moves([self._move(write) for write in writes], keep=True)
            if not writes:
                self._server.move("probe")
        return [self._written(write, row) for write, row in zip(writes, rows, strict=True)]

    def prune(self, *, settled_before: float, keep: int, limit: int) -> int:
        """As `Store.prune`. Several nodes may do it at once. Raises `StoreUnavailable`."""
        server, pruned = self._server, 0
        with server.errors("written"):
            while pruned < limit:
                surplus = server.client.xlen(server.base + "feed") - keep
                step = min(_STEP, limit - pruned)
                entries = enumerate(server.entries(server.client.xrange(server.base + "feed", count=step)))
                doomed = takewhile(
                    lambda row: row[0] < surplus or (row[1].task.settled_at or 0.0) < settled_before,  # noqa: B023
                    entries,
                )
                gone = len(server.moves([_removal(entry) for _, entry in doomed]))
                pruned += gone
                if gone < step:
                    break
        return pruned

    def _move(self, write: Write) -> Move:
        match write:
            case Accept(task, waits):
                owner, content = "" if waits else self._server.member, task.input
                return [
                    *("accept", task.id, int(task.key is not None), task.key or "", task.status, task.epoch),
                    *(record_of(task), int(content is not None), b"" if content is None else bytes(content)),
                    *(owner, MAX_WAITING, task.priority),
                    *_indexes(task),
                ]
            case Save(task, deliveries):
                return ("save", task.id, task.epoch, task.status, record_of(task), *_messages(deliveries))
            case Settle(task, deliveries):
                task, result = set_apart(task, self._max_inline)
                # By the clock, so that a failover that loses outcomes does not give their numbers to others.
                least = max(int(self._wall() * _MICRO), self._server.known + 1)
                end = ("settle", task.id, task.epoch, task.status, record_of(task))
                return (*end, int(result is not None), result or b"", least, *_messages(deliveries))
            case _:
                assert_never(write)

    def _written(self, write: Write, row: list[Any]) -> Written:
        word, task = row[0], write.task
        if word in {b"not_member", b"not_owner"}:
            return NotOwner(f"task {task.id} is not this node's: it was away for so long that others took its tasks")
        match write:
            case Accept():
                if word == b"full":
                    return TooManyTasks(f"{MAX_WAITING} tasks wait for a node with room, as many as may")
                return Accepted(task, new=True) if word == b"accepted" else _accepted_before(task, task_of(row[1:]))
            case Save():
                return _lost(task) if word == b"gone" else None
            case Settle():
                return self._settled(task, row)

    def _settled(self, task: Task, row: list[Any]) -> Entry | AlreadySettled | TaskLost:
        task, _ = set_apart(task, self._max_inline)
        if row[0] == b"gone":
            return _lost(task)
        seq = int(row[1])
        if row[0] == b"entry":
            self._server.known = max(self._server.known, seq)
            return Entry(seq, task)
        first = task_of(row[2:])
        assert first is not None, "the script found it"  # noqa: S101
        if first.outcome == task.outcome:
            return Entry(seq, first)
        return AlreadySettled(f"task {task.id} settled before, as {first.status}; that stands, not {task.status}")

    # -- reading -------------------------------------------------------------------------------------

    def get(self, task_id: str) -> Task | None:
        """One task, or None. Raises `StoreUnavailable`, as all that read."""
        with self._server.errors("read"):
            [task] = self._server.whole([task_id])
        return task

    def unfinished(self) -> list[Task]:
        """The unfinished tasks of this member, in order of acceptance."""
        server = self._server
        with server.errors("read"):
            ids = server.client.zrange(f"{server.base}owned:{server.member}", 0, -1)
            return [task for some in chunks(ids) for task in server.whole(some) if task is not None]

    def result_of(self, task_id: str) -> bytes | None:
        """A result that is kept apart, whole; None where there is none."""
        with self._server.errors("read"):
            result: bytes | None = self._server.client.get(f"{self._server.base}result:{task_id}")
        return result

    def left_results(self) -> list[str]:
        """None ever: a result is written together with its outcome."""
        return []

    def list_tasks(self, query: Query) -> Page:
        """Tasks by `query`, newest first, without inputs. An unknown `after` gives an empty page."""
        names = _index_names(query.algorithm, query.user, query.labels)
        statuses = query.statuses or (() if names else tuple(Status))
        tasks: list[Task] = []
        size_bytes = 0
        with self._server.errors("read"):
            top = "+inf"
            if query.after is not None:
                place = self._server.client.hget(self._server.key_of(query.after), "p")
                if place is None:
                    return Page([], more=False)
                top = f"({int(place)}"
            while top:
                wanted = query.limit + 1 - len(tasks)
                place, ids = self._server.move("find", wanted, top, len(statuses), *statuses, *names)
                top = place.decode()
                for size, task in self._server.bare(ids):
                    if task is None:
                        continue  # retention was faster
                    if len(tasks) == query.limit or size_bytes >= PAGE_BYTES:
                        return Page(tasks, more=True)
                    tasks.append(task)
                    size_bytes += size
        return Page(tasks, more=False)

    def feed_after(self, seq: int, limit: int) -> list[Entry]:
        """Entries with a greater `seq`, in order, without inputs."""
        with self._server.errors("read"):
            rows = self._server.client.xrange(self._server.base + "feed", min=f"{seq + 1}-0", count=limit)
            return list(self._server.entries(rows))

    def feed_bounds(self) -> tuple[int, int]:
        """`(floor, head)`: every entry with floor < seq <= head is there; older ones fell to retention."""
        with self._server.errors("read"):
            floor, head = self._server.client.hmget(self._server.meta, "floor", "head")
            self._server.check_there(floor is not None)
        return int(floor), int(head)


# -- values --------------------------------------------------------------------------------------------


def _messages(deliveries: Iterable[Delivery]) -> list[str | float | bytes]:
    return [part for one in deliveries for part in (one.id, one.due_at or 0.0, known_of(one), one.body)]


def _lost(task: Task) -> TaskLost:
    return TaskLost(f"task {task.id} is not in the store: a failover has lost it")


def _removal(entry: Entry) -> Move:
    return ("remove", entry.seq, entry.task.id, *_indexes(entry.task))


def _accepted_before(task: Task, first: Task | None) -> Accepted | KeyConflict:
    assert first is not None, "the script found it"  # noqa: S101
    if first.fingerprint == task.fingerprint:
        return Accepted(first, new=False)
    if first.id == task.id:
        return KeyConflict(f"the id {task.id} was used before, for a task with other content", pointer="/id")
    return KeyConflict(f'the key "{task.key}" was used before, for task {first.id} with other content', pointer="/key")


def _indexes(task: Task) -> list[str]:
    return _index_names(task.algorithm, task.user, task.labels)


def _index_names(algorithm: str | None, user: str | None, labels: Mapping[str, str]) -> list[str]:
    """The indexes in which a task with these is; the length keeps two labels from having one name."""
    names = [f"label:{len(name)}:{name}={value}" for name, value in labels.items()]
    if algorithm is not None:
        names.append(f"algorithm:{algorithm}")
    if user is not None:
        names.append(f"user:{user}")
    return names
