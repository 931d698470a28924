"""The feed as server-sent events, on a simulated clock."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

import pytest
import trio

from creche.core.exchange import Peer, Request
from creche.core.query import TaskFilter
from creche.edges.api_events import COMMENT_EVERY_S, Events, resumes_at, wants_events
from creche.errors import StoreUnavailable
from tests.edges.stream.conftest import Serve, Serving

ALL = TaskFilter()


class Event(NamedTuple):
    """One event as a browser sees it; a comment has no name."""

    name: str
    cursor: str
    data: Any


def read(text: bytes) -> Event:
    """Fields as the standard reads them, of the ones that we send."""
    assert text.endswith(b"\n\n")
    fields = dict(line.split(": ", 1) for line in text.decode().splitlines() if line and not line.startswith(":"))
    fields.pop("retry", None)
    data = json.loads(fields["data"]) if "data" in fields else None
    return Event(fields.get("event", ""), fields.get("id", ""), data)


def listening(serving: Serving) -> Events:
    return Events(serving.feed, node="n")


async def heard(parts: AsyncGenerator[bytes, None]) -> Event:
    return read(await anext(parts))


def request(**headers: str) -> Request:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    peer = Peer(address="a", local=True)
    return Request(method="GET", path="/v1/results", query=(), headers=headers, body=b"", peer=peer)


async def test_every_outcome_is_an_event_with_its_cursor(serve: Serve) -> None:
    """After `hello`, from the place that was asked for; the messages are those of the stream."""
    serving = serve(1, 1)
    events = listening(serving)
    async with aclosing(events.parts("id-1", ALL)) as parts:
        hello = await heard(parts)
        assert (hello.name, hello.cursor, hello.data["cursor"], hello.data["node"]) == ("hello", "id-1", "id-1", "n")
        name, cursor, data = await heard(parts)
        assert (name, cursor, data["type"], data["task"]["id"]) == ("result", "id-2", "result", "t2")
        serving.publish("t3")
        assert (await heard(parts)).cursor == "id-3"
        assert len(events) == 1
        serving.feed.close()
        with pytest.raises(StopAsyncIteration):
            await anext(parts)
    assert len(events) == 0


async def test_silence_is_broken_by_comments(autojump_clock: object, serve: Serve) -> None:
    """Outcomes that a filter holds back do not count."""
    serving = serve()
    async with aclosing(listening(serving).parts(None, TaskFilter(algorithms=frozenset({"other"})))) as parts:
        await heard(parts)
        serving.publish("t1")
        assert await anext(parts) == b":\n\n"
        assert trio.current_time() >= COMMENT_EVERY_S
        serving.publish("t2", algorithm="other")
        assert (await heard(parts)).data["task"]["id"] == "t2"


async def test_a_cursor_that_is_too_old_is_told_so(serve: Serve) -> None:
    """Before the first outcome that is kept."""
    serving = serve(1, 1, 1)
    serving.store.prune(settled_before=0.0, keep=1, limit=10)
    async with aclosing(listening(serving).parts("id-0", ALL)) as parts:
        messages = [await heard(parts) for _ in range(3)]
    assert [(event.name, event.cursor) for event in messages] == [
        ("hello", "id-0"),
        ("resync", "id-2"),
        ("result", "id-3"),
    ]


async def test_a_store_that_cannot_be_read_ends_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """Whoever comes back with the last cursor goes on there."""
    serving = serve(1)

    def fail(*_: object) -> None:
        raise StoreUnavailable("the disk is gone")

    monkeypatch.setattr(serving.store, "feed_after", fail)
    async with aclosing(listening(serving).parts("id-0", ALL)) as parts:
        await heard(parts)
        with pytest.raises(StopAsyncIteration):
            await anext(parts)
    assert logged == ["listener cut, the store cannot be read: the disk is gone"]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/event-stream", True),
        ("application/json;q=0.9, Text/Event-Stream;q=1", True),
        ("*/*", False),
        ("", False),
    ],
)
def test_who_wants_events(accept: str, wanted: bool) -> None:  # noqa: FBT001 - a table
    """Whoever names them."""
    assert wants_events(request(accept=accept)) is wanted


def test_where_a_browser_goes_on() -> None:
    """It comes back to the same URL, with the last id in a header."""
    assert resumes_at(request(last_event_id="id-7")) == "id-7"
    assert resumes_at(request(last_event_id="")) is None
    assert resumes_at(request()) is None
