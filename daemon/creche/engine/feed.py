"""The log of outcomes and its readers.

Nobody is pushed to: every reader has a cursor and its own pace, so a slow one costs nobody else time or memory. Recent
entries are kept in memory, encoded once for all readers; who is further behind reads on from the store. Many who are
not behind can be told together, by `recent_after`. A cursor is opaque to clients; inside it is the store's identity and
a position.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import islice

import msgspec
import trio

from creche.core.task import Task
from creche.core.wire import Result, task_out
from creche.engine.journal import Journal
from creche.engine.ports import PAGE_BYTES, Entry, Store

PAGE = 200

OLDEST = "oldest"
"""The cursor of a reader who wants everything that is kept."""


class Item(msgspec.Struct, frozen=True):
    """One outcome as readers get it, without the task's input; `message` is the stream's `result` message, encoded."""

    seq: int
    task: Task
    message: bytes


class Feed:
    """The feed of one store. `floor` and `head` are the store's bounds at start.

    `shared`: other nodes write to it, too, and may have told of entries that this one has not heard of yet.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        identity: str,
        floor: int,
        head: int,
        shared: bool = False,
        tail_count: int = 10_000,
        tail_bytes: int = 64 << 20,
    ) -> None:
        self._journal = journal
        self._identity = identity
        self._floor = floor
        self._shared = shared
        self._tail: list[Item] = []
        self._tail_floor = head
        self._size_bytes = 0
        self._tail_count = tail_count
        self._tail_bytes = tail_bytes
        self._news = trio.Event()
        self._closed = False
        self.head = head

    def cursor(self, seq: int) -> str:
        """The cursor behind an entry."""
        return f"{self._identity}-{seq}"

    def position(self, cursor: str | None) -> int | None:
        """What a cursor stands for: None means the head, `OLDEST` everything that is kept.

        An unreadable one, or one of another store, is -1, which asks for `resync`. So is one that is ahead of the head:
        it was given out before the store was put back to a backup, and its numbers are now those of other outcomes. In
        a fleet another node gave it out, and is ahead.
        """
        if cursor is None:
            return None
        if cursor == OLDEST:
            return self._floor
        identity, _, seq = cursor.rpartition("-")
        if identity != self._identity or not seq.isdecimal() or len(seq) > 18:  # noqa: PLR2004 - fits 64 bits
            return -1
        return int(seq) if self._shared or int(seq) <= self.head else -1

    def publish(self, entry: Entry) -> None:
        """Append a committed outcome and wake the readers. Called in the order of commits."""
        item = self._item(entry)
        self._tail.append(item)
        self._size_bytes += len(item.message)
        self.head = entry.seq
        while len(self._tail) > self._tail_count or self._size_bytes > self._tail_bytes:
            self._trim()
        news, self._news = self._news, trio.Event()
        news.set()

    def close(self) -> None:
        """Nothing more will come: readers get what is there, then an empty answer."""
        self._closed = True
        self._news.set()

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    async def wait_past(self, place: int) -> bool:
        """Wait for entries behind `place`; False when the feed is closed, whether or not there are some."""
        while not self._closed and self.head <= place:
            await self._news.wait()
        return not self._closed

    def forget_up_to(self, floor: int) -> None:
        """Retention removed entries from the store."""
        self._floor = max(self._floor, floor)

    def reader(self, since: str | None, wanted: Callable[[Task], bool]) -> Reader:
        """A reader behind `since` (None: from now on) of the tasks that are `wanted`."""
        position = self.position(since)
        return Reader(self, self.head if position is None else position, wanted)

    def recent_after(self, place: int, limit_bytes: int) -> list[Item] | None:
        """Some entries behind `place`, in order, up to `limit_bytes` or one; empty when there are none.

        None when they are not all in memory, or fell to retention: then only a reader can go on.
        """
        if place < max(self._floor, self._tail_floor):
            return None
        return self._tail_after(place, PAGE, limit_bytes)

    async def _after(self, seq: int, limit: int) -> list[Item]:
        """Up to `limit` entries behind `seq`, in order, and `PAGE_BYTES`; empty when there are none.

        The floor is then no lower than it was when the store was read.
        """
        if seq >= self._tail_floor:
            return self._tail_after(seq, limit)

        def look(store: Store) -> tuple[list[Entry], int]:
            entries = store.feed_after(seq, limit)
            floor, _ = store.feed_bounds()  # after the entries: retention does not wait between the two
            return entries, floor

        entries, floor = await self._journal.read(look)
        self.forget_up_to(floor)
        # What is committed and not yet published is left for later: no cursor may be ahead of the head.
        return [self._item(entry) for entry in entries if entry.seq <= self.head]

    def _tail_after(self, seq: int, limit: int, limit_bytes: int = PAGE_BYTES) -> list[Item]:
        first = bisect_right(self._tail, seq, key=lambda item: item.seq)
        items: list[Item] = []
        size_bytes = 0
        for item in islice(self._tail, first, first + limit):
            items.append(item)
            size_bytes += len(item.message)
            if size_bytes >= limit_bytes:
                break
        return items

    def _item(self, entry: Entry) -> Item:
        task = msgspec.structs.replace(entry.task, input=None)
        message = Result(cursor=self.cursor(entry.seq), task=task_out(task))
        return Item(entry.seq, task, msgspec.json.encode(message))

    def _trim(self) -> None:
        # A quarter at once: cutting the front of a list for every entry would move the whole tail each time.
        cut = len(self._tail) // 4 + 1
        self._size_bytes -= sum(len(item.message) for item in self._tail[:cut])
        self._tail_floor = self._tail[cut - 1].seq
        del self._tail[:cut]


