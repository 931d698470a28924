"""What only the SQLite store has: a file that outlives the process, a lock, and a disk that can fail it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from creche import __file__ as creche_file
from creche.core.task import Job, Status, Succeeded, begin_job, settle
from creche.edges.store_sqlite import SqliteStore
from creche.edges.store_sqlite_schema import MIGRATIONS
from creche.engine.ports import Accept, Accepted, Entry, Query, Save, Settle
from creche.errors import StartError, StoreUnavailable
from creche.testing import make_task
from tests.edges.stores import LARGE, opened

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store of a test is."""
    return tmp_path / "creche.db"


@contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of root, if the tests have them: root may write everywhere."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


@contextmanager
def child(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with an open store (`store`); it ends with the block, or by itself after half a minute."""
    setup = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from creche.edges.store_sqlite import SqliteStore\n"
        "from creche.engine.ports import Accept\n"
        "from creche.errors import StoreUnavailable\n"
        "from creche.testing import make_task\n"
        "import msgspec\n"
        "signal.alarm(30); path = Path(sys.argv[1]); store = SqliteStore(path, max_inline=100); store.open()\n"
    )
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", setup + script, str(path)],
        env=os.environ | {"PYTHONPATH": str(Path(creche_file).parent.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What the child prints, line by line; a line that a kill cut off is none."""
    assert process.stdout is not None
    return (line.strip() for line in process.stdout if line.endswith("\n"))


# -- durability --------------------------------------------------------------------------------------


def test_everything_is_there_after_a_restart(path: Path) -> None:
    """Tasks, keys, labels, outcomes, the feed with its bounds, and the store's name outlive the process."""
    waiting = make_task("w", labels={"env": "prod"}, input=msgspec.Raw(b"[1]"))
    gone, done = (settle(begin_job(make_task(name, key=name), Job("j"), 1.0), Succeeded(), 2.0) for name in ("g", "d"))
    with opened(path) as store:
        identity = store.identity
        store.commit([Accept(waiting), *(Accept(make_task(name, key=name)) for name in ("g", "d"))])
        store.commit([Settle(gone), Settle(done)])
        assert store.prune(settled_before=0.0, keep=1, limit=1) == 1
    with opened(path) as store:
        assert store.identity == identity
        assert store.unfinished() == [waiting]
        assert [task.id for task in store.list_tasks(Query(labels={"env": "prod"})).tasks] == ["w"]
        assert store.feed_after(0, 10) == [Entry(2, done)]
        assert store.feed_bounds() == (1, 2)
        assert store.commit([Accept(make_task("d", key="d"))]) == [Accepted(done, new=False)]


def test_a_result_that_came_before_the_crash_is_found(path: Path) -> None:
    """Its file is durable before the outcome is; what is no task's any more, or was half written, goes at a start."""
    files = path.with_name(f"{path.name}.results")
    with opened(path) as store:
        store.commit([Accept(make_task("w")), Accept(make_task("d"))])
        store.commit([Settle(settle(begin_job(make_task("d"), Job("j"), 1.0), LARGE, 2.0))])
        assert [file.name for file in files.iterdir()] == ["d"]
    for name in ("w", ".w", "gone"):
        (files / name).write_bytes(b"[1]")
    with opened(path) as store:
        assert sorted(file.name for file in files.iterdir()) == ["d", "w"]
        assert store.left_results() == ["w"]
        assert store.result_of("w") == b"[1]"
        store.commit([Settle(settle(begin_job(make_task("w"), Job("j"), 1.0), Succeeded(msgspec.Raw(b"2")), 2.0))])
        assert store.left_results() == []
    with opened(path):
        assert [file.name for file in files.iterdir()] == ["d"]


def test_results_of_another_store_are_left_alone(path: Path) -> None:
    """A new store beside them is refused: most likely its predecessor was moved away without them."""
    files = path.with_name(f"{path.name}.results")
    files.mkdir()
    (files / "precious").write_bytes(b"1")
    with pytest.raises(StartError, match="has the results of another"):
        SqliteStore(path, max_inline=100).open()
    assert (files / "precious").exists()
    (files / "precious").unlink()
    with opened(path) as store:
        assert store.unfinished() == []


def test_a_large_result_that_cannot_be_written_refuses_its_batch(path: Path) -> None:
    """Nothing of it is done; once there is room it can be repeated."""
    files = path.with_name(f"{path.name}.results")
    end = Settle(settle(begin_job(make_task("a"), Job("j"), 1.0), LARGE, 2.0))
    with opened(path) as store:
        store.commit([Accept(make_task("a"))])
        files.write_bytes(b"in the way")
        with pytest.raises(StoreUnavailable):
            store.commit([Accept(make_task("b")), end])
        assert [task.id for task in store.unfinished()] == ["a"]
        files.unlink()
        assert len(store.commit([Accept(make_task("b")), end])) == 2
        assert store.result_of("a") == bytes(LARGE.result)


def test_every_store_has_its_own_name(tmp_path: Path) -> None:
    """Twelve characters, without the dash that separates it in a cursor."""
    with opened(tmp_path / "1.db") as one, opened(tmp_path / "2.db") as two:
        assert one.identity != two.identity
        assert len(one.identity) == 12
        assert one.identity.isalnum()


@pytest.mark.slow
def test_what_was_acknowledged_survives_sigkill(path: Path) -> None:
    """A process killed while it writes batches loses none that it was told are done, and no batch is there in part."""
    script = (
        "for batch in range(100_000):\n"
        "    store.commit([Accept(make_task(f'{batch}.{n}', input=msgspec.Raw(b'[0]' * 1000))) for n in range(7)])\n"
        "    print(batch, flush=True)\n"
    )
    with child(script, path) as process:
        printed = lines(process)
        acknowledged = [next(printed) for _ in range(50)]
        process.kill()
        acknowledged += printed
    with opened(path) as store:
        found = [task.id for task in store.unfinished()]
    batches = len(found) // 7
    assert found == [f"{batch}.{n}" for batch in range(batches) for n in range(7)]
    assert acknowledged == [str(batch) for batch in range(len(acknowledged))]
    assert batches - 1 <= len(acknowledged) <= batches


def test_writing_and_reading_in_two_threads(path: Path) -> None:
    """While one thread commits another reads: it sees whole batches only, and never an older state than before."""
    seen: list[int] = []
    with opened(path) as store:

        def read() -> None:
            while not seen or seen[-1] < 300:
                seen.append(len(store.unfinished()))

        reader = Thread(target=read)
        reader.start()
        for batch in range(30):
            store.commit([Accept(make_task(f"{batch}.{n}")) for n in range(10)])
        reader.join(30)
        assert not reader.is_alive()
    assert seen == sorted(seen)
    assert {count % 10 for count in seen} == {0}


# -- the lock ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_daemon_is_refused_until_the_first_is_dead(path: Path) -> None:
    """The refusal names the file and the process; the kernel frees the lock of one that was killed."""
    with child("print('open', flush=True); sys.stdin.read()", path) as process:
        assert next(lines(process)) == "open"
        with pytest.raises(StartError, match=rf"creche\.db is in use by another daemon \(process {process.pid}\)"):
            SqliteStore(path, max_inline=100).open()
        process.kill()
        process.wait(10)
        with opened(path) as store:
            store.commit([])


def test_a_second_store_in_the_same_process_is_refused(path: Path) -> None:
    """Nor may one process open a file twice; the first goes on, and after it the second may."""
    second = SqliteStore(path, max_inline=100)
    with opened(path) as first:
        with pytest.raises(StartError, match=f"process {os.getpid()}"):
            second.open()
        second.close()
        first.commit([Accept(make_task("a"))])
    with opened(path) as third:
        assert third.get("a") is not None


def test_a_person_may_read_the_file_meanwhile(path: Path) -> None:
    """The lock keeps daemons out, not the sqlite3 shell or a backup tool."""
    with opened(path) as store, closing(sqlite3.connect(path)) as shell:
        store.commit([Accept(make_task("a"))])
        assert shell.execute("SELECT id FROM tasks").fetchall() == [("a",)]


def test_closing_twice_or_unopened_is_nothing(path: Path) -> None:
    """`close` may come at any time and frees the lock."""
    store = SqliteStore(path, max_inline=100)
    store.close()
    store.open()
    store.close()
    store.close()
    with opened(path):
        assert {file.name for file in path.parent.iterdir()} >= {"creche.db", "creche.db.lock"}


def test_files_are_for_the_owner_only(path: Path) -> None:
    """Tasks may hold what is nobody else's business, whatever the umask."""
    before = os.umask(0)
    try:
        with opened(path) as store:
            store.commit([Accept(make_task("a"))])
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["creche.db", "creche.db-wal", "creche.db-shm", "creche.db.lock"], 0o600)


