"""The feed as server-sent events: what the stream says, for whoever has HTTP only (`EventSource`, curl).

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from loguru import logger

from creche import __version__
from creche.core.exchange import Request
from creche.core.query import TaskFilter
from creche.core.wire import Hello, Resync
from creche.engine.feed import Feed
from creche.errors import StoreUnavailable

MEDIA_TYPE = "text/event-stream"
COMMENT_EVERY_S = 20.0
"""How long there may be silence: proxies close connections on which nothing comes, and we want to know who is gone."""

RETRY_MS = 1000

_JSON = msgspec.json.Encoder()
_COMMENT = b":\n\n"


class Events:
    """Serves listeners. `node` is this node's id, for `hello`."""

    def __init__(self, feed: Feed, *, node: str) -> None:
        self._feed = feed
        self._node = node
        self._listeners = 0

    def __len__(self) -> int:
        """How many listeners are connected."""
        return self._listeners

    async def parts(self, since: str | None, wanted: TaskFilter) -> AsyncGenerator[bytes, None]:
        """`hello`, and every wanted outcome behind `since`, each as an event with its cursor, until the feed is closed.

        Where the store cannot be read this ends, too: who comes back with the last cursor misses nothing.
        """
        reader = self._feed.reader(since, wanted.matches)
        self._listeners += 1
        try:
            hello = Hello(cursor=reader.cursor, node=self._node, version=__version__)
            yield b"retry: %d\n%s" % (RETRY_MS, _event("hello", reader.cursor, _JSON.encode(hello)))
            while True:
                items = await reader.next_within(COMMENT_EVERY_S)
                gap = reader.missed()
                if gap is not None:
                    yield _event("resync", gap, _JSON.encode(Resync(cursor=gap)))
                for item in items:
                    yield _event("result", self._feed.cursor(item.seq), item.message)
                if not items and gap is None:
                    if self._feed.closed:
                        return
                    yield _COMMENT
        except StoreUnavailable as exc:
            logger.warning("listener cut, the store cannot be read: {}", exc)
        finally:
            self._listeners -= 1


def wants_events(request: Request) -> bool:
    """Whether the client would rather have events than a page."""
    accepted = (part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(","))
    return MEDIA_TYPE in accepted


def resumes_at(request: Request) -> str | None:
    """The cursor with which a browser comes back by itself, to the URL with which it first came."""
    return request.headers.get("last-event-id") or None


def _event(name: str, cursor: str, data: bytes) -> bytes:
    """One event; JSON as we write it has no line feeds."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (cursor.encode(), name.encode(), data)
