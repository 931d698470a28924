"""The store in one SQLite file: write-ahead log, one fsync per commit, one writer.

A settled task is its own feed entry: `seq` is given together with the outcome, by the same UPDATE. The record is the
whole task as JSON, except for its input: a row is rewritten whole whenever its task changes, and an input never does.
Large results are files (`store_results`): one is on disk before the transaction that settles its task.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, assert_never

import msgspec
from loguru import logger

from creche.core.task import Task, set_apart
from creche.edges.store_backup import take_over
from creche.edges.store_results import ResultFiles
from creche.edges.store_sqlite_outbox import SqliteOutbox, put_into_outbox
from creche.edges.store_sqlite_schema import open_database, start_errors
from creche.engine.ports import PAGE_BYTES, Accept, Accepted, Entry, Page, Query, Save, Settle, Write, Written
from creche.errors import AlreadySettled, KeyConflict, StartError, StoreUnavailable

_SELECT = "SELECT t.seq, t.record, i.input FROM tasks t LEFT JOIN inputs i USING (pos)"
_SELECT_BARE = "SELECT t.seq, t.record, NULL FROM tasks t"
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Task)


class SqliteStore:
    """`ports.Store` in the SQLite file `path`; next to it lie SQLite's own `-wal` and `-shm`, our `.lock`, and
    `.results` with the results of more than `max_inline` bytes; in `.assets` others put the files of results.

    `commit` and `prune` may run in one thread while another runs the reading methods; `open` and `close` in any, alone.
    A key is unique in the whole store, and free again once retention has removed its task.
    """

    def __init__(self, path: Path, *, max_inline: int) -> None:
        self._path = path
        self._max_inline = max_inline
        self._files = ResultFiles(path)
        self._resources = ExitStack()
        self.outbox = SqliteOutbox(self._transaction)
        self._writer: sqlite3.Connection
        self._reader: sqlite3.Connection
        self.identity = ""

    def open(self) -> None:
        """Open the file or make it (mode 0600; its folder must exist), bring it to the current schema, and lock it.

        Raises `StartError`: in use, not writable, not a store, damaged, written by a newer version, or new beside the
        results of another.
        """
        with ExitStack() as undo:
            self._writer, self._reader = open_database(self._path, undo)
            with start_errors(self._path):
                if (taken := take_over(self._writer)) is not None:
                    made_at = datetime.fromtimestamp(taken.made_at, UTC).isoformat(" ", "seconds")
                    logger.warning(
                        "this store is the backup of {}: what was accepted since is not in it, listeners are told to "
                        "look their tasks up, and {} tasks may have got a job since, which must be found out",
                        made_at,
                        taken.doubtful,
                    )
                self._tidy_files()
                (self.identity,) = self._reader.execute("SELECT identity FROM store").fetchone()
            self._resources = undo.pop_all()

    def _tidy_files(self) -> None:
        """Remove results that nobody needs: retention or a settle was cut off by the end of the process."""
        (used,) = self._reader.execute("SELECT EXISTS (SELECT 1 FROM tasks) OR head > 0 FROM store").fetchone()
        for folder, names in (
            (self._files.folder, self._files.names()),
            (self._files.assets, self._files.asset_names()),
        ):
            if names and not used:
                raise StartError(
                    f"the store {self._path} is new, but {folder} has the results of another; put that store back, "
                    "or move the folder away"
                )
        rows = self._reader.execute("SELECT id FROM tasks WHERE seq IS NULL OR result_bytes IS NOT NULL")
        self._files.keep_only(task_id for (task_id,) in rows)
        if self._files.assets.is_dir():
            rows = self._reader.execute("SELECT id FROM tasks")
            self._files.keep_assets_only(task_id for (task_id,) in rows)

    def close(self) -> None:
        """Close the file and free the lock; nothing written is lost. May be called twice."""
        self._resources.close()

    # -- writing -------------------------------------------------------------------------------------

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        """Do all writes in one transaction, on disk when this returns. Raises `StoreUnavailable`: then none is done."""
        with self._transaction() as db:
            (head,) = db.execute("SELECT head FROM store").fetchone()
            answers: list[Written] = []
            for write in writes:
                match write:
                    case Accept(task):
                        answers.append(_accept(db, task))
                    case Save(task, deliveries):
                        saved = db.execute(
                            "UPDATE tasks SET status = ?, record = ? WHERE id = ? AND seq IS NULL",
                            (task.status, _record(task), task.id),
                        )
                        if saved.rowcount:
                            put_into_outbox(db, deliveries)
                        answers.append(None)
                    case Settle(task, deliveries):
                        answer = self._settle(db, task, head + 1)
                        answers.append(answer)
                        if isinstance(answer, Entry) and answer.seq > head:
                            head = answer.seq
                            put_into_outbox(db, deliveries)
                    case _:
                        assert_never(write)
            db.execute("UPDATE store SET head = ?, commits = commits + 1", (head,))
        return answers

    def prune(self, *, settled_before: float, keep: int, limit: int) -> int:
        """Remove up to `limit` settled tasks from the start of the feed: those settled before the given time, and those
        beyond the newest `keep`, up to the first that is neither.

        Returns how many went; less than `limit` means that nothing is left to remove. Raises `StoreUnavailable`.
        """
        with self._transaction() as db:
            oldest = db.execute(
                "SELECT seq, settled_at < ? OR seq <= ("
                " SELECT seq FROM tasks WHERE seq IS NOT NULL ORDER BY seq DESC LIMIT 1 OFFSET ?"
                "), id, result_bytes FROM tasks WHERE seq IS NOT NULL ORDER BY seq LIMIT ?",
                (settled_before, keep, limit),
            ).fetchall()
            doomed = list(takewhile(itemgetter(1), oldest))
            if doomed:
                db.executemany("DELETE FROM tasks WHERE seq = ?", [(seq,) for seq, *_ in doomed])
                db.execute("UPDATE store SET floor = ?", (doomed[-1][0],))
        with suppress(OSError):  # else the next start removes them
            self._files.remove(task_id for _, _, task_id, size in doomed if size is not None)
            if self._files.assets.is_dir():
                self._files.remove_assets(task_id for _, _, task_id, _ in doomed)
        return len(doomed)

    # -- reading -------------------------------------------------------------------------------------

    def get(self, task_id: str) -> Task | None:
        """One task, or None. Raises `StoreUnavailable`, as all that read."""
        rows = self._read(f"{_SELECT} WHERE t.id = ?", (task_id,))
        return _task(rows[0]) if rows else None

    def unfinished(self) -> list[Task]:
        """Every task without an outcome, in order of acceptance."""
        return [_task(row) for row in self._read(f"{_SELECT} WHERE t.seq IS NULL ORDER BY t.pos")]

    def result_of(self, task_id: str) -> bytes | None:
        """The result that is kept in a file, whole; None where there is none."""
        with self._store_errors("read"):
            return self._files.read(task_id)

    def left_results(self) -> list[str]:
        """Unfinished tasks whose result is in a file: the process died before the outcome was committed."""
        with self._store_errors("read"):
            names = self._files.names()
        return [name for name in names if self._read("SELECT 1 FROM tasks WHERE id = ? AND seq IS NULL", (name,))]

    def list_tasks(self, query: Query) -> Page:
        """Tasks by `query`, newest first, without inputs. An unknown `after` gives an empty page."""
        pick, values = _pick(query)
        rows, more = self._read_page(
            f"{_SELECT_BARE} WHERE t.pos IN ({pick}) ORDER BY t.pos DESC", values, limit=query.limit
        )
        return Page([_task(row) for row in rows], more)

    def feed_after(self, seq: int, limit: int) -> list[Entry]:
        """Entries with a greater `seq`, in order, without inputs."""
        rows, _ = self._read_page(f"{_SELECT_BARE} WHERE t.seq > ? ORDER BY t.seq", (seq,), limit=limit)
        return [Entry(row[0], _task(row)) for row in rows]

    def feed_bounds(self) -> tuple[int, int]:
        """`(floor, head)`: every entry with floor < seq <= head is there; older ones fell to retention."""
        ((floor, head),) = self._read("SELECT floor, head FROM store")
        return floor, head

    def _settle(self, db: sqlite3.Connection, task: Task, seq: int) -> Entry | AlreadySettled:
        task, result = set_apart(task, self._max_inline)
        if result is not None and db.execute("SELECT 1 FROM tasks WHERE id = ? AND seq IS NULL", (task.id,)).fetchone():
            self._files.write(task.id, result)
        return _settle(db, task, seq, None if result is None else len(result))

    # -- the world's failures ------------------------------------------------------------------------

    def _read(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with self._store_errors("read"):
            return self._reader.execute(sql, values).fetchall()

    def _read_page(self, sql: str, values: Sequence[object], *, limit: int) -> tuple[list[Any], bool]:
        """The first rows, and whether there are more; rows beyond the page are not even read from the disk."""
        rows: list[Any] = []
        size_bytes = 0
        # Closed at once: an unfinished SELECT would keep the write-ahead log from being cleared.
        with self._store_errors("read"), closing(self._reader.execute(sql, values)) as found:
            for row in found:
                if len(rows) == limit or size_bytes >= PAGE_BYTES:
                    return rows, True
                rows.append(row)
                size_bytes += len(row[1])
        return rows, False

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._writer
        with self._store_errors("written"):
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextmanager
    def _store_errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InternalError, sqlite3.DataError):
            raise  # defects of ours: trying again would not help
        except (sqlite3.DatabaseError, OSError) as exc:
            raise StoreUnavailable(f"the store {self._path} cannot be {done}: {exc}") from exc


# -- rows --------------------------------------------------------------------------------------------


def _record(task: Task) -> bytes:
    return _ENCODER.encode(task if task.input is None else msgspec.structs.replace(task, input=None))


def _task(row: tuple[int | None, bytes, bytes | None]) -> Task:
    _, record, content = row
    task = _DECODER.decode(record)
    return task if content is None else msgspec.structs.replace(task, input=msgspec.Raw(content))


def _accept(db: sqlite3.Connection, task: Task) -> Accepted | KeyConflict:
    cursor = db.execute(
        "INSERT INTO tasks (id, key, algorithm, user, status, record) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (task.id, task.key, task.algorithm, task.user, task.status, _record(task)),
    )
    if cursor.rowcount == 0:
        return _accept_again(db, task)
    pos = cursor.lastrowid
    if task.input is not None:
        db.execute("INSERT INTO inputs VALUES (?, ?)", (pos, bytes(task.input)))
    if task.labels:
        db.executemany("INSERT INTO labels VALUES (?, ?, ?)", ((pos, *label) for label in task.labels.items()))
    return Accepted(task, new=True)


def _accept_again(db: sqlite3.Connection, task: Task) -> Accepted | KeyConflict:
    row = db.execute(
        f"{_SELECT} WHERE t.id = ? OR t.key = ? ORDER BY t.id = ? DESC LIMIT 1", (task.id, task.key, task.id)
    ).fetchone()
    first = _task(row)
    if first.fingerprint == task.fingerprint:
        return Accepted(first, new=False)
    if first.id == task.id:
        return KeyConflict(f"the id {task.id} was used before, for a task with other content", pointer="/id")
    return KeyConflict(f'the key "{task.key}" was used before, for task {first.id} with other content', pointer="/key")


def _settle(db: sqlite3.Connection, task: Task, seq: int, result_bytes: int | None) -> Entry | AlreadySettled:
    cursor = db.execute(
        "UPDATE tasks SET status = ?, record = ?, settled_at = ?, seq = ?, result_bytes = ?"
        " WHERE id = ? AND seq IS NULL",
        (task.status, _record(task), task.settled_at, seq, result_bytes, task.id),
    )
    if cursor.rowcount:
        return Entry(seq, task)
    row = db.execute(f"{_SELECT} WHERE t.id = ?", (task.id,)).fetchone()
    if row is None:
        return AlreadySettled(f"task {task.id} is not in the store: it never was, or it settled and fell to retention")
    first = _task(row)
    if first.outcome == task.outcome:
        return Entry(row[0], first)
    return AlreadySettled(f"task {task.id} settled before, as {first.status}; that stands, not {task.status}")


def _pick(query: Query) -> tuple[str, list[object]]:
    """SQL for the `pos` of the tasks that a query wants, and its values.

    Each arm walks one index backwards and stops at the limit; there is one for each status, merged in order, because
    `status IN (...)` would sort all tasks that have one of them. `pos` is taken from where that index is.
    """
    pos = "l0.pos" if query.labels else "t.pos"
    joins = ""
    conditions = ["TRUE"]
    values: list[object] = []
    for number, label in enumerate(query.labels.items()):
        joins += f" JOIN labels l{number} ON l{number}.pos = t.pos AND l{number}.name = ? AND l{number}.value = ?"
        values += label
    for condition, value in (
        ("t.algorithm = ?", query.algorithm),
        ("t.user = ?", query.user),
        (f"{pos} < (SELECT pos FROM tasks WHERE id = ?)", query.after),  # noqa: S608 - our own column
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    arms = [f"SELECT {pos} FROM tasks t{joins} WHERE {' AND '.join(conditions)}"]  # noqa: S608 - all values are bound
    if query.statuses:
        arms = [f"{arms[0]} AND t.status = ?"] * len(query.statuses)
        values = [value for status in query.statuses for value in (*values, status)]
    # One more than asked for tells whether there is more.
    return " UNION ALL ".join(arms) + " ORDER BY 1 DESC LIMIT ?", [*values, query.limit + 1]
