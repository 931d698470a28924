"""A stream over a feed in memory, on a simulated clock, and listeners of all kinds."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import msgspec
import pytest
import trio
from loguru import logger
from trio_websocket import WebSocketConnection, wrap_client_stream

from creche.core.access import Access
from creche.core.exchange import Peer, Request
from creche.core.task import Job, Succeeded, Task, begin_job, settle
from creche.core.wire import Live
from creche.edges.front_listening import Replay
from creche.edges.stream import Stream
from creche.engine.feed import Feed, Updates
from creche.engine.journal import Journal
from creche.engine.ports import Accept, Entry, Settle
from creche.testing import MemoryStore, make_task

T = TypeVar("T")
Query = tuple[tuple[str, str], ...]

OLDEST = (("since", "oldest"),)
LARGE_BYTES = 12 << 20
BUFFER_BYTES = 16 << 10


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


def upgrade(query: Query) -> Request:
    """The request of a listener."""
    peer = Peer(address="a", local=True)
    return Request(method="GET", path="/v1/stream", query=query, headers={}, body=b"", peer=peer)


class Serving:
    """A stream over a store with these outcomes, which `retention` takes from it without the feed's knowledge."""

    def __init__(self, *sizes_bytes: int) -> None:
        self.store = MemoryStore(max_inline=2 * LARGE_BYTES)
        for number, size_bytes in enumerate(sizes_bytes, 1):
            self.settle(f"t{number}", size_bytes)
        floor, head = self.store.feed_bounds()
        journal = Journal(self.store, run_write=self._in_place, run_read=self._in_place)
        self.feed = Feed(journal, identity="id", floor=floor, head=head)
        self.updates = Updates()
        self.stream = Stream(
            feed=self.feed,
            updates=self.updates,
            minding=self,
            access=Access(),
            node="n",
            stats=lambda: b'{"type":"stats","at":%d}' % trio.current_time(),
        )

    async def _in_place(self, function: Callable[[], T], /) -> T:
        await trio.lowlevel.checkpoint()
        return function()

    def live_task(self, task_id: str) -> tuple[Task, Live] | None:
        return make_task(task_id), Live()

    def settle(self, task_id: str, size_bytes: int = 1, algorithm: str = "draw") -> Entry:
        """Commit an outcome; the feed is told by `publish`."""
        task = make_task(task_id, algorithm=algorithm)
        result = Succeeded(msgspec.Raw(b'"%s"' % (b"x" * size_bytes)))
        _, entry = self.store.commit([Accept(task), Settle(settle(begin_job(task, Job("j"), 2.0), result, 3.0))])
        assert isinstance(entry, Entry)
        return entry

    def publish(self, task_id: str, size_bytes: int = 1, algorithm: str = "draw") -> None:
        self.feed.publish(self.settle(task_id, size_bytes, algorithm))

    @asynccontextmanager
    async def listener(self, query: Query = (), *, bytes_per_s: float = 1e9) -> AsyncIterator[WebSocketConnection]:
        """A listener whose kernel keeps little: what it has not read is soon not sent either.

        One who asks for no messages reads no more than two, and what one read brings.
        """
        ours, theirs = trio.socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES // 2)
        async with trio.open_nursery() as nursery, trio.SocketStream(theirs) as client:
            nursery.start_soon(self.stream.serve, upgrade(query), Replay(trio.SocketStream(ours), b""))
            slow = cast("trio.SocketStream", Slow(client, bytes_per_s))
            yield await wrap_client_stream(nursery, slow, "localhost", "/v1/stream", max_message_size=LARGE_BYTES * 2)
            nursery.cancel_scope.cancel()


Serve = Callable[..., Serving]


@pytest.fixture
def serve(nursery: trio.Nursery) -> Serve:
    """`serve(*sizes_bytes)`: a `Serving` whose stream runs until the end of the test."""

    def serve(*sizes_bytes: int) -> Serving:
        serving = Serving(*sizes_bytes)
        nursery.start_soon(serving.stream.run)
        return serving

    return serve


async def heard(connection: WebSocketConnection) -> Any:  # noqa: ANN401 - any message
    return json.loads(await connection.get_message())


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What was logged at WARNING and above."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING", format="")
    yield messages
    logger.remove(sink)


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    """First byte and payload of each frame that a server sent; the last one must be whole too."""
    found = []
    at = 0
    while at < len(data):
        first, size = data[at : at + 2]
        at += 2
        if size >= 126:
            form = "!H" if size == 126 else "!Q"
            [size] = struct.unpack_from(form, data, at)
            at += struct.calcsize(form)
        assert at + size <= len(data)
        found.append((first, data[at : at + size]))
        at += size
    return found
