"""The feed over a store in memory: cursors, readers, and what falls to retention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from creche.core.task import Status, Succeeded, Task
from creche.engine.feed import OLDEST, PAGE, Feed, Item, Updates
from creche.engine.journal import Journal
from creche.engine.ports import PAGE_BYTES, Entry, Store

T = TypeVar("T")


def a_task(number: int, algorithm: str = "draw", size_bytes: int = 0) -> Task:
    return Task(
        id=f"t{number}",
        algorithm=algorithm,
        token="k",
        accepted_at=0.0,
        status=Status.SUCCEEDED,
        outcome=Succeeded(msgspec.Raw(b'"%s"' % (b"x" * size_bytes))),
    )


def anything(_: Task) -> bool:
    return True


class Log:
    """The feed half of a store, and a feed that publishes what it holds."""

    def __init__(self, *, before: int = 0, tail_count: int = 10_000, tail_bytes: int = 1 << 20) -> None:
        self.entries = [Entry(seq, a_task(seq)) for seq in range(1, before + 1)]
        self.floor = 0
        self.reads = 0
        journal = Journal(cast("Store", self), run_write=self._run, run_read=self._run)
        self.feed = Feed(journal, identity="a-b", floor=0, head=before, tail_count=tail_count, tail_bytes=tail_bytes)

    async def _run(self, function: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return function()

    def feed_after(self, seq: int, limit: int) -> list[Entry]:
        self.reads += 1
        return [entry for entry in self.entries if entry.seq > seq][:limit]

    def feed_bounds(self) -> tuple[int, int]:
        return self.floor, self.entries[-1].seq if self.entries else self.floor

    def prune(self, floor: int) -> None:
        """As retention does it: the feed hears of it only later."""
        self.floor = floor
        self.entries = [entry for entry in self.entries if entry.seq > floor]

    def publish(self, *numbers: int, algorithm: str = "draw", size_bytes: int = 0) -> None:
        for number in numbers:
            entry = Entry(number, a_task(number, algorithm, size_bytes))
            self.entries.append(entry)
            self.feed.publish(entry)


def seqs(items: list[Item]) -> list[int]:
    return [item.seq for item in items]


@given(st.just(OLDEST) | st.text(max_size=30) | st.integers(-5, 10**30).map(lambda seq: f"a-b-{seq}"))
def test_no_cursor_breaks_the_feed(cursor: str) -> None:
    """Whatever a client sends is a position in the feed, or -1."""
    position = Log(before=5).feed.position(cursor)
    assert position is not None
    assert -1 <= position <= 5


@settings(max_examples=20)
@given(st.integers(0, 5))
def test_a_cursor_leads_back_to_its_place(seq: int) -> None:
    """It is the feed's own."""
    feed = Log(before=5).feed
    assert feed.position(feed.cursor(seq)) == seq


@pytest.mark.parametrize(
    "cursor", ["", "5", "other-5", "a-b-", "a-b--1", "a-b-5x", "a-b-+5", "a-b-6", "a-b-" + "9" * 19]
)
def test_a_cursor_that_leads_nowhere_asks_for_a_resync(cursor: str) -> None:
    """It cannot be read, is of another store, or of this one before it was put back to a backup: ahead of the head."""
    feed = Log(before=5).feed
    assert feed.position(cursor) == -1
    assert feed.reader(cursor, anything).missed() == "a-b-0"


async def test_a_reader_without_a_cursor_begins_now() -> None:
    """What was before is not shown; what comes is."""
    log = Log(before=3)
    log.publish(4)
    reader = log.feed.reader(None, anything)
    assert await reader.next_nowait() == []
    log.publish(5, 6)
    assert seqs(await reader.next_nowait()) == [5, 6]
    assert (reader.cursor, reader.missed()) == ("a-b-6", None)


async def test_a_reader_with_a_cursor_misses_and_repeats_nothing() -> None:
    """From the store as far as memory does not reach, then from memory."""
    log = Log(before=PAGE + 50)
    log.publish(*range(PAGE + 51, PAGE + 61))
    reader = log.feed.reader("a-b-10", anything)
    read: list[int] = []
    while items := await reader.next_nowait():
        read += seqs(items)
    assert read == list(range(11, PAGE + 61))


