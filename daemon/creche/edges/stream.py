"""The WebSocket stream: `hello`, then every wanted outcome once, in order.

A listener who is behind reads from the feed at its own pace, in a task of its own; who is up to date is told together
with the others, by one task for all (stream_broadcast.py), which waits for nobody. A listener that takes nothing for
too long is cut, and resumes by cursor. One error boundary per connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Protocol

import msgspec
import trio
from loguru import logger
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_server_stream

from creche import __version__
from creche.core.access import SUBPROTOCOL, Access, subprotocols
from creche.core.exchange import Request, Response
from creche.core.query import Query, TaskFilter
from creche.core.task import Task
from creche.core.wire import Hello, Live, Resync, Update, problem_response, task_out
from creche.edges.stream_broadcast import Broadcast
from creche.edges.stream_sending import PING_EVERY_S, SEND_S, Paced, Upgraded
from creche.engine.feed import Feed, Reader, Updates, Watcher
from creche.errors import InvalidRequest, StoreUnavailable

HANDSHAKE_S = 10.0
UPDATE_EVERY_S = 0.25
"""Changes within this time reach a listener as one update per task."""

STATS_EVERY_S = 2.0

_JSON = msgspec.json.Encoder()

GOING_AWAY = 1001
VIOLATIONS = frozenset({1002, 1007})
"""Frames that are none, texts that are none."""

MAX_INCOMING_BYTES = 4096
"""Listeners have nothing to say; what they send is read (else no pong would be seen) and dropped."""


class Minding(Protocol):
    """What the stream asks the roster for."""

    def live_task(self, task_id: str) -> tuple[Task, Live] | None: ...


class Stream:
    """Serves listeners. `node` is this node's id, for `hello`; `stats` gives the message of that name, encoded."""

    def __init__(
        self,
        *,
        feed: Feed,
        updates: Updates,
        minding: Minding,
        access: Access,
        node: str,
        stats: Callable[[], bytes],
    ) -> None:
        self._feed = feed
        self._updates = updates
        self._minding = minding
        self._access = access
        self._node = node
        self._stats = stats
        self._listeners: set[Paced] = set()
        self._broadcast = Broadcast(feed)

    def __len__(self) -> int:
        """How many listeners are connected."""
        return len(self._listeners)

    @property
    def behind(self) -> int:
        """How many of them are not up to date, and read on at their own pace."""
        return len(self._listeners) - len(self._broadcast)

    async def run(self) -> None:
        """Tell listeners who are up to date of outcomes, until the feed is closed. Without this they hear nothing."""
        await self._broadcast.run()

    async def serve(self, request: Request, stream: Upgraded) -> None:
        """Serve one upgrade request until the listener leaves or the feed is closed; its errors end here."""
        log = logger.bind(peer=request.peer.address)
        line = Paced(stream)
        try:
            async with trio.open_nursery() as nursery:
                await self._converse(request, line, nursery)
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
            await trio.aclose_forcefully(line)

    async def _converse(self, request: Request, line: Paced, nursery: trio.Nursery) -> None:
        with trio.fail_after(HANDSHAKE_S):
            handshake = await wrap_server_stream(nursery, line, max_message_size=MAX_INCOMING_BYTES)
            try:
                refusal = self._access.refusal(request, upgrades=True)
                query = Query(request.query, known=("since", "updates", "stats", "token", *TaskFilter.PARAMETERS))
                wanted = TaskFilter.from_query(query)
                with_updates, with_stats = query.flag("updates"), query.flag("stats")
                since = query.text("since")
            except InvalidRequest as exc:
                refusal = problem_response(400, exc.code, str(exc))
            if refusal is not None:
                await handshake.reject(refusal.status, extra_headers=_headers(refusal), body=refusal.body)
                return
            # A browser breaks off where none of what it offers is taken.
            offered = subprotocols(request)
            connection = await handshake.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        line.violation = partial(_violation, connection)
        reader = self._feed.reader(since, wanted.matches)
        self._listeners.add(line)
        try:
            nursery.start_soon(_read_forever, connection)
            await line.tell([_JSON.encode(Hello(cursor=reader.cursor, node=self._node, version=__version__))])
            async with trio.open_nursery() as telling:
                telling.start_soon(_ping_forever, connection, line)
                if with_updates:
                    telling.start_soon(self._tell_updates_forever, line, self._updates.watch(wanted.matches))
                if with_stats:
                    telling.start_soon(self._tell_stats_forever, line)
                await self._tell_outcomes(line, reader, wanted)
                telling.cancel_scope.cancel()
            with trio.fail_after(SEND_S):
                await connection.aclose(GOING_AWAY, "the daemon stops; resume with since=CURSOR")
        finally:
            self._listeners.discard(line)

    async def _tell_outcomes(self, line: Paced, reader: Reader, wanted: TaskFilter) -> None:
        """Until the feed is closed and all is told."""
        while True:
            items = await reader.next_nowait()
            gap = reader.missed()
            if gap is not None:
                await line.tell([_JSON.encode(Resync(cursor=gap))])
            if items:
                await line.tell(item.message for item in items)
            if items or gap is not None:
                continue  # more may have come meanwhile
            if self._feed.closed:
                return
            await self._broadcast.ride(line, reader, wanted)

    async def _tell_updates_forever(self, line: Paced, watcher: Watcher) -> None:
        try:
            while True:
                changed = await watcher.next()
                await line.tell(self._updates_about(changed))
                await trio.sleep(UPDATE_EVERY_S)
        finally:
            watcher.close()

    async def _tell_stats_forever(self, line: Paced) -> None:
        while True:
            await line.tell([self._stats()])
            await trio.sleep(STATS_EVERY_S)

    def _updates_about(self, changed: Mapping[str, Task | None]) -> Iterator[bytes]:
        for task_id, elsewhere in changed.items():
            if elsewhere is not None:
                yield _JSON.encode(Update(task_out(elsewhere)))
            elif (here := self._minding.live_task(task_id)) is not None:
                yield _JSON.encode(Update(task_out(*here)))


def _violation(connection: WebSocketConnection) -> int | None:
    reason = connection.closed
    return reason.code if reason is not None and reason.code in VIOLATIONS else None


async def _read_forever(connection: WebSocketConnection) -> None:
    while True:
        await connection.get_message()


async def _ping_forever(connection: WebSocketConnection, line: Paced) -> None:
    while True:
        await trio.sleep(PING_EVERY_S)
        # A ping waits until a large message is through, which says as much as an answer.
        with trio.fail_after(PING_EVERY_S) as line.patience:
            await connection.ping()
        line.patience = None


def _headers(response: Response) -> list[tuple[bytes, bytes]]:
    headers = [("Content-Type", response.content_type), *response.headers]
    return [(name.encode(), value.encode()) for name, value in headers]
