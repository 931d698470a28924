"""The stream over a feed in memory, with real WebSocket clients on a simulated clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import msgspec
import pytest
import trio
import trio.testing
from loguru import logger
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from creche.core.access import Access
from creche.core.exchange import Peer, Request
from creche.core.task import Job, Succeeded, Task, begin_job, settle
from creche.core.wire import Live
from creche.edges.stream import PING_EVERY_S, SEND_S, Stream
from creche.engine.feed import Feed, Updates
from creche.engine.journal import Journal
from creche.engine.ports import Accept, Entry, Settle
from creche.testing import MemoryStore, make_task

T = TypeVar("T")
Query = tuple[tuple[str, str], ...]

OLDEST = (("since", "oldest"),)
LARGE_BYTES = 12 << 20


class Slow(trio.abc.Stream):
    """One end of a connection, which reads so many bytes in a second."""

    def __init__(self, stream: trio.abc.Stream, bytes_per_s: float) -> None:
        self._stream = stream
        self._bytes_per_s = bytes_per_s

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        some = await self._stream.receive_some(max_bytes)
        await trio.sleep(len(some) / self._bytes_per_s)
        return some

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Serving:
    """A stream over a store with these outcomes, which `retention` takes from it without the feed's knowledge."""

    def __init__(self, *sizes_bytes: int) -> None:
        self.store = MemoryStore()
        for number, size_bytes in enumerate(sizes_bytes, 1):
            self.settle(f"t{number}", size_bytes)
        floor, head = self.store.feed_bounds()
        journal = Journal(self.store, run_write=self._in_place, run_read=self._in_place)
        self.feed = Feed(journal, identity="id", floor=floor, head=head)
        self.stream = Stream(feed=self.feed, updates=Updates(), minding=self, access=Access(), node="n")

    async def _in_place(self, function: Callable[[], T], /) -> T:
        await trio.lowlevel.checkpoint()
        return function()

    def live_task(self, _: str) -> tuple[Task, Live] | None:
        return None

    def settle(self, task_id: str, size_bytes: int) -> Entry:
        task = make_task(task_id)
        result = Succeeded(msgspec.Raw(b'"%s"' % (b"x" * size_bytes)))
        _, entry = self.store.commit([Accept(task), Settle(settle(begin_job(task, Job("j"), 2.0), result, 3.0))])
        assert isinstance(entry, Entry)
        return entry

    @asynccontextmanager
    async def listener(self, query: Query, *, bytes_per_s: float = 1e9) -> AsyncIterator[WebSocketConnection]:
        """A listener whose kernel keeps nothing: what it has not read is not sent."""
        ours, theirs = trio.testing.lockstep_stream_pair()
        peer = Peer(address="a", local=True)
        request = Request(method="GET", path="/v1/stream", query=query, headers={}, body=b"", peer=peer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.stream.serve, request, ours)
            slow = cast("trio.SocketStream", Slow(theirs, bytes_per_s))
            yield await wrap_client_stream(nursery, slow, "localhost", "/v1/stream", max_message_size=LARGE_BYTES * 2)
            nursery.cancel_scope.cancel()


async def heard(connection: WebSocketConnection) -> Any:  # noqa: ANN401 - any message
    return json.loads(await connection.get_message())


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What was logged at WARNING and above."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING", format="")
    yield messages
    logger.remove(sink)


async def test_a_large_outcome_reaches_a_slow_listener(autojump_clock: object) -> None:
    """What is bounded is how long it takes for a part: this one needs more than half a minute, and is pinged in it."""
    began = trio.current_time()
    async with Serving(LARGE_BYTES, 1).listener(OLDEST, bytes_per_s=250 << 10) as connection:
        assert [(await heard(connection)).get("cursor") for _ in range(3)] == ["id-0", "id-1", "id-2"]
        assert trio.current_time() - began > PING_EVERY_S + SEND_S / 2
        await trio.sleep(3 * PING_EVERY_S)
        assert connection.closed is None


async def test_a_listener_that_reads_nothing_is_cut(autojump_clock: object, logged: list[str]) -> None:
    """In the midst of a message, when its time is over, while others go on."""
    serving = Serving(LARGE_BYTES)
    async with serving.listener(OLDEST, bytes_per_s=4096 / (2 * SEND_S)), serving.listener(OLDEST) as quick:
        await heard(quick)
        assert len((await heard(quick))["task"]["result"]) == LARGE_BYTES
        await trio.sleep(4 * SEND_S)
        assert (logged, len(serving.stream)) == (["listener cut, it does not read: a"], 1)


async def test_a_resync_comes_before_what_follows_the_gap(autojump_clock: object) -> None:
    """Its cursor too: who breaks off behind it has lost nothing more. Retention was faster than the read here."""
    serving = Serving(1, 1, 1)
    async with serving.listener((("since", "id-0"),)) as connection:
        serving.store.prune(settled_before=0.0, keep=1, limit=10)
        messages = [await heard(connection) for _ in range(3)]
    assert [message["type"] for message in messages] == ["hello", "resync", "result"]
    assert [message["cursor"] for message in messages] == ["id-0", "id-2", "id-3"]


@pytest.mark.parametrize(
    "query",
    [
        (("since", "a"), ("since", "b")),
        (("updates", "perhaps"),),
        (("unknown", "1"),),
        tuple(("label", f"n{number}:v") for number in range(33)),
    ],
)
async def test_a_bad_query_is_refused(autojump_clock: object, query: Query, logged: list[str]) -> None:
    """Before the upgrade, with a problem, and as the client's mistake."""
    with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True) as caught:
        async with Serving().listener(query):
            pass
    rejection = caught.value.exceptions[0]
    assert isinstance(rejection, ConnectionRejected)
    assert rejection.status_code == 400
    assert json.loads(rejection.body or b"")["code"] == "invalid_request"
    assert logged == []


async def test_a_listener_hears_the_end(autojump_clock: object) -> None:
    """All that is in the feed, then 1001."""
    serving = Serving(1)
    async with serving.listener(OLDEST) as connection:
        serving.feed.publish(serving.settle("late", 1))
        serving.feed.close()
        assert [(await heard(connection))["type"] for _ in range(3)] == ["hello", "result", "result"]
        with pytest.raises(ConnectionClosed) as caught:
            await heard(connection)
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1001