async def test_recent_entries_come_from_memory() -> None:
    """The store is not asked; each message is encoded once for all readers."""
    log = Log()
    log.publish(1, 2, 3)
    first = await log.feed.reader("a-b-1", anything).next_nowait()
    second = await log.feed.reader("a-b-1", anything).next_nowait()
    assert log.reads == 0
    assert all(one is other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("limits", [{"tail_count": 8}, {"tail_bytes": 1000}])
async def test_memory_is_bounded_and_nothing_is_lost_by_it(limits: dict[str, int]) -> None:
    """What no longer fits is read from the store."""
    log = Log(**limits)
    log.publish(*range(1, 101))
    assert len(log.feed._tail) <= 8
    reader = log.feed.reader("a-b-0", anything)
    read: list[int] = []
    while items := await reader.next_nowait():
        read += seqs(items)
    assert read == list(range(1, 101))


async def test_gaps_in_the_numbers_mean_nothing() -> None:
    """A cursor between two entries is a place like any other."""
    log = Log()
    log.publish(2, 5, 9)
    assert seqs(await log.feed.reader("a-b-4", anything).next_nowait()) == [5, 9]


async def test_a_cursor_older_than_retention_gets_a_resync() -> None:
    """It goes on with what is left; one at the very edge missed nothing."""
    log = Log(before=10)
    log.entries = log.entries[6:]
    log.feed.forget_up_to(6)
    late, edge = log.feed.reader("a-b-5", anything), log.feed.reader("a-b-6", anything)
    assert (late.missed(), edge.missed()) == ("a-b-6", None)
    assert seqs(await late.next_nowait()) == seqs(await edge.next_nowait()) == [7, 8, 9, 10]
    assert (late.missed(), edge.missed()) == (None, None)


async def test_retention_during_a_read_is_noticed() -> None:
    """What went between the look at the floor and the read is a gap; its cursor is before what was read."""
    log = Log(before=10)
    reader = log.feed.reader("a-b-3", anything)
    log.prune(6)
    assert seqs(await reader.next_nowait()) == [7, 8, 9, 10]
    assert (reader.missed(), reader.cursor) == ("a-b-6", "a-b-10")


async def test_retention_that_takes_all_is_noticed() -> None:
    """There is nothing to read then, but something was missed."""
    log = Log(before=10)
    log.publish(11)
    reader = log.feed.reader("a-b-3", anything)
    log.prune(11)
    assert await reader.next_nowait() == []
    assert (reader.missed(), reader.cursor) == ("a-b-11", "a-b-11")


async def test_nobody_reads_ahead_of_what_is_published() -> None:
    """An entry that is committed but not yet published stays for the next read: no cursor is ahead of the head."""
    log = Log(before=3)
    reader = log.feed.reader("a-b-0", anything)
    log.entries.append(Entry(4, a_task(4)))
    assert seqs(await reader.next_nowait()) == [1, 2, 3]
    log.feed.publish(log.entries[-1])
    assert seqs(await reader.next_nowait()) == [4]


async def test_large_results_push_the_small_ones_out_of_memory_at_once() -> None:
    """However many of those there are for each large one."""
    log = Log(tail_bytes=1 << 20)
    log.publish(*range(1, 1001))
    for number in range(1001, 1011):
        log.publish(number, size_bytes=1 << 19)
        assert sum(len(item.message) for item in log.feed._tail) == log.feed._size_bytes <= 1 << 20


async def test_a_page_from_memory_is_bounded_in_bytes() -> None:
    """As one from the store is."""
    log = Log(tail_bytes=PAGE_BYTES * 4)
    log.publish(1, 2, 3, 4, 5, size_bytes=PAGE_BYTES // 2)
    reader = log.feed.reader("a-b-0", anything)
    assert [seqs(await reader.next_nowait()) for _ in range(4)] == [[1, 2], [3, 4], [5], []]
    assert log.reads == 0


async def test_a_reader_gets_what_it_wants() -> None:
    """Its cursor moves past the rest."""
    log = Log()
    log.publish(1, 2)
    log.publish(3, algorithm="sing")
    reader = log.feed.reader("a-b-0", lambda task: task.algorithm == "sing")
    assert seqs(await reader.next_nowait()) == [3]
    log.publish(4)
    assert await reader.next_nowait() == []
    assert reader.cursor == "a-b-4"


async def test_a_waiting_reader_is_woken(autojump_clock: object) -> None:
    """By the first entry that it wants."""
    log = Log()
    got: list[int] = []

    async def read() -> None:
        got.extend(seqs(await log.feed.reader(None, lambda task: task.algorithm == "sing").next()))

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            log.publish(1)
            await trio.testing.wait_all_tasks_blocked()
            assert got == []
            log.publish(2, algorithm="sing")
    assert got == [2]


async def test_a_cancelled_reader_loses_nothing() -> None:
    """Its place moves only with what was returned."""
    log = Log(before=3)
    reader = log.feed.reader("a-b-0", anything)
    with trio.CancelScope() as scope:
        scope.cancel()
        await reader.next()
    assert scope.cancelled_caught
    assert seqs(await reader.next()) == [1, 2, 3]


async def test_the_oldest_cursor_reads_all_that_is_kept() -> None:
    """And misses nothing, so there is no resync."""
    log = Log(before=10)
    log.entries = log.entries[6:]
    log.feed.forget_up_to(6)
    reader = log.feed.reader(OLDEST, anything)
    assert reader.missed() is None
    assert seqs(await reader.next_nowait()) == [7, 8, 9, 10]


@pytest.mark.parametrize("before", [0, 10])
async def test_a_limit_bounds_what_is_handed_out(before: int) -> None:
    """From the store and from memory alike."""
    log = Log(before=before)
    log.publish(*range(before + 1, 11))
    reader = log.feed.reader("a-b-0", anything)
    assert [seqs(await reader.next_nowait(4)) for _ in range(4)] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10], []]


