"""Listeners who ride along and get off, as chance wills: each hears what it wants once, in order."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from creche.core.query import TaskFilter
from creche.core.task import Task
from creche.edges.stream_broadcast import GATHER_S, SEND_COSTS_BYTES, SENDS_BYTES, Broadcast
from creche.edges.stream_sending import PING_EVERY_S, Paced
from creche.engine.feed import PAGE, Feed, Item
from creche.testing import make_task
from tests.edges.stream.conftest import OLDEST, Query, Serve, frames_of, upgrade

UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: creche\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, CLOSE = 0x81, 0x88
ALGORITHMS = ("draw", "sing")


class Moody:
    """A listener whose kernel takes now all, now some bytes, now none, and then not for a while."""

    def __init__(self, random: Random, query: Query = ()) -> None:
        self.query = query
        self.moods = 0
        self.is_shut = False
        self._random = random
        self._taken = bytearray()
        self._asked = False

    def send_now(self, data: bytes | memoryview) -> int:
        room = 0 if self.is_shut else self._random.choice((0, 1, 9, 300, len(data), len(data), len(data)))
        self.moods += room < len(data)
        self._taken += data[:room]
        return min(room, len(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep(self._random.random() / 10)

    async def receive_some(self, _: int | None = None) -> bytes:
        if self._asked:
            await trio.sleep_forever()
        self._asked = True
        return UPGRADE

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def messages(self) -> list[dict[str, Any]]:
        """What a client hears; the end is a close frame."""
        frames = frames_of(bytes(self._taken.partition(b"\r\n\r\n")[2]))
        assert frames[-1][0] == CLOSE
        return [json.loads(payload) for first, payload in frames if first == TEXT]


@pytest.mark.parametrize("seed", range(20))
async def test_each_hears_what_it_wants_once_and_in_order(autojump_clock: object, serve: Serve, seed: int) -> None:
    """Whatever their kernels take, whoever comes when, with pings, updates and old outcomes between, up to a stop."""
    random = Random(seed)  # noqa: S311 - a walk, not a secret
    serving = serve(*[1] * 20)
    kinds: list[Query] = [(), OLDEST, (("algorithm", "sing"),), (("algorithm", "draw"), ("updates", "1"))]
    listeners: list[tuple[Moody, int]] = []
    algorithms = ["draw"] * 20
    async with trio.open_nursery() as nursery:

        def join() -> None:
            moody = Moody(random, random.choice(kinds))
            listeners.append((moody, 0 if moody.query == OLDEST else serving.feed.head))
            nursery.start_soon(serving.stream.serve, upgrade(moody.query), moody)

        for _ in range(300):
            if random.random() < 0.1 and len(listeners) < 12:
                join()
                # Until it has heard where it begins. Several in a row must not take as long as a ping may.
                await trio.sleep(1)
            for _ in range(random.choice((0, 1, 1, 5))):
                algorithms.append(random.choice(ALGORITHMS))
                serving.publish(f"n{len(algorithms)}", random.choice((1, 1, 200, 70_000)), algorithms[-1])
            serving.updates.changed(make_task("running"))
            await trio.sleep(random.choice((0, 0.01, GATHER_S, 0.2)))
        serving.feed.close()
        await trio.sleep(15)
        nursery.cancel_scope.cancel()

    for moody, since in listeners:
        wanted = [value for name, value in moody.query if name == "algorithm"] or ALGORITHMS
        hello, *heard = moody.messages()
        assert hello["cursor"] == f"id-{since}"
        results = [message["cursor"] for message in heard if message["type"] == "result"]
        assert results == [
            f"id-{seq}" for seq in range(since + 1, len(algorithms) + 1) if algorithms[seq - 1] in wanted
        ]
    assert sum(moody.moods for moody, _ in listeners) > 100


async def test_a_ping_that_is_due_while_the_close_waits_does_not_replace_it(
    serve: Serve, autojump_clock: object
) -> None:
    """The listener hears the close frame when it takes something again."""
    serving, listener = serve(), Moody(Random(1))  # noqa: S311 - as above
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving.stream.serve, upgrade(()), listener)
        await trio.sleep(PING_EVERY_S - 1)
        listener.is_shut = True
        serving.feed.close()
        await trio.sleep(2)
        listener.is_shut = False
        await trio.sleep(2)
        assert [message["type"] for message in listener.messages()] == ["hello"]
        nursery.cancel_scope.cancel()


class Pausing(Moody):
    """A kernel that takes nothing behind `hello` until it `is_open`."""

    is_open = False

    def send_now(self, data: bytes | memoryview) -> int:
        self.is_shut = b'"hello"' in self._taken and not self.is_open
        return super().send_now(data)


async def test_what_comes_while_a_gap_is_told_is_told(serve: Serve, autojump_clock: object) -> None:
    """Also when it is the last: the feed was closed meanwhile."""
    serving, listener = serve(), Pausing(Random(1))  # noqa: S311 - as above
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving.stream.serve, upgrade((("since", "unknown"),)), listener)
        await trio.sleep(2)
        serving.publish("t1")
        serving.feed.close()
        listener.is_open = True
        await trio.sleep(2)
        assert [message["type"] for message in listener.messages()] == ["hello", "resync", "result"]
        nursery.cancel_scope.cancel()


def anything(_: Task) -> bool:
    return True


class Willing:
    """A kernel that takes everything; `turns` says in which turn of the loop."""

    def __init__(self, clock: Clock) -> None:
        self.taken = bytearray()
        self.turns: list[int] = []
        self._clock = clock

    def send_now(self, data: bytes | memoryview) -> int:
        self.taken += data
        self.turns.append(self._clock.turn)
        return len(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, _: int | None = None) -> bytes:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Clock:
    """Counts the turns that the loop gives to others."""

    def __init__(self) -> None:
        self.turn = 0

    async def run(self) -> None:
        while True:
            self.turn += 1
            await trio.lowlevel.checkpoint()


async def test_a_burst_is_told_to_its_end(serve: Serve, autojump_clock: object) -> None:
    """Though one batch does not hold it, and nothing comes afterwards."""
    serving = serve()
    broadcast, kernel = Broadcast(serving.feed), Willing(Clock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broadcast.run)
        nursery.start_soon(broadcast.ride, Paced(kernel), serving.feed.reader(None, anything), TaskFilter())
        await trio.testing.wait_all_tasks_blocked()
        for number in range(3 * PAGE):
            serving.publish(f"t{number}")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    cursors = [json.loads(payload)["cursor"] for _, payload in frames_of(bytes(kernel.taken))]
    assert cursors == [f"id-{number}" for number in range(1, 3 * PAGE + 1)]


async def test_others_get_their_turn_while_many_are_told(serve: Serve) -> None:
    """The loop does not stall however many listeners there are."""
    serving, clock = serve(), Clock()
    broadcast, kernels = Broadcast(serving.feed), [Willing(clock) for _ in range(1000)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broadcast.run)
        for kernel in kernels:
            reader = serving.feed.reader(None, anything)
            nursery.start_soon(broadcast.ride, Paced(kernel), reader, TaskFilter())
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(clock.run)
        serving.publish("t1")
        while not all(kernel.turns for kernel in kernels):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    most = max(Counter(turn for kernel in kernels for turn in kernel.turns).values())
    assert (
        most <= 2 * SENDS_BYTES / SEND_COSTS_BYTES
    )  # in one round of the loop the clock may be last, in the next first


async def test_the_first_goes_at_once_and_what_follows_together(serve: Serve, autojump_clock: object) -> None:
    """A send for each of many outcomes, to each of many listeners, would be all that the daemon does."""
    serving = serve()
    broadcast, kernel = Broadcast(serving.feed), Willing(Clock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broadcast.run)
        nursery.start_soon(broadcast.ride, Paced(kernel), serving.feed.reader(None, anything), TaskFilter())
        await trio.testing.wait_all_tasks_blocked()
        serving.publish("t1")
        await trio.testing.wait_all_tasks_blocked()
        assert len(kernel.turns) == 1
        for number in range(10):
            serving.publish(f"u{number}")
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(2 * GATHER_S)
        assert len(kernel.turns) == 2
        nursery.cancel_scope.cancel()
    assert len(frames_of(bytes(kernel.taken))) == 11


async def test_a_defect_lets_everybody_off(
    serve: Serve, autojump_clock: object, errors_logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on by themselves, and whoever comes later is told as ever: no outcome ends the daemon."""
    serving = serve()
    broadcast, before, after = Broadcast(serving.feed), Willing(Clock()), Willing(Clock())
    slips = iter([True])

    def slip(feed: Feed, place: int, limit_bytes: int) -> list[Item] | None:
        if next(slips, False):
            raise RuntimeError("a slip of ours")
        return tail_after(feed, place, limit_bytes)

    tail_after = Feed.recent_after
    monkeypatch.setattr(Feed, "recent_after", slip)
    off = trio.Event()

    async def ride_once() -> None:
        await broadcast.ride(Paced(before), serving.feed.reader(None, anything), TaskFilter())
        off.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(broadcast.run)
        nursery.start_soon(ride_once)
        await trio.testing.wait_all_tasks_blocked()
        serving.publish("t1")
        await off.wait()
        nursery.start_soon(broadcast.ride, Paced(after), serving.feed.reader(None, anything), TaskFilter())
        await trio.testing.wait_all_tasks_blocked()
        serving.publish("t2")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert (len(before.turns), len(after.turns)) == (0, 1)
    assert errors_logged == ["listeners cannot be told together, by a defect of creche"]
