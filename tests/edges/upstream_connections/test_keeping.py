"""Which connections `Upstream` keeps for the next call, and which it does not."""

from __future__ import annotations

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from creche.edges.upstream import Upstream
from tests.edges.upstream_connections.conftest import Counting, Requests, Stream, counts, get, provider, whole


async def test_connections_are_kept() -> None:
    """Calls one after another use one connection; closing the transport closes it and refuses more."""
    upstream = Upstream()
    async with provider(Counting()) as port:
        assert [await get(upstream, port) for _ in range(3)] == ["1", "1", "1"]
        assert counts(upstream) == (1, 1, 0)
        await upstream.aclose()
        assert counts(upstream) == (0, 0, 0)
        with pytest.raises(httpx2.PoolTimeout):
            await get(upstream, port)


async def test_connection_of_a_call_under_way_is_closed_after_aclose() -> None:
    """A call that is under way when the transport closes still gets its answer; nothing stays open."""
    answer = trio.Event()

    async def handler(stream: Stream) -> None:
        await Requests(stream).next()
        await answer.wait()
        await stream.send_all(whole("late"))
        await trio.sleep_forever()

    upstream = Upstream()
    async with provider(handler) as port, trio.open_nursery() as nursery:
        got = []

        async def ask() -> None:
            got.append(await get(upstream, port))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await upstream.aclose()
        answer.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert (got, counts(upstream)) == (["late"], (0, 0, 0))


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(Counting(fields=(b"Connection: close",)), id="close"),
        pytest.param(Counting(surplus=b"HTTP/1.1 200"), id="part-of-another-answer"),
        pytest.param(Counting(surplus=whole("0")), id="another-answer"),
        pytest.param(Counting(fields=(b"Connection: close",), surplus=b"x"), id="close-and-garbage"),
    ],
)
async def test_connections_that_cannot_be_trusted_are_not_kept(server: Counting) -> None:
    """Where the provider wants to close, or said more than the answer, the next call has another connection."""
    upstream = Upstream()
    async with provider(server) as port:
        assert [await get(upstream, port) for _ in range(2)] == ["1", "2"]
        assert counts(upstream) == (0, 0, 0)


async def test_late_garbage_is_seen_before_the_next_call() -> None:
    """Bytes that come while a connection is idle are no answer to the next request."""

    async def late(stream: Stream) -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        await stream.send_all(whole("0"))

    upstream = Upstream()
    async with provider(Counting(late)) as port:
        assert await get(upstream, port) == "1"
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert await get(upstream, port) == "2"
        await upstream.aclose()


async def close(stream: Stream) -> None:
    """End the connection."""
    await stream.aclose()


async def test_closed_idle_connections_are_seen_before_the_next_call() -> None:
    """A POST is not lost to connections that the provider has closed meanwhile: they are skipped."""
    gate = trio.Event()

    async def close_later(stream: Stream) -> None:
        await gate.wait()
        await stream.aclose()

    upstream = Upstream()
    server = Counting(close_later)
    async with provider(server) as port:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(get, upstream, port)
        assert counts(upstream) == (3, 3, 0)
        gate.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        answer = await upstream.send(Call(method="POST", url=f"http://127.0.0.1:{port}"), timeout_s=5)
        assert (answer.body, server.requests) == (b"4", 4)
        await upstream.aclose()


async def test_old_connections_are_not_used_again() -> None:
    """What was idle for too long is closed when a call would use it, or when there is traffic to anywhere."""
    upstream = Upstream(idle_s=0.02)
    async with provider(Counting()) as port, provider(Counting(fields=(b"Connection: close",))) as other:
        assert await get(upstream, port) == "1"
        await trio.sleep(0.03)
        assert await get(upstream, port) == "2"
        await trio.sleep(0.03)
        await get(upstream, other)
        assert counts(upstream) == (0, 0, 0)


async def test_fresh_calls_have_a_new_connection() -> None:
    """A call that must not be repeated never uses a kept connection; its own may be used by others after it."""
    upstream = Upstream()
    async with provider(Counting()) as port:
        assert [await get(upstream, port, fresh=fresh) for fresh in (False, True, False, True)] == ["1", "2", "2", "3"]
        await upstream.aclose()
