"""The journal over a store in memory: groups, order, failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import pytest
import trio
import trio.testing

from creche.core.task import Task
from creche.engine.journal import MAX_BATCH, Journal
from creche.engine.ports import Accept, Accepted, Save, Store, Write, Written
from creche.errors import KeyConflict, StoreUnavailable

T = TypeVar("T")


class Memory:
    """A store that remembers its commits, for writes alone."""

    def __init__(self) -> None:
        self.commits: list[list[Write]] = []
        self.broken = False

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        if self.broken:
            raise StoreUnavailable("disk full")
        self.commits.append(list(writes))
        return [self._answer(write) for write in writes]

    def _answer(self, write: Write) -> Written:
        if write.task.key == "taken":
            return KeyConflict("seen before")
        return Accepted(write.task, new=True) if isinstance(write, Accept) else None


class Bench:
    """A running journal; commits wait while the `gate` is closed."""

    def __init__(self) -> None:
        self.store = Memory()
        self.gate = trio.Event()
        self.gate.set()
        self.journal = Journal(cast("Store", self.store), run_write=self._run, run_read=self._run)

    async def _run(self, function: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        await self.gate.wait()
        return function()


@pytest.fixture
async def bench(nursery: trio.Nursery) -> Bench:
    """A journal that runs."""
    made = Bench()
    await nursery.start(made.journal.run)
    return made


def a_task(task_id: str, note: str = "", key: str | None = None) -> Task:
    return Task(id=task_id, algorithm="draw", token="k", accepted_at=0.0, note=note, key=key)


async def test_a_write_returns_when_it_is_committed(bench: Bench) -> None:
    """With the store's answer."""
    task = a_task("t1")
    assert await bench.journal.write(Accept(task)) == Accepted(task, new=True)
    assert bench.store.commits == [[Accept(task)]]


async def test_writes_that_come_during_a_commit_share_the_next(bench: Bench) -> None:
    """One for the first, one for all others, in order."""
    bench.gate = trio.Event()
    async with trio.open_nursery() as writers:
        for number in range(50):
            writers.start_soon(bench.journal.write, Save(a_task(f"t{number}")))
            await trio.testing.wait_all_tasks_blocked()
        bench.gate.set()
    assert [[write.task.id for write in commit] for commit in bench.store.commits] == [
        ["t0"],
        [f"t{number}" for number in range(1, 50)],
    ]


async def test_a_commit_has_a_greatest_size(bench: Bench) -> None:
    """So that no caller waits for an endless one; nothing is left behind."""
    writes: list[tuple[Write, Callable[[Written], None]]] = [
        (Save(a_task(f"t{number}")), lambda _: None) for number in range(MAX_BATCH + 1)
    ]
    await bench.journal.write_all(writes)
    assert [len(commit) for commit in bench.store.commits] == [MAX_BATCH, 1]


async def test_a_refusal_concerns_one_write_only(bench: Bench) -> None:
    """Raised to who asked; in a batch it is a value among the answers."""
    with pytest.raises(KeyConflict):
        await bench.journal.write(Accept(a_task("t1", key="taken")))
    answers = await bench.journal.write_all(
        [(Accept(a_task("t2", key="taken")), lambda _: None), (Accept(a_task("t3")), lambda _: None)]
    )
    assert [type(answer) for answer in answers] == [KeyConflict, Accepted]


async def test_what_follows_a_commit_happens_in_its_order(bench: Bench) -> None:
    """Each `then` gets its own answer, before the writer goes on."""
    order: list[str] = []

    async def write(name: str) -> None:
        await bench.journal.write(Accept(a_task(name)), then=lambda _: order.append(name))
        order.append(f"{name} returned")

    async with trio.open_nursery() as writers:
        for name in ("t1", "t2", "t3"):
            writers.start_soon(write, name)
            await trio.testing.wait_all_tasks_blocked()
    assert order == ["t1", "t1 returned", "t2", "t2 returned", "t3", "t3 returned"]


async def test_cancelling_the_writer_stops_neither_the_write_nor_what_follows(bench: Bench) -> None:
    """Only the answer is lost."""
    bench.gate = trio.Event()
    followed = trio.Event()
    async with trio.open_nursery() as writers:
        task = a_task("t1")
        writers.start_soon(lambda: bench.journal.write(Accept(task), then=lambda _: followed.set()))
        await trio.testing.wait_all_tasks_blocked()
        writers.cancel_scope.cancel()
    bench.gate.set()
    with trio.fail_after(1):
        await followed.wait()
    assert bench.store.commits == [[Accept(task)]]


