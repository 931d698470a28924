"""Backups of a store in use, stores that were one, and the check of all that is in a store."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from loguru import logger

from creche.core.task import Job, Sent, Status, begin_create, begin_job, park_unknown, settle
from creche.edges import store_backup
from creche.edges.store_backup import Contents, back_up, verify
from creche.edges.store_sqlite import SqliteStore
from creche.engine.ports import Accept, Save, Settle
from creche.errors import BackupFailed, StartError
from creche.testing import make_task
from tests.edges.stores import LARGE, opened

MADE_AT = 1_700_000_000.0
JOB = Job("j", {"url": "u"}, 2.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "creche.db"


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "backup.db"


def fill(store: SqliteStore) -> None:
    """A task in each phase of life, one with a large result."""
    store.commit([Accept(make_task(name, key=name)) for name in ("accepted", "sent", "unknown", "running", "done")])
    sent = begin_create(make_task("sent"), 1.5, "way")
    running = begin_job(make_task("running"), JOB, 2.0)
    store.commit([Save(sent), Save(running), Save(park_unknown(begin_create(make_task("unknown"), 1.0, ""), "why"))])
    store.commit([Settle(settle(begin_job(make_task("done"), JOB, 2.0), LARGE, 9.0))])


def everything(store: SqliteStore) -> object:
    """All tasks and the feed."""
    names = ("accepted", "sent", "unknown", "running", "done")
    return [store.get(name) for name in names], store.feed_after(0, 10), store.result_of("done")


# -- backups -----------------------------------------------------------------------------------------


def test_a_backup_of_a_store_in_use(path: Path, to: Path) -> None:
    """It is whole, in one file and a folder, for the owner only; the store goes on."""
    with opened(path) as store:
        fill(store)
        assert back_up(path, to, MADE_AT) == Contents(tasks=5, unfinished=4, files=1)
        store.commit([Accept(make_task("later"))])
    names = sorted(file.name for file in to.parent.iterdir() if "backup" in file.name)
    assert names == ["backup.db", "backup.db.results"]
    assert to.stat().st_mode & 0o77 == 0
    assert verify(to) == (Contents(5, 4, 1), [])
    with opened(to) as copy:
        assert copy.get("later") is None
        assert copy.result_of("done") == bytes(LARGE.result)


def test_a_backup_while_much_is_written(path: Path, to: Path) -> None:
    """It holds what was written up to some commit, all of it, with the results of exactly those tasks."""
    with opened(path) as store:
        enough = threading.Event()

        def write() -> None:
            for number in range(300):
                task = make_task(f"t{number}")
                store.commit([Accept(task), Settle(settle(begin_job(task, JOB, 2.0), LARGE, 9.0))])
                if number == 20:
                    enough.set()
                if number % 50 == 49:
                    store.prune(settled_before=0.0, keep=30, limit=100)

        writer = threading.Thread(target=write)
        writer.start()
        enough.wait(20)
        backups = [to.with_name(f"{number}.db") for number in range(5)]
        for one in backups:
            back_up(path, one, MADE_AT)
        writer.join()
    for one in backups:
        contents, problems = verify(one)
        assert problems == []
        assert contents.files == contents.tasks > 0
        assert len(list(one.with_name(f"{one.name}.results").iterdir())) == contents.files


def test_a_backup_names_no_result_that_it_has_not(path: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that came and went while it was made: it fails, and the next attempt does not."""
    copy = store_backup._copy_database

    def slow(path: Path, part: Path, now: float) -> None:
        fill(store)
        copy(path, part, now)
        store.prune(settled_before=1e12, keep=1, limit=10)

    with opened(path) as store:
        monkeypatch.setattr(store_backup, "_copy_database", slow)
        with pytest.raises(BackupFailed, match="retention removed tasks meanwhile; try again"):
            back_up(path, to, MADE_AT)
        monkeypatch.undo()
        assert back_up(path, to, MADE_AT) == Contents(tasks=4, unfinished=4, files=0)


@pytest.mark.parametrize("taken", ["backup.db", "backup.db.results"])
def test_a_backup_overwrites_nothing(path: Path, to: Path, taken: str) -> None:
    """What is there stays as it is."""
    to.with_name(taken).write_text("precious")
    with opened(path) as store:
        fill(store)
        with pytest.raises(BackupFailed, match="exists; a backup needs a new name"):
            back_up(path, to, MADE_AT)
    assert to.with_name(taken).read_text() == "precious"


