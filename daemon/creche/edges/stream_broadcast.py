"""Outcomes to all listeners who are up to date: one task, one send for each, and no wait for anyone.

Listeners ride along in groups of one filter, so that an outcome is matched and framed once for a group. Who does not
take a batch whole, or whose socket is just being written to, gets off and goes on by himself from his place in the
feed; he is welcome again when he is up to date. So nobody is owed anything here, and nobody holds up the others.
"""

from __future__ import annotations

from typing import NamedTuple

import trio
from loguru import logger

from creche.core.query import TaskFilter
from creche.edges.stream_sending import SEND_BYTES, Paced, framed
from creche.engine.feed import Feed, Reader

GATHER_S = 0.05
"""Outcomes within this time reach a listener in one piece; the first after a silence goes at once."""

SENDS_BYTES = 1 << 20
"""After so many bytes others get their turn; a send counts as `SEND_COSTS_BYTES` more, for it costs as much."""

SEND_COSTS_BYTES = 8 << 10


class _Batch(NamedTuple):
    """What comes behind a place, up to `place`, as frames. Empty when a filter lets nothing through."""

    frames: bytes
    place: int


class _Rider:
    """One listener who rides along: what is up to `place` has been sent, or is in the line's hands."""

    __slots__ = ("line", "off", "place")

    def __init__(self, line: Paced, place: int) -> None:
        self.line = line
        self.place = place
        self.off = trio.Event()


class Broadcast:
    """Takes listeners along. `run` is the task that does it."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._groups: dict[TaskFilter, set[_Rider]] = {}
        self._spent_bytes = 0

    def __len__(self) -> int:
        """How many ride along."""
        return sum(map(len, self._groups.values()))

    async def ride(self, line: Paced, reader: Reader, wanted: TaskFilter) -> None:
        """Be told of what is wanted until that needs waiting, or the feed is closed; then `reader` stands behind it.

        To be called when the reader has just found nothing more. Raises what a send on the line raises.
        """
        rider = _Rider(line, reader.place)
        group = self._groups.setdefault(wanted, set())
        group.add(rider)
        try:
            await rider.off.wait()
        finally:
            group.discard(rider)
            if not group and self._groups.get(wanted) is group:
                del self._groups[wanted]
        reader.go_on_behind(rider.place)
        await line.flush()

    async def run(self) -> None:
        """Tell riders of outcomes until the feed is closed; then all get off.

        So they do after a defect of ours, of which the log tells: each goes on by himself, and may come back.
        """
        while not self._feed.closed:
            try:
                await self._tell_riders()
            except Exception:  # noqa: BLE001 - no outcome and no listener may end the daemon
                logger.exception("listeners cannot be told together, by a defect of creche")
                await trio.sleep(GATHER_S)
            for group in self._groups.values():
                for rider in group:
                    rider.off.set()

    async def _tell_riders(self) -> None:
        told = self._feed.head
        while await self._feed.wait_past(told):
            told = self._feed.head
            while await self._sweep(told):
                pass
            # What comes meanwhile goes in one piece: under load fewer wake-ups and system calls, not more.
            await trio.sleep(GATHER_S)

    async def _sweep(self, head: int) -> bool:
        """One batch for every rider; whether some are not at `head` yet."""
        is_unfinished = False
        for wanted, group in list(self._groups.items()):
            batches: dict[int, _Batch | None] = {}
            for rider in list(group):
                if self._spent_bytes >= SENDS_BYTES:
                    self._spent_bytes = 0
                    await trio.lowlevel.checkpoint()
                if rider not in group:
                    continue  # gone while others had their turn
                if rider.place not in batches:
                    batches[rider.place] = self._batch(wanted, rider.place)
                if not self._take_along(rider, batches[rider.place]):
                    group.discard(rider)
                    rider.off.set()
                is_unfinished |= rider.place < head and rider in group
        return is_unfinished

    def _batch(self, wanted: TaskFilter, place: int) -> _Batch | None:
        self._spent_bytes += SEND_COSTS_BYTES
        items = self._feed.recent_after(place, SEND_BYTES)
        if items is None:
            return None
        return _Batch(
            framed(item.message for item in items if wanted.matches(item.task)),
            items[-1].seq if items else place,
        )

    def _take_along(self, rider: _Rider, batch: _Batch | None) -> bool:
        """Tell a rider; False when he must go on by himself."""
        if batch is None:
            return False
        if batch.frames:
            self._spent_bytes += SEND_COSTS_BYTES + len(batch.frames)
            if not rider.line.offer(batch.frames):
                return False
        rider.place = batch.place
        return not rider.line.is_behind