async def test_of_several_notes_the_last_is_written(bench: Bench) -> None:
    """Nobody waits for a note."""
    bench.gate = trio.Event()
    bench.journal.note(a_task("t0"))
    await trio.testing.wait_all_tasks_blocked()
    for note in ("first", "second", "third"):
        bench.journal.note(a_task("t1", note))
    bench.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.store.commits[1:] == [[Save(a_task("t1", "third"))]]


async def test_a_full_save_replaces_an_older_note(bench: Bench) -> None:
    """The note would put the task back to where it was."""
    bench.gate = trio.Event()
    bench.journal.note(a_task("t0"))
    await trio.testing.wait_all_tasks_blocked()
    bench.journal.note(a_task("t1", "older"))
    async with trio.open_nursery() as writers:
        writers.start_soon(bench.journal.write, Save(a_task("t1", "newer")))
        await trio.testing.wait_all_tasks_blocked()
        bench.gate.set()
    assert bench.store.commits[1:] == [[Save(a_task("t1", "newer"))]]


async def test_a_broken_store_is_told_to_who_writes(
    bench: Bench, autojump_clock: object, errors_logged: list[str]
) -> None:
    """The fault shows until a commit succeeds, and is logged once."""
    bench.store.broken = True
    with pytest.raises(StoreUnavailable, match="disk full"):
        await bench.journal.write(Save(a_task("t1")))
    with pytest.raises(StoreUnavailable, match="disk full"):
        await bench.journal.write(Save(a_task("t1")))
    assert bench.journal.fault == "disk full"
    assert errors_logged == ["the store cannot be written, tasks go on in memory: disk full"]
    bench.store.broken = False
    await bench.journal.write(Save(a_task("t1")))
    assert bench.journal.fault is None


@pytest.mark.usefixtures("errors_logged")
async def test_a_write_that_must_not_be_lost_waits_for_the_store(bench: Bench, autojump_clock: object) -> None:
    """It is tried again until it is written, once."""
    bench.store.broken = True
    async with trio.open_nursery() as writers:
        writers.start_soon(bench.journal.save_surely, lambda: a_task("t1"))
        await trio.sleep(30)
        assert bench.store.commits == []
        bench.store.broken = False
    assert bench.store.commits == [[Save(a_task("t1"))]]


@pytest.mark.usefixtures("errors_logged")
async def test_a_failed_note_does_not_come_back_after_a_newer_save(bench: Bench, autojump_clock: object) -> None:
    """The save came while the note's commit was failing; written after it, the note would undo it."""
    bench.store.broken = True
    bench.gate = trio.Event()
    bench.journal.note(a_task("t1", "older"))
    await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as writers:
        writers.start_soon(bench.journal.save_surely, lambda: a_task("t1", "newer"))
        await trio.testing.wait_all_tasks_blocked()
        bench.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        bench.store.broken = False
    await trio.sleep(5)
    assert bench.store.commits == [[Save(a_task("t1", "newer"))]]


@pytest.mark.usefixtures("errors_logged")
async def test_a_note_waits_for_the_store(bench: Bench, autojump_clock: object) -> None:
    """It is kept in memory; a newer one replaces it."""
    bench.store.broken = True
    bench.journal.note(a_task("t1", "older"))
    await trio.sleep(4.5)
    bench.journal.note(a_task("t1", "newer"))
    bench.store.broken = False
    await trio.sleep(5)
    assert bench.store.commits == [[Save(a_task("t1", "newer"))]]


@pytest.mark.usefixtures("errors_logged")
async def test_a_probe_proves_that_the_store_is_back(bench: Bench, autojump_clock: object) -> None:
    """It writes only after a failure, and nothing that can be seen."""
    await bench.journal.probe()
    assert bench.store.commits == []
    bench.store.broken = True
    with pytest.raises(StoreUnavailable):
        await bench.journal.write(Save(a_task("t1")))
    with pytest.raises(StoreUnavailable):
        await bench.journal.probe()
    bench.store.broken = False
    await bench.journal.probe()
    assert (bench.store.commits, bench.journal.fault) == ([[]], None)


@pytest.mark.usefixtures("errors_logged")
@pytest.mark.parametrize("broken", [False, True])
async def test_closing_ends_the_run_when_nothing_is_left(broken: bool, autojump_clock: object) -> None:  # noqa: FBT001
    """What is queued is written first; notes for a store that is gone are given up."""
    bench = Bench()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(bench.journal.run)
            bench.store.broken = broken
            bench.journal.note(a_task("t1"))
            bench.journal.close()
    assert bench.store.commits == ([] if broken else [[Save(a_task("t1"))]])


async def test_a_query_gets_the_store(bench: Bench) -> None:
    """And its answer, whatever it is."""
    seen: Any = await bench.journal.read(lambda store: store)
    assert seen is bench.store