def test_damage_over_many_pages_is_found(path: Path) -> None:
    """Whether so much can be read still that it is listed, or nothing can."""
    with opened(path) as store:
        store.commit([Accept(make_task(f"t{number}", note="x" * 100)) for number in range(200)])
    whole = path.read_bytes()
    path.write_bytes(whole[:20_000] + b"\xaa" * 30_000 + whole[50_000:])
    try:
        problems = verify(path)[1]
    except StartError as exc:
        problems = [str(exc)]
    assert problems


@pytest.mark.parametrize("content", [None, b"", b"something else" * 100])
def test_what_is_no_store_is_not_backed_up(path: Path, to: Path, content: bytes | None) -> None:
    """And nothing is left of the attempt."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackupFailed):
        back_up(path, to, MADE_AT)
    assert [file.name for file in to.parent.iterdir() if "backup" in file.name] == []


def test_a_backup_into_a_folder_that_is_not_there(path: Path, tmp_path: Path) -> None:
    """It is named."""
    with opened(path) as store:
        fill(store)
        with pytest.raises(BackupFailed, match=r"missing/b\.db"):
            back_up(path, tmp_path / "missing" / "b.db", MADE_AT)


# -- going on from one -------------------------------------------------------------------------------


def test_a_store_that_was_a_backup(path: Path, to: Path) -> None:
    """It has a name of its own, and what had no job then may have one now; that is told, once."""
    with opened(path) as store:
        fill(store)
        before, identity = everything(store), store.identity
        back_up(path, to, MADE_AT)
    warnings: list[str] = []
    sink = logger.add(lambda message: warnings.append(message.record["message"]), level="WARNING")
    try:
        with opened(to) as copy:
            taken_over, name = everything(copy), copy.identity
        with opened(to) as copy:
            assert (everything(copy), copy.identity) == (taken_over, name)
    finally:
        logger.remove(sink)
    [warning] = warnings
    assert "the backup of 2023-11-14 22:13:20+00:00" in warning
    assert "1 tasks may have got a job since" in warning
    assert name != identity
    accepted = make_task("accepted", key="accepted")
    doubtful = msgspec.structs.replace(accepted, status=Status.CREATING, sent=Sent(accepted.accepted_at))
    assert isinstance(before, tuple)
    assert taken_over == ([doubtful, *before[0][1:]], *before[1:])


def test_a_backup_of_an_older_schema_can_be_opened(path: Path, to: Path) -> None:
    """It is brought to the current one while it is made."""
    path.write_bytes((Path(__file__).parent.parent / "data" / "store-v1.db").read_bytes())
    assert back_up(path, to, MADE_AT).tasks == 4
    with opened(to) as copy:
        assert copy.get("succeeded") is not None


# -- the check ---------------------------------------------------------------------------------------


def test_a_sound_store_in_use(path: Path) -> None:
    """Nothing is wrong, and nothing is changed."""
    with opened(path) as store:
        fill(store)
        before = everything(store)
        assert verify(path) == (Contents(5, 4, 1), [])
        assert everything(store) == before


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("UPDATE tasks SET record = x'7b7d' WHERE id = 'running'", "task running: its record cannot be read"),
        ("UPDATE tasks SET status = 'paused' WHERE id = 'running'", "task running: its record says running, waiting"),
        ("UPDATE tasks SET seq = 7 WHERE id = 'done'", "task done: entry 7 is not between 0 and 1"),
    ],
)
def test_wrong_rows_are_named(path: Path, harm: str, words: str) -> None:
    """Each by its task."""
    with opened(path) as store:
        fill(store)
    with closing(sqlite3.connect(path)) as shell:
        shell.execute(harm)
        shell.commit()
    assert any(words in problem for problem in verify(path)[1])


@pytest.mark.parametrize(("content", "words"), [(None, "is not in"), (b"[]", "is not the one that was written")])
def test_wrong_results_are_named(path: Path, content: bytes | None, words: str) -> None:
    """One that is gone, and one that was changed."""
    with opened(path) as store:
        fill(store)
    file = path.with_name("creche.db.results") / "done"
    file.unlink() if content is None else file.write_bytes(content)
    [problem] = verify(path)[1]
    assert problem.startswith("task done: its result")
    assert words in problem


@pytest.mark.parametrize("page", [2, 5, 20])
def test_damaged_pages_are_found(path: Path, page: int) -> None:
    """Also where the start would not look."""
    with opened(path) as store:
        store.commit([Accept(make_task(f"t{number}", note="x" * 100)) for number in range(200)])
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xaa" * 4096)
    with pytest.raises(StartError, match="is damaged"):
        verify(path)


@pytest.mark.parametrize("content", [None, b"", b"something else" * 100])
def test_what_is_no_store_cannot_be_checked(path: Path, content: bytes | None) -> None:
    """It is said so."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError):
        verify(path)
