"""How the calls to one origin share the connections of `Upstream`."""

from __future__ import annotations

import trio
import trio.testing

from creche.edges.upstream import Upstream
from tests.edges.upstream_connections.conftest import Counting, Requests, Stream, counts, get, provider, whole


async def test_limit_holds_and_the_line_is_in_order() -> None:
    """No more requests are at the provider at once than the limit, and the others get their turn as they came."""
    at_once, most, order = 0, 0, []

    async def handler(stream: Stream) -> None:
        nonlocal at_once, most
        requests = Requests(stream)
        while (request := await requests.next()) is not None:
            at_once += 1
            most = max(most, at_once)
            order.append(int(request[0][1:]))
            await trio.testing.wait_all_tasks_blocked()
            at_once -= 1
            await stream.send_all(whole("ok"))

    upstream = Upstream(connections_per_origin=2)
    async with provider(handler) as port:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(get, upstream, port, f"/{number}")
                await trio.lowlevel.checkpoint()
            assert counts(upstream)[2] >= 17
        assert (most, counts(upstream)) == (2, (2, 2, 0))
        await upstream.aclose()
    assert max(abs(place - number) for place, number in enumerate(order)) <= 1


async def test_new_connection_takes_the_place_of_the_oldest_idle_one() -> None:
    """Idle connections count towards the limit, but never stand in the way."""
    upstream = Upstream(connections_per_origin=2)
    async with provider(Counting()) as port:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(get, upstream, port)
        for fresh in ("3", "4", "5"):
            assert await get(upstream, port, fresh=True) == fresh
            assert counts(upstream) == (2, 2, 0)
        await upstream.aclose()
