"""The stream with real WebSocket clients and real sockets, on a simulated clock."""

from __future__ import annotations

import json

import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection

from creche.edges.stream_sending import PING_EVERY_S, SEND_S
from tests.edges.stream.conftest import LARGE_BYTES, OLDEST, Query, Serve, heard


async def cursors_until_closed(connection: WebSocketConnection) -> tuple[list[str], int]:
    """The cursors of all results that are still to be heard, and the close code."""
    cursors: list[str] = []
    try:
        while True:
            message = await heard(connection)
            if message["type"] == "result":
                cursors.append(message["cursor"])
    except ConnectionClosed as closed:
        return cursors, closed.reason.code if closed.reason else 0


async def test_a_large_outcome_reaches_a_slow_listener(autojump_clock: object, serve: Serve) -> None:
    """What is bounded is how long it takes for a part: this one needs more than half a minute, and is pinged in it."""
    began = trio.current_time()
    async with serve(LARGE_BYTES, 1).listener(OLDEST, bytes_per_s=250 << 10) as connection:
        assert [(await heard(connection)).get("cursor") for _ in range(3)] == ["id-0", "id-1", "id-2"]
        assert trio.current_time() - began > PING_EVERY_S + SEND_S / 2
        await trio.sleep(3 * PING_EVERY_S)
        assert connection.closed is None


async def test_a_listener_that_reads_nothing_is_cut(autojump_clock: object, serve: Serve, logged: list[str]) -> None:
    """In the midst of a message, when its time is over, while others go on."""
    serving = serve(LARGE_BYTES)
    async with serving.listener(OLDEST, bytes_per_s=4096 / (2 * SEND_S)), serving.listener(OLDEST) as quick:
        await heard(quick)
        assert len((await heard(quick))["task"]["result"]) == LARGE_BYTES
        await trio.sleep(4 * SEND_S)
        assert (logged, len(serving.stream)) == (["listener cut, it does not read: a"], 1)


async def test_a_resync_comes_before_what_follows_the_gap(autojump_clock: object, serve: Serve) -> None:
    """Its cursor too: who breaks off behind it has lost nothing more. Retention was faster than the read here."""
    serving = serve(1, 1, 1)
    serving.store.prune(settled_before=0.0, keep=1, limit=10)
    async with serving.listener((("since", "id-0"),)) as connection:
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
async def test_a_bad_query_is_refused(autojump_clock: object, serve: Serve, query: Query, logged: list[str]) -> None:
    """Before the upgrade, with a problem, and as the client's mistake."""
    with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True) as caught:
        async with serve().listener(query):
            pass
    rejection = caught.value.exceptions[0]
    assert isinstance(rejection, ConnectionRejected)
    assert rejection.status_code == 400
    assert json.loads(rejection.body or b"")["code"] == "invalid_request"
    assert logged == []


async def test_a_listener_hears_the_end(autojump_clock: object, serve: Serve) -> None:
    """All that is in the feed, then 1001."""
    serving = serve(1)
    async with serving.listener(OLDEST) as connection:
        serving.feed.publish(serving.settle("late", 1))
        serving.feed.close()
        assert [(await heard(connection))["type"] for _ in range(3)] == ["hello", "result", "result"]
        with pytest.raises(ConnectionClosed) as caught:
            await heard(connection)
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1001


async def test_who_stops_reading_loses_nothing_and_costs_nobody(
    autojump_clock: object, serve: Serve, logged: list[str]
) -> None:
    """It is cut while others hear each outcome at once; resumed by cursor, it has heard each once and in order."""
    serving = serve()
    expected = [f"id-{number}" for number in range(1, 61)]
    async with serving.listener() as stuck, serving.listener() as quick:
        assert (await heard(stuck))["type"] == (await heard(quick))["type"] == "hello"
        for number, cursor in enumerate(expected):
            began = trio.current_time()
            serving.publish(f"t{number}", 2000)
            assert (await heard(quick))["cursor"] == cursor
            assert trio.current_time() - began < 1
        await trio.sleep(2 * SEND_S)
        assert (logged, len(serving.stream)) == (["listener cut, it does not read: a"], 1)
        before, code = await cursors_until_closed(stuck)
        assert 0 < len(before) < len(expected)
        assert code == 1006
        async with serving.listener((("since", before[-1]),)) as resumed:
            after = [(await heard(resumed))["cursor"] for _ in range(1 + len(expected) - len(before))][1:]
    assert before + after == expected


async def test_a_stop_waits_for_those_who_are_behind(autojump_clock: object, serve: Serve) -> None:
    """They too get what is in the feed, then 1001."""
    serving = serve()
    expected = [f"id-{number}" for number in range(1, 61)]
    async with serving.listener() as slow, serving.listener() as quick:
        for number in range(len(expected)):
            serving.publish(f"t{number}", 2000)
        await trio.sleep(1)
        serving.feed.close()
        assert await cursors_until_closed(quick) == (expected, 1001)
        assert await cursors_until_closed(slow) == (expected, 1001)


async def test_a_listener_whom_retention_overtakes_is_told(autojump_clock: object, serve: Serve) -> None:
    """Also one who was up to date a moment ago."""
    serving = serve()
    async with serving.listener() as connection:
        await heard(connection)
        serving.publish("t1")
        assert (await heard(connection))["cursor"] == "id-1"
        serving.publish("t2")
        serving.feed.forget_up_to(2)
        serving.publish("t3")
        messages = [await heard(connection) for _ in range(2)]
    assert [(message["type"], message["cursor"]) for message in messages] == [("resync", "id-2"), ("result", "id-3")]


async def test_a_large_outcome_to_many_is_whole(autojump_clock: object, serve: Serve) -> None:
    """No kernel takes it at once; each listener goes on by itself in the midst of it, and rides along again."""
    serving = serve()
    async with serving.listener() as one, serving.listener() as other:
        for connection in (one, other):
            await heard(connection)
        began = trio.current_time()
        serving.publish("t1", LARGE_BYTES)
        for connection in (one, other):
            assert len((await heard(connection))["task"]["result"]) == LARGE_BYTES
        assert trio.current_time() - began < PING_EVERY_S / 2  # nothing else need be sent to get it through
        serving.publish("t2")
        assert [(await heard(connection))["cursor"] for connection in (one, other)] == ["id-2", "id-2"]


async def test_stats_come_while_they_are_wanted(autojump_clock: object, serve: Serve) -> None:
    """At once, then every two seconds, among the outcomes; who does not ask for them hears none."""
    serving = serve()
    async with serving.listener((("stats", "1"),)) as curious, serving.listener() as plain:
        assert [(await heard(curious))["type"] for _ in range(4)] == ["hello", "stats", "stats", "stats"]
        serving.publish("t1")
        assert [(await heard(curious))["type"] for _ in range(2)] == ["result", "stats"]
        assert [(await heard(plain))["type"] for _ in range(2)] == ["hello", "result"]