# -- what cannot be opened ---------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The daemon makes no folders: a mistyped path must not become a new, empty store."""
    with pytest.raises(StartError, match=r"folder .*/missing does not exist"):
        SqliteStore(tmp_path / "missing" / "creche.db", max_inline=100).open()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    """The system's own words say what is wrong, once it is not about a missing folder."""
    with pytest.raises(StartError, match="Is a directory"):
        SqliteStore(tmp_path, max_inline=100).open()


def test_an_unwritable_folder_is_refused_at_the_start(short_tmp: Path) -> None:
    """Better at once than at the first task."""
    short_tmp.chmod(0o555)
    with (
        nobody(),
        pytest.raises(StartError, match=r"creche\.db cannot be opened: Permission denied; .* write it and its folder"),
    ):
        SqliteStore(short_tmp / "creche.db", max_inline=100).open()


@pytest.mark.parametrize("content", [b"[daemon]\n", b"SQLite", b"SQLite format 3\0" + b"x" * 5000])
def test_what_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    """A path that points at something else costs nobody a file."""
    path.write_bytes(content)
    with pytest.raises(StartError, match=r"is not a store of creche|is damaged"):
        SqliteStore(path, max_inline=100).open()
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    """Being SQLite is not enough."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmarks (url)")
    with pytest.raises(StartError, match="is not a store of creche"):
        SqliteStore(path, max_inline=100).open()


def test_a_newer_schema_is_refused(path: Path) -> None:
    """What a later version wrote is not guessed at."""
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(
        StartError, match=f"newer creche .schema {len(MIGRATIONS) + 1}, this one knows {len(MIGRATIONS)}"
    ):
        SqliteStore(path, max_inline=100).open()


def test_a_damaged_file_is_refused_with_a_way_out(path: Path) -> None:
    """Overwritten pages are found at the start. A refused start leaves no lock: once whole, the file opens."""
    with opened(path) as store:
        store.commit([Accept(make_task(f"t{number}", note="x" * 100)) for number in range(200)])
    whole = path.read_bytes()
    path.write_bytes(whole[:20_000] + b"\xaa" * 30_000 + whole[50_000:])
    with pytest.raises(StartError, match=r"is damaged .*restore a backup, or move it"):
        SqliteStore(path, max_inline=100).open()
    path.write_bytes(whole)
    with opened(path) as store:
        assert len(store.unfinished()) == 200


def test_an_interrupted_first_start_is_taken_up(path: Path) -> None:
    """An empty file is a store that was not made to the end."""
    path.touch()
    with opened(path) as store:
        assert store.commit([Accept(make_task("a"))]) == [Accepted(make_task("a"), new=True)]


@pytest.mark.parametrize("name", sorted(file.name for file in DATA.glob("store-v*.db")))
def test_stores_of_released_versions_open_for_ever(path: Path, name: str) -> None:
    """What tests/data/make_store.py wrote then is read and written now."""
    shutil.copyfile(DATA / name, path)
    with opened(path) as store:
        assert [task.id for task in store.list_tasks(Query()).tasks] == ["failed", "succeeded", "running", "accepted"]
        running = store.get("running")
        assert running is not None
        assert running.status is Status.PROCESSING
        assert running.job == Job("job-1", {"poll_url": "https://provider.example/jobs/1"}, 1_700_000_002.0)
        assert running.input == msgspec.Raw('{"prompt": "ein Fuß"}'.encode())
        succeeded, failed = store.feed_after(0, 10)
        assert succeeded.task.outcome == Succeeded(msgspec.Raw(b'{"url": "https://provider.example/1.png"}'))
        assert store.feed_bounds() == (1, failed.seq)
        assert store.list_tasks(Query(labels={"env": "prod"}, user="eve")).tasks == [succeeded.task]
        first = store.get("succeeded")
        assert first is not None
        assert store.commit([Save(running), Accept(succeeded.task)])[1] == Accepted(first, new=False)


# -- a disk that fails -------------------------------------------------------------------------------


def test_a_full_database_refuses_the_batch_and_recovers(path: Path) -> None:
    """Nothing of the refused batch is there, reading goes on, and the same batch can be written once there is room."""
    small, large = make_task("small"), make_task("large", input=msgspec.Raw(b"[0]" * 100_000))
    with opened(path) as store:
        store.commit([Accept(make_task("before"))])
        (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="database or disk is full"):
                store.commit([Accept(small), Accept(large)])
        assert [task.id for task in store.unfinished()] == ["before"]
        store._writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
        assert store.commit([Accept(small), Accept(large)]) == [Accepted(small, new=True), Accepted(large, new=True)]
    with opened(path) as store:
        assert [task.id for task in store.unfinished()] == ["before", "small", "large"]


@pytest.mark.slow
def test_failing_writes_to_the_file_refuse_the_batch_and_recover(path: Path) -> None:
    """The same with real write errors (a limit on file size), for large batches, small ones and empty ones."""
    script = (
        "def attempt(name, writes):\n"
        "    try:\n"
        "        store.commit(writes)\n"
        "        print(name, 'written', flush=True)\n"
        "    except StoreUnavailable as exc:\n"
        "        print(name, 'refused', flush=True)\n"
        "small = [Accept(make_task('small'))]\n"
        "large = [Accept(make_task('large', input=msgspec.Raw(b'[0]' * 100_000)))]\n"
        "attempt('before', [Accept(make_task('before'))])\n"
        "size = path.with_name('creche.db-wal').stat().st_size\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))\n"
        "attempt('large', large); attempt('small', small); attempt('empty', [])\n"
        "print(len(store.unfinished()), 'there', flush=True)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "attempt('empty', []); attempt('large', large); attempt('small', small)\n"
    )
    with child(script, path) as process:
        said = list(lines(process))
    refused = ["before written", "large refused", "small refused", "empty refused", "1 there"]
    assert said == [*refused, "empty written", "large written", "small written"]
    with opened(path) as store:
        assert [task.id for task in store.unfinished()] == ["before", "large", "small"]


def test_a_foreign_writer_makes_the_store_unavailable(path: Path) -> None:
    """Someone's sqlite3 shell in a transaction of its own: refused after a wait, written when it is done."""
    with opened(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as shell:
        store._writer.execute("PRAGMA busy_timeout = 10")
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="database is locked"):
            store.commit([])
        with pytest.raises(StoreUnavailable, match="database is locked"):
            store.prune(settled_before=0.0, keep=0, limit=1)
        assert store.unfinished() == []
        shell.execute("ROLLBACK")
        assert store.commit([]) == []


def test_damage_met_while_running_is_reported(path: Path) -> None:
    """A read that meets a broken table raises `StoreUnavailable`, which names the file."""
    with opened(path) as store, closing(sqlite3.connect(path)) as shell:
        shell.execute("DROP TABLE labels")
        with pytest.raises(StoreUnavailable, match=r"creche\.db cannot be read: no such table: labels"):
            store.list_tasks(Query(labels={"a": "b"}))


def test_a_defect_of_the_caller_is_not_taken_for_the_world(path: Path) -> None:
    """A settle without a time is ours to repair: repeating it would never help. Nothing of its batch is written."""
    task = make_task("a")
    with opened(path) as store:
        with pytest.raises(sqlite3.IntegrityError):
            store.commit([Accept(task), Settle(task)])
        assert store.unfinished() == []
        assert store.commit([Accept(task)]) == [Accepted(task, new=True)]