async def test_a_reader_can_wait_for_a_while(autojump_clock: object) -> None:
    """Then the answer is empty, and nothing that comes later is lost."""
    log = Log()
    reader = log.feed.reader(None, anything)
    start = trio.current_time()
    assert await reader.next_within(0) == []
    assert trio.current_time() == start
    assert await reader.next_within(30) == []
    assert trio.current_time() - start == pytest.approx(30)
    log.publish(1)
    assert seqs(await reader.next_within(30)) == [1]


async def test_a_closed_feed_is_read_to_its_end() -> None:
    """Readers get what is there, then an empty answer; who waits is woken."""
    log = Log(before=2)
    reader = log.feed.reader("a-b-0", anything)
    log.feed.close()
    with trio.fail_after(1):
        assert seqs(await reader.next()) == [1, 2]
        assert await reader.next() == []


async def test_the_message_is_the_stream_s() -> None:
    """With the cursor that resumes behind it."""
    log = Log()
    log.publish(7)
    [item] = await log.feed.reader("a-b-0", anything).next_nowait()
    message = msgspec.json.decode(item.message)
    assert (message["type"], message["cursor"], message["task"]["id"]) == ("result", "a-b-7", "t7")


async def test_a_watcher_hears_of_each_changed_task_once() -> None:
    """However often it changed since the last call; only what it wants, and nothing after it was closed."""
    updates = Updates()
    watcher = updates.watch(lambda task: task.algorithm == "draw")
    for number in (1, 2, 1):
        updates.changed(a_task(number))
    updates.changed(a_task(3, "sing"))
    assert await watcher.next() == {"t1": None, "t2": None}
    watcher.close()
    updates.changed(a_task(4))
    with trio.move_on_after(0.01) as scope:
        await watcher.next()
    assert scope.cancelled_caught


async def test_what_is_in_memory_is_there_at_once() -> None:
    """What lies further back, or fell to retention, is not, and says so."""
    log = Log(before=3)
    log.publish(*range(4, 8), size_bytes=100)
    recent = {place: log.feed.recent_after(place, 1 << 20) for place in (2, 3, 5, 7)}
    assert {place: items and seqs(items) for place, items in recent.items()} == {
        2: None,
        3: [4, 5, 6, 7],
        5: [6, 7],
        7: [],
    }
    assert seqs(log.feed.recent_after(3, 150) or []) == [4]
    log.feed.forget_up_to(5)
    assert log.feed.recent_after(4, 1 << 20) is None
    assert seqs(log.feed.recent_after(5, 1 << 20) or []) == [6, 7]


async def test_one_can_wait_for_what_comes_behind_a_place() -> None:
    """At once when it is there; the end of the feed ends all waiting."""
    log = Log(before=3)
    assert await log.feed.wait_past(2)
    answers: list[bool] = []

    async def wait() -> None:
        answers.append(await log.feed.wait_past(3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        log.publish(4)
    assert answers == [True]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.feed.wait_past, 4)
        await trio.testing.wait_all_tasks_blocked()
        log.feed.close()
    assert not await log.feed.wait_past(0)
