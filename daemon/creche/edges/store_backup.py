"""Backups of a store, made while the daemon runs; what a store that was one has to do first; and a check of it all.

A backup is a whole store in one file, with its large results in a folder beside it, and it is marked as one. Whoever
opens it goes on from a past that others have left behind: what was told since is not in it, and tasks that had no job
then may have one now.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from creche.core.task import Succeeded, Task, doubt_after_restore
from creche.edges.store_results import ResultFiles
from creche.edges.store_sqlite_schema import check, migrate, start_errors
from creche.errors import BackupFailed, StartError

_DECODER = msgspec.json.Decoder(Task)
_ENCODER = msgspec.json.Encoder()
_MOST_PROBLEMS = 20


class Contents(NamedTuple):
    """What is in a store: tasks, those of them that have not ended, and results in files."""

    tasks: int
    unfinished: int
    files: int


# -- make one ----------------------------------------------------------------------------------------


def back_up(path: Path, to: Path, now: float) -> Contents:
    """Write the store at `path` into the new file `to`, and its large results beside it; whole when this returns.

    A daemon may use the store meanwhile; it is not held up. Raises `BackupFailed`; then nothing is left of it.
    """
    files, copies, part = ResultFiles(path), ResultFiles(to), to.with_name(f".{to.name}.part")
    for taken in (to, copies.folder):
        if taken.exists():
            raise BackupFailed(f"{taken} exists; a backup needs a new name")
    try:
        with ExitStack() as undo:
            undo.callback(part.unlink, missing_ok=True)
            undo.callback(shutil.rmtree, copies.folder, ignore_errors=True)
            # Files first, so that retention cannot take those that the copy will name; what came meanwhile after it.
            _link_all(files, copies, files.names())
            _copy_database(path, part, now)
            with closing(_open(part)) as db:
                contents = _contents(db)
                named = [name for (name,) in db.execute("SELECT id FROM tasks WHERE result_bytes IS NOT NULL")]
            copies.keep_only(named)
            _link_all(files, copies, named)
            if len(copies.names()) < len(named):
                raise BackupFailed(f"{path} cannot be backed up to {to}: retention removed tasks meanwhile; try again")
            _sync(part)
            part.rename(to)
            _sync(to.parent)
            undo.pop_all()
    except (OSError, sqlite3.DatabaseError, StartError) as exc:
        raise BackupFailed(f"{path} cannot be backed up to {to}: {exc}") from exc
    return contents


def _copy_database(path: Path, part: Path, now: float) -> None:
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    with closing(_open(path)) as source, closing(sqlite3.connect(part, isolation_level=None)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        migrate(copy)
        copy.execute("UPDATE store SET backed_up_at = ?", (now,))


def _link_all(files: ResultFiles, copies: ResultFiles, names: list[str]) -> None:
    if names:
        copies.folder.mkdir(mode=0o700, exist_ok=True)
    for name in names:
        source, target = files.folder / name, copies.folder / name
        if not target.exists():
            with contextlib.suppress(FileNotFoundError):  # retention was faster
                try:
                    target.hardlink_to(source)
                except OSError:  # on another disk
                    shutil.copyfile(source, target)
                    _sync(target)
    if names:
        _sync(copies.folder)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- go on from one ----------------------------------------------------------------------------------


class TakenOver(NamedTuple):
    """A backup that is in use now: when it was made, and how many of its tasks may have got a job since."""

    made_at: float
    doubtful: int


def take_over(db: sqlite3.Connection) -> TakenOver | None:
    """Make a store of a backup; None if it is none.

    It gets a name of its own, so that cursors from after the backup are recognised as such. Its tasks without a job
    are treated as if their create was on the wire: it may have been sent after the backup was made.
    """
    (made_at,) = db.execute("SELECT backed_up_at FROM store").fetchone()
    if made_at is None:
        return None
    db.execute("BEGIN IMMEDIATE")
    doubtful = 0
    for pos, record in db.execute("SELECT pos, record FROM tasks WHERE seq IS NULL").fetchall():
        before = _DECODER.decode(record)
        task = doubt_after_restore(before)
        if task is not before:
            doubtful += 1
            row = (task.status, _ENCODER.encode(task), pos)
            db.execute("UPDATE tasks SET status = ?, record = ? WHERE pos = ?", row)
    db.execute("UPDATE store SET identity = lower(hex(randomblob(6))), backed_up_at = NULL")
    db.execute("COMMIT")
    return TakenOver(made_at, doubtful)


# -- check one ---------------------------------------------------------------------------------------


def verify(path: Path) -> tuple[Contents, list[str]]:
    """Read a whole store, backup or not, in use or not: what is in it, and what is wrong with it, in words.

    Raises `StartError` for what is no store, or so damaged that nothing can be read.
    """
    with start_errors(path), closing(_open(path)) as db:
        problems = [text for (text,) in db.execute(f"PRAGMA integrity_check({_MOST_PROBLEMS})") if text != "ok"]
        return _contents(db), problems or list(islice(_wrong_rows(db, ResultFiles(path)), _MOST_PROBLEMS))


def _wrong_rows(db: sqlite3.Connection, files: ResultFiles) -> Iterator[str]:
    (floor, head) = db.execute("SELECT floor, head FROM store").fetchone()
    missing = []
    for task_id, status, seq, record in db.execute("SELECT id, status, seq, record FROM tasks"):
        try:
            task = _DECODER.decode(record)
        except msgspec.DecodeError as exc:
            yield f"task {task_id}: its record cannot be read: {exc}"
            continue
        if (task.id, task.status) != (task_id, status) or task.ended != (seq is not None):
            yield f"task {task_id}: its record says {task.id}, {task.status}; the store says {status}, entry {seq}"
        if seq is not None and not floor < seq <= head:
            yield f"task {task_id}: entry {seq} is not between {floor} and {head}"
        if isinstance(task.outcome, Succeeded) and (file := task.outcome.file) is not None:
            result = files.read(task_id)
            if result is None:
                missing.append(task_id)
            elif (len(result), hashlib.sha256(result).hexdigest()) != (file.bytes, file.sha256):
                yield f"task {task_id}: its result in {files.folder} is not the one that was written"
    for task_id in missing:
        # A daemon's retention may have taken the task meanwhile; the rows above were those of one moment.
        if db.execute("SELECT 1 FROM tasks WHERE id = ?", (task_id,)).fetchone():
            yield f"task {task_id}: its result is not in {files.folder}"


def _contents(db: sqlite3.Connection) -> Contents:
    row: tuple[int, int, int] = db.execute(
        "SELECT count(*), coalesce(sum(seq IS NULL), 0), count(json_extract(record, '$.outcome.file.bytes')) FROM tasks"
    ).fetchone()
    return Contents(*row)


def _open(path: Path) -> sqlite3.Connection:
    """A store that nothing is written to. Raises `StartError` for what is none."""
    if not path.is_file():
        raise StartError(f"there is no store at {path}")
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    with ExitStack() as undo:
        undo.callback(db.close)
        check(db, path, may_be_empty=False)
        undo.pop_all()
    return db
