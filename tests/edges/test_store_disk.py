"""The SQLite store on a disk that loses power, or fails, at each single operation."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from creche.core.task import Job, Succeeded, begin_job, settle
from creche.edges import store_sqlite_schema
from creche.edges.store_backup import verify
from creche.edges.store_sqlite import SqliteStore
from creche.engine.ports import Accept, Entry, Save, Settle, Write
from creche.errors import StartError, StoreUnavailable
from creche.testing import make_task
from tests.disk import FULL, IOERR_FSYNC, READONLY, Disk

RUNNING = begin_job(make_task("running"), Job("j"), 2.0)
DONE = settle(begin_job(make_task("done"), Job("j"), 2.0), Succeeded(), 9.0)
LARGE = settle(begin_job(make_task("large"), Job("j"), 2.0), Succeeded(msgspec.Raw(b'"%s"' % (b"x" * 100))), 9.0)
FIRST: list[Write] = [Accept(make_task(name)) for name in ("running", "done", "large")]
SECOND: list[Write] = [Save(RUNNING), Settle(DONE), Settle(LARGE), *(Accept(make_task(f"n{n}")) for n in range(20))]


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Under every store of the test."""
    with Disk() as disk:
        yield disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "creche.db"


def new_store(path: Path) -> SqliteStore:
    return SqliteStore(path, max_inline=100)


def begun_anew(path: Path) -> SqliteStore:
    """An open store that holds `FIRST` and nothing else."""
    for file in path.parent.glob("creche.db*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    store = new_store(path)
    store.open()
    store.commit(FIRST)
    return store


def contents(store: SqliteStore) -> object:
    """All that can be told from what the store holds."""
    return store.unfinished(), store.feed_after(0, 100), store.feed_bounds()


def expected(folder: Path) -> tuple[object, object]:
    """What a store holds before and after `SECOND`."""
    store = new_store(folder / "expected.db")
    store.open()
    store.commit(FIRST)
    before = contents(store)
    store.commit(SECOND)
    after = contents(store)
    store.close()
    return before, after


def lose_power(disk: Disk, store: SqliteStore, seed: int) -> None:
    """What is open is gone, and so is what was not synced, by chance."""
    store.close()
    disk.after_power_loss(random.Random(seed))  # noqa: S311 - a repeatable one is wanted


# -- power -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_power_fails_in_a_commit(disk: Disk, path: Path, seed: int) -> None:
    """At each of its operations: the batch is there whole or not at all, and all before it is."""
    before, after = expected(path.parent)
    operations, seen = 0, set()
    while True:
        store = begun_anew(path)
        operations += 1
        disk.fails_at = disk.operations + operations
        try:
            store.commit(SECOND)
        except StoreUnavailable:
            acknowledged = False
        else:
            acknowledged = True
            disk.fails_at = disk.operations + 1  # right behind it
            with pytest.raises(StoreUnavailable):
                store.commit([])
        lose_power(disk, store, seed)
        store.open()
        found = contents(store)
        assert found == after if acknowledged else found in (before, after)
        seen.add(found == after)
        assert verify(path)[1] == []
        store.commit(SECOND)
        assert contents(store) == after, "what was refused can be repeated"
        store.close()
        if acknowledged:
            break
    assert operations > 3
    assert seen == {True, False}


@pytest.mark.parametrize("seed", range(3))
def test_power_fails_at_the_first_start(disk: Disk, path: Path, seed: int) -> None:
    """At each of its operations: the next start makes the store."""
    operations = 0
    while True:
        operations += 1
        store = new_store(path)
        disk.fails_at = disk.operations + operations
        try:
            store.open()
        except StartError:
            lose_power(disk, store, seed)
            store.open()
        else:
            disk.mend()
            store.commit(FIRST)
            store.close()
            break
        store.commit(FIRST)
        assert len(store.unfinished()) == 3
        store.close()
        path.unlink()
    assert operations > 10


def test_power_fails_while_the_log_is_moved_to_the_file(disk: Disk, path: Path) -> None:
    """A checkpoint at the end, or under load, is cut off anywhere: nothing is lost."""
    for operations in range(1, 30):
        store = new_store(path)
        store.open()
        store.commit([Accept(make_task(f"{operations}.{number}")) for number in range(40)])
        number_of = len(store.unfinished())
        disk.fails_at = disk.operations + operations
        lose_power(disk, store, operations)
        store.open()
        assert len(store.unfinished()) == number_of
        assert verify(path)[1] == []
        store.close()


def test_the_disk_would_tell(disk: Disk, path: Path) -> None:
    """A store that does not sync loses what it has acknowledged."""
    connect = store_sqlite_schema._connect

    def hasty(path: Path) -> object:
        db = connect(path)
        db.execute("PRAGMA synchronous = OFF")
        return db

    lost = 0
    with mock.patch.object(store_sqlite_schema, "_connect", hasty):
        for seed in range(10):
            store = new_store(path.with_name(f"{seed}.db"))
            store.open()
            store.commit(FIRST)
            disk.fails_at = disk.operations + 1
            lose_power(disk, store, seed)
            try:
                store.open()
                lost += len(store.unfinished()) < 3
            except StartError:
                lost += 1
            finally:
                store.close()
    assert lost > 0


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [FULL, IOERR_FSYNC, READONLY])
def test_the_disk_fails_in_a_commit(disk: Disk, path: Path, error: int) -> None:
    """At each of its operations: the batch is refused and nothing of it seen; once the disk works it goes through."""
    before, after = expected(path.parent)
    disk.error = error
    operations = 0
    while True:
        store = begun_anew(path)
        operations += 1
        disk.fails_at = disk.operations + operations
        try:
            answers = store.commit(SECOND)
        except StoreUnavailable:
            assert contents(store) == before
            with pytest.raises(StoreUnavailable):
                store.commit(SECOND)
            disk.mend()
            answers = store.commit(SECOND)
            refused = True
        else:
            refused = False
        disk.mend()
        assert isinstance(answers[1], Entry)
        assert contents(store) == after
        store.close()
        assert verify(path)[1] == []
        if not refused:
            break
    assert operations > 3
