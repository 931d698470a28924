"""The store's SQLite file until it can be used: locked, ours, sound, and at the current schema."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from creche.errors import StartError

APPLICATION_ID = 0x63726368
"""Marks the file as ours ("crch") in SQLite's header."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # `commits` changes with every commit: SQLite does not write a page that an UPDATE leaves as it was.
        """CREATE TABLE store (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            identity TEXT NOT NULL,
            head INTEGER NOT NULL,
            floor INTEGER NOT NULL,
            commits INTEGER NOT NULL
        ) STRICT""",
        "INSERT INTO store VALUES (1, lower(hex(randomblob(6))), 0, 0, 0)",
        # `pos` is the order of acceptance; every index ends in it. `seq` is NULL while the task is unfinished.
        """CREATE TABLE tasks (
            pos INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            key TEXT,
            algorithm TEXT NOT NULL,
            user TEXT,
            status TEXT NOT NULL,
            seq INTEGER UNIQUE,
            settled_at REAL,
            record BLOB NOT NULL,
            CHECK ((seq IS NULL) = (settled_at IS NULL))
        ) STRICT""",
        "CREATE UNIQUE INDEX tasks_key ON tasks (key) WHERE key IS NOT NULL",
        "CREATE INDEX tasks_algorithm ON tasks (algorithm)",
        "CREATE INDEX tasks_user ON tasks (user) WHERE user IS NOT NULL",
        "CREATE INDEX tasks_status ON tasks (status)",
        """CREATE TABLE inputs (
            pos INTEGER PRIMARY KEY REFERENCES tasks ON DELETE CASCADE,
            input BLOB NOT NULL
        ) STRICT""",
        """CREATE TABLE labels (
            pos INTEGER NOT NULL REFERENCES tasks ON DELETE CASCADE,
            name TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (pos, name)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX labels_value ON labels (name, value, pos)",
    ),
    (
        # How long the result is that lies in a file of its own; NULL for all others.
        "ALTER TABLE tasks ADD COLUMN result_bytes INTEGER",
        # When this file was made as a backup; NULL in a store that is or was in use.
        "ALTER TABLE store ADD COLUMN backed_up_at REAL",
    ),
    (
        # Messages that are yet to be delivered; `due_at` is NULL for those that were given up.
        """CREATE TABLE outbox (
            id TEXT NOT NULL UNIQUE,
            task TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            url TEXT NOT NULL,
            traceparent TEXT NOT NULL,
            since REAL NOT NULL,
            due_at REAL,
            attempts INTEGER NOT NULL,
            error TEXT NOT NULL,
            body BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX outbox_due ON outbox (due_at)",
    ),
)
"""Each brings a store from the version before to its own number, counted from 1. Released ones are never edited."""

_MAGIC = b"SQLite format 3\0"
_OLDEST_SQLITE = (3, 37)  # STRICT tables
_BUSY_TIMEOUT_S = 5.0  # for a person's own sqlite3 shell; a second daemon does not get this far
_WAL_LIMIT_BYTES = 64 << 20  # what a burst leaves of the log on disk
_CHECK_LIMIT_BYTES = 256 << 20  # checking more would hold up the start by seconds


class Database(NamedTuple):
    """An open file: the connection that writes, and the one that reads."""

    writer: sqlite3.Connection
    reader: sqlite3.Connection


def open_database(path: Path, undo: ExitStack) -> Database:
    """Lock the file, make it if it is not there, check it and migrate it. `undo` closes and frees everything.

    Both connections may be used from any thread, each by one at a time. Raises `StartError`.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StartError(f"SQLite {sqlite3.sqlite_version} is too old; the store needs 3.37 or newer")
    with start_errors(path):
        _lock(path, undo)
        _make_or_check_file(path)
        writer = undo.enter_context(closing(_connect(path)))
        check(writer, path, may_be_empty=True)
        if path.stat().st_size <= _CHECK_LIMIT_BYTES:
            _check_pages(writer, path)
        (journal_mode,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
        if journal_mode != "wal":
            raise StartError(
                f"the store {path} is on a file system without shared memory for SQLite; choose a local disk"
            )
        migrate(writer)
        reader = undo.enter_context(closing(_connect(path)))
        reader.execute("PRAGMA query_only = ON")
    return Database(writer, reader)


@contextmanager
def start_errors(path: Path) -> Iterator[None]:
    """What goes wrong with the store's files before it can be used becomes a `StartError`."""
    try:
        yield
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise _damaged(path, str(exc)) from exc
        raise StartError(f"the store {path} cannot be opened: {exc}") from exc
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise StartError(f"the store's folder {path.parent} does not exist; make it, or choose another") from exc
    except OSError as exc:
        raise StartError(
            f"the store {path} cannot be opened: {exc.strerror}; the daemon must be able to write it and its folder"
        ) from exc


def _lock(path: Path, undo: ExitStack) -> None:
    # A file of its own, because closing any descriptor of the database would drop SQLite's locks on it; never removed,
    # because a lock on a removed file keeps nobody out. The kernel frees it when this process dies, however it dies.
    fd = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    undo.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        holder = os.read(fd, 20).decode().strip() or "unknown"
        raise StartError(f"the store {path} is in use by another daemon (process {holder})") from exc
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())


def _make_or_check_file(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        start = os.read(fd, len(_MAGIC))
    finally:
        os.close(fd)
    if start and start != _MAGIC:
        raise _foreign(path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    return db


def look(path: Path) -> str:
    """What a start would find at `path`, in words; nothing is changed. Raises `StartError` where it would fail."""
    with start_errors(path):
        path.parent.stat()
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise StartError(f"the store's folder {path.parent} is not writable for this user")
        if not path.exists():
            return "is made by the start"
        with path.open("r+b") as file:
            if (begin := file.read(len(_MAGIC))) and begin != _MAGIC:
                raise _foreign(path)
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            check(db, path, may_be_empty=True)
        used = _holder(path)
        return f"{path.stat().st_size / 1e6:.1f} MB" + (f", in use by process {used}" if used else "")


def _holder(path: Path) -> str:
    """Which process has the store open; "" if none."""
    lock = path.with_name(f"{path.name}.lock")
    if not lock.exists():
        return ""
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read(20).decode().strip() or "unknown"
    return ""


def check(db: sqlite3.Connection, path: Path, *, may_be_empty: bool) -> None:
    """Whether it is ours, or nothing yet, and not of a newer version. Raises `StartError`."""
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if (tables or not may_be_empty) and application_id != APPLICATION_ID:
        raise _foreign(path)
    if version > len(MIGRATIONS):
        raise StartError(
            f"the store {path} was written by a newer creche (schema {version}, this one knows {len(MIGRATIONS)}); "
            "install that version, or restore a backup from before it"
        )


def _check_pages(db: sqlite3.Connection, path: Path) -> None:
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _damaged(path, verdict.splitlines()[-1])


def migrate(db: sqlite3.Connection) -> None:
    """Bring a store of an older version, or an empty file, to the current schema."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        db.execute("BEGIN IMMEDIATE")
        for statement in statements:
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")


def _foreign(path: Path) -> StartError:
    return StartError(f"{path} is not a store of creche; choose another path, or move the file away")


def _damaged(path: Path, why: str) -> StartError:
    return StartError(
        f"the store {path} is damaged ({why}); `creche check --store` tells more; restore a backup, or move it, its "
        "-wal and its .results away to start empty"
    )