class Reader:
    """One reader's place in the feed."""

    def __init__(self, feed: Feed, start: int, wanted: Callable[[Task], bool]) -> None:
        self._feed = feed
        self._seq = start
        self._wanted = wanted
        self._gap: str | None = None
        self._catch_up()

    def missed(self) -> str | None:
        """The cursor behind a gap: since the last call, entries fell to retention that this reader had not seen.

        None when there is no gap. Ask after reading and before using what was read: that is behind the gap.
        """
        gap, self._gap = self._gap, None
        return gap

    def _catch_up(self) -> None:
        if self._seq < self._feed._floor:  # noqa: SLF001 - the two are one mechanism
            self._seq = self._feed._floor  # noqa: SLF001
            self._gap = self.cursor

    @property
    def place(self) -> int:
        """The number of the last entry that was handed out or passed over."""
        return self._seq

    def go_on_behind(self, place: int) -> None:
        """What is up to `place` was handed out elsewhere, or is not wanted."""
        self._seq = place

    @property
    def cursor(self) -> str:
        """Resumes behind everything that was handed out or passed over."""
        return self._feed.cursor(self._seq)

    async def next_nowait(self, limit: int = PAGE) -> list[Item]:
        """Up to `limit` wanted entries that are there already; empty when the head is reached.

        Raises `StoreUnavailable`; then, and when cancelled, the place has not moved past anything wanted.
        """
        while True:
            self._catch_up()
            items = await self._feed._after(self._seq, limit)  # noqa: SLF001
            self._catch_up()  # retention may have been faster than the read
            if not items:
                return []
            self._seq = items[-1].seq
            wanted = [item for item in items if self._wanted(item.task)]
            if wanted:
                return wanted

    async def next_within(self, seconds: float, limit: int = PAGE) -> list[Item]:
        """As `next`, but empty after so many seconds. 0 takes what is there already."""
        items = await self.next_nowait(limit)
        if not items and seconds > 0:
            with trio.move_on_after(seconds):
                items = await self.next(limit)
        return items

    async def next(self, limit: int = PAGE) -> list[Item]:
        """Wait for wanted entries; empty when the feed is closed and all is read. Else as `next_nowait`."""
        while True:
            news = self._feed._news  # noqa: SLF001 - taken before looking, so that nothing falls between
            items = await self.next_nowait(limit)
            if items or self._feed._closed:  # noqa: SLF001
                return items
            await news.wait()


class Updates:
    """Tells watchers which running tasks changed; of several changes only the last is kept for each."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    @property
    def watched(self) -> bool:
        """Whether anyone watches."""
        return bool(self._watchers)

    def changed(self, task: Task) -> None:
        """A task changed without ending."""
        for watcher in self._watchers:
            watcher._take(task, None)  # noqa: SLF001 - the two classes are one mechanism

    def changed_elsewhere(self, task: Task) -> None:
        """A task of another node did, and is now so."""
        for watcher in self._watchers:
            watcher._take(task, task)  # noqa: SLF001

    def ended(self, task_id: str) -> None:
        """Nobody needs to hear any more what it was before."""
        for watcher in self._watchers:
            watcher._changed.pop(task_id, None)  # noqa: SLF001

    def watch(self, wanted: Callable[[Task], bool]) -> Watcher:
        """A watcher of the tasks that are `wanted`; close it."""
        watcher = Watcher(self, wanted)
        self._watchers.add(watcher)
        return watcher


class Watcher:
    """The changes that one listener has not seen yet: at most one per running task."""

    def __init__(self, updates: Updates, wanted: Callable[[Task], bool]) -> None:
        self._updates = updates
        self._wanted = wanted
        self._changed: dict[str, Task | None] = {}
        self._news = trio.Event()

    def _take(self, task: Task, elsewhere: Task | None) -> None:
        if self._wanted(task):
            self._changed[task.id] = elsewhere
            self._news.set()

    async def next(self) -> dict[str, Task | None]:
        """Wait for changes; which tasks changed since the last call, and how those of other nodes are now."""
        await self._news.wait()
        self._news = trio.Event()
        changed, self._changed = self._changed, {}
        return changed

    def close(self) -> None:
        """Stop watching."""
        self._updates._watchers.discard(self)  # noqa: SLF001
