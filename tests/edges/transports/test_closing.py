"""How calls share connections, and what becomes of them when a transport closes: the same for every transport."""

from __future__ import annotations

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from tests.edges.transports.conftest import WHOLE, Calls, Way, get, outcome, stay
from tests.edges.transports.peers import Gate, Peer


async def test_the_limit_holds_and_the_line_is_in_order(way: Way) -> None:
    """No more requests are at the provider at once than the limit, and the others get their turn as they came."""
    gate = Gate()
    async with way.serving(gate) as origin, way.transport(connections_per_origin=3) as transport:
        async with trio.open_nursery() as nursery:
            calls = Calls(nursery, transport)
            for number in range(20):
                calls.ask(origin, number)
                await trio.testing.wait_all_tasks_blocked()
            await gate.reached(3)
            assert [(o.open, o.waiting) for o in transport.statistics().origins.values()] == [(3, 17)]
            gate.opened.set()
        assert set(calls.outcomes.values()) == {(200, b"ok")}
    assert gate.most == 3
    assert max(abs(place - number) for place, number in enumerate(gate.order)) <= 3


async def test_each_origin_has_its_own_connections(way: Way) -> None:
    """A provider that hangs takes no turns from another."""
    gate = Gate()
    async with (
        way.serving(gate) as origin,
        way.serving(gate) as other,
        way.transport(connections_per_origin=1) as transport,
        trio.open_nursery() as nursery,
    ):
        calls = Calls(nursery, transport)
        calls.ask(origin, 1)
        calls.ask(other, 2)
        await gate.reached(2)
        gate.opened.set()


async def test_at_the_end_requests_on_the_wire_end_as_they_would(way: Way) -> None:
    """All others fail at once, and certainly nothing of them was sent."""
    gate = Gate()
    async with way.serving(gate) as origin, way.transport(connections_per_origin=2) as transport:
        gate.opened.set()
        await get(transport, f"{origin}/0")  # leaves a connection idle
        gate.opened = trio.Event()
        async with trio.open_nursery() as nursery:
            calls = Calls(nursery, transport)
            for number in (1, 2, 3):
                calls.ask(origin, number)
                await trio.testing.wait_all_tasks_blocked()
            await gate.reached(2)
            await transport.aclose()
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert calls.outcomes == {3: httpx2.PoolTimeout}
            gate.opened.set()
        assert calls.outcomes[1] == calls.outcomes[2] == (200, b"ok")
        assert transport.statistics().origins == {}
    assert gate.order == [0, 1, 2]


async def test_a_call_after_the_end_fails_at_once(way: Way) -> None:
    """Whether a connection is free or all are in use by requests that still end as they would."""
    gate = Gate()
    async with way.serving(gate) as origin, way.transport(connections_per_origin=1) as transport:
        async with trio.open_nursery() as nursery:
            calls = Calls(nursery, transport)
            calls.ask(origin, 1)
            await gate.reached(1)
            await transport.aclose()
            calls.ask(origin, 2)
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert calls.outcomes == {2: httpx2.PoolTimeout}
            gate.opened.set()
        calls.outcomes.clear()
        assert await outcome(transport, Call(method="GET", url=origin)) is httpx2.PoolTimeout


async def test_at_the_end_no_connection_is_made_any_more(secure: Way) -> None:
    """A call whose handshake is going on fails at once, with ConnectError."""
    plain = Way(secure.kind, tls=False, authority=secure.authority)
    reached = trio.Event()

    async def handler(peer: Peer) -> None:
        await peer.stream.receive_some(1)
        reached.set()
        await stay(peer)

    async with plain.serving(handler) as origin, plain.transport() as transport:
        async with trio.open_nursery() as nursery:
            calls = Calls(nursery, transport)
            calls.ask(origin.replace("http:", "https:"), 1)
            await reached.wait()
            await transport.aclose()
        assert calls.outcomes == {1: httpx2.ConnectError}


@pytest.mark.parametrize("turns", range(12))
async def test_a_call_that_the_end_meets_was_sent_or_says_that_it_was_not(way: Way, turns: int) -> None:
    """Wherever the call stands, after so many turns of the loop."""
    arrived: list[object] = []

    async def handler(peer: Peer) -> None:
        request = await peer.request()
        if request is not None:
            arrived.append(request)
            await peer.say(WHOLE)

    async with way.serving(handler) as origin, way.transport() as transport:
        async with trio.open_nursery() as nursery:
            calls = Calls(nursery, transport)
            calls.ask(origin, 1)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            await transport.aclose()
        if calls.outcomes[1] == (200, b"ok"):
            assert len(arrived) == 1
        else:
            assert calls.outcomes[1] in {httpx2.ConnectError, httpx2.PoolTimeout}
            assert arrived == []
