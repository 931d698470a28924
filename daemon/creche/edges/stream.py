"""The WebSocket stream: `hello`, then every wanted outcome once, in order.

A listener pulls from the feed at its own pace; nobody is pushed to, and nobody waits for a slow one. One that takes
nothing for too long is cut, and resumes by cursor. One error boundary per connection.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

import msgspec
import trio
from loguru import logger
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_server_stream

from creche import __version__
from creche.core.access import Access
from creche.core.exchange import Request, Response
from creche.core.query import Query, TaskFilter
from creche.core.task import Task
from creche.core.wire import Hello, Live, Resync, Update, problem_response, task_out
from creche.engine.feed import Feed, Reader, Updates, Watcher
from creche.errors import InvalidRequest, StoreUnavailable

HANDSHAKE_S = 10.0
SEND_BYTES = 256 << 10
SEND_S = 20.0
"""A listener that takes longer than this for so many bytes is cut; its kernel buffers were full all the time."""

PING_EVERY_S = 20.0
"""Also how long an answer may take, counted from when the listener last took something."""

UPDATE_EVERY_S = 0.25
"""Changes within this time reach a listener as one update per task."""

_JSON = msgspec.json.Encoder()

GATHER_S = 0.02
"""Outcomes within this time reach a listener in one piece."""

FIN_TEXT = 0x81

GOING_AWAY = 1001
MAX_INCOMING_BYTES = 4096
"""Listeners have nothing to say; what they send is read (else no pong would be seen) and dropped."""


class Minding(Protocol):
    """What the stream asks the supervisor for."""

    def live_task(self, task_id: str) -> tuple[Task, Live] | None: ...


class Stream:
    """Serves listeners. `node` is this node's id, for `hello`."""

    def __init__(self, *, feed: Feed, updates: Updates, minding: Minding, access: Access, node: str) -> None:
        self._feed = feed
        self._updates = updates
        self._minding = minding
        self._access = access
        self._node = node
        self._listeners: set[WebSocketConnection] = set()

    def __len__(self) -> int:
        """How many listeners are connected."""
        return len(self._listeners)

    async def serve(self, request: Request, stream: trio.abc.Stream) -> None:
        """Serve one upgrade request until the listener leaves or the feed is closed; its errors end here."""
        log = logger.bind(peer=request.peer.address)
        try:
            async with trio.open_nursery() as nursery:
                await self._converse(request, _Paced(stream), nursery)
                nursery.cancel_scope.cancel()
        except* (ConnectionClosed, HandshakeError, trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("listener gone: {}", request.peer.address)
        except* trio.TooSlowError:
            log.warning("listener cut, it does not read: {}", request.peer.address)
        except* StoreUnavailable as group:
            log.warning("listener cut, the store cannot be read: {}", group.exceptions[0])
        except* Exception:
            log.exception("listener cut by a defect of creche: {}", request.peer.address)
        finally:
            await trio.aclose_forcefully(stream)

    async def _converse(self, request: Request, stream: _Paced, nursery: trio.Nursery) -> None:
        with trio.fail_after(HANDSHAKE_S):
            handshake = await wrap_server_stream(nursery, stream, max_message_size=MAX_INCOMING_BYTES)
            try:
                refusal = self._access.refusal(request, upgrades=True)
                query = Query(request.query, known=("since", "updates", "token", *TaskFilter.PARAMETERS))
                wanted = TaskFilter.from_query(query).matches
                with_updates = query.flag("updates")
                since = query.text("since")
            except InvalidRequest as exc:
                refusal = problem_response(400, exc.code, str(exc))
            if refusal is not None:
                await handshake.reject(refusal.status, extra_headers=_headers(refusal), body=refusal.body)
                return
            connection = await handshake.accept()
        reader = self._feed.reader(since, wanted)
        self._listeners.add(connection)
        try:
            nursery.start_soon(_read_forever, connection)
            nursery.start_soon(_ping_forever, connection, stream)
            await self._tell(stream, reader, wanted if with_updates else None)
            with trio.fail_after(SEND_S):
                await connection.aclose(GOING_AWAY, "the daemon stops; resume with since=CURSOR")
        finally:
            self._listeners.discard(connection)

    async def _tell(self, stream: _Paced, reader: Reader, updates: Callable[[Task], bool] | None) -> None:
        await stream.tell(_JSON.encode(Hello(cursor=reader.cursor, node=self._node, version=__version__)))
        async with trio.open_nursery() as nursery:
            if updates is not None:
                nursery.start_soon(self._tell_updates_forever, stream, self._updates.watch(updates))
            await _tell_if_missed(stream, reader)
            while items := await reader.next():
                await _tell_if_missed(stream, reader)
                await stream.tell(*(item.message for item in items))
                # What comes meanwhile goes in one piece: under load fewer wake-ups and system calls, not more.
                await trio.sleep(GATHER_S)
            nursery.cancel_scope.cancel()

    async def _tell_updates_forever(self, stream: _Paced, watcher: Watcher) -> None:
        try:
            while True:
                for task_id in await watcher.next():
                    found = self._minding.live_task(task_id)
                    if found is not None:
                        await stream.tell(_JSON.encode(Update(task_out(*found))))
                await trio.sleep(UPDATE_EVERY_S)
        finally:
            watcher.close()


class _Paced(trio.abc.Stream):
    """A stream on which a send may take its time as long as it goes on; else it raises `trio.TooSlowError`.

    Such a send leaves half a frame behind, so the stream is closed, before those who wait send their own into it.
    `patience` is the scope of one who waits for an answer to what is sent behind; it is renewed as sending goes on.

    Two write here: trio-websocket its pings, pongs and closes, and we our messages, because framing each of them anew
    for every listener costs more than sending it. Each write is of whole frames, and one after the other.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._turn = trio.StrictFIFOLock()
        self.patience = trio.CancelScope()

    async def tell(self, *messages: bytes) -> None:
        """Send text messages. Many small ones go in one piece; large ones are not copied for every listener."""
        small = bytearray()
        async with self._turn:
            for message in messages:
                small += _frame_head(len(message))
                if len(message) < SEND_BYTES:
                    small += message
                else:
                    await self._send(small)
                    small.clear()
                    await self._send(message)
            await self._send(small)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._turn:
            await self._send(data)

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        whole = memoryview(data)
        for start in range(0, len(data), SEND_BYTES):
            try:
                with trio.fail_after(SEND_S):
                    await self._stream.send_all(whole[start : start + SEND_BYTES])
            except trio.TooSlowError:
                await trio.aclose_forcefully(self._stream)
                raise
            self.patience.deadline = trio.current_time() + PING_EVERY_S

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _tell_if_missed(stream: _Paced, reader: Reader) -> None:
    gap = reader.missed()
    if gap is not None:
        await stream.tell(_JSON.encode(Resync(cursor=gap)))


def _frame_head(size: int) -> bytes:
    """What goes before a text message of so many bytes, as one unmasked WebSocket frame (RFC 6455 §5.2).

    We accept no extensions, so a server's frames depend on nothing but their payload.
    """
    if size < 126:  # noqa: PLR2004 - the frame's own three forms of a length
        return struct.pack("!BB", FIN_TEXT, size)
    if size < 1 << 16:
        return struct.pack("!BBH", FIN_TEXT, 126, size)
    return struct.pack("!BBQ", FIN_TEXT, 127, size)


async def _read_forever(connection: WebSocketConnection) -> None:
    while True:
        await connection.get_message()


async def _ping_forever(connection: WebSocketConnection, stream: _Paced) -> None:
    while True:
        await trio.sleep(PING_EVERY_S)
        # A ping waits until a large message is through, which says as much as an answer.
        with trio.fail_after(PING_EVERY_S) as stream.patience:
            await connection.ping()


def _headers(response: Response) -> list[tuple[bytes, bytes]]:
    headers = [("Content-Type", response.content_type), *response.headers]
    return [(name.encode(), value.encode()) for name, value in headers]
