"""HTTP/2: which requests share a connection, and what they can do to each other there."""

from __future__ import annotations

import random

import h2.settings
import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from tests.edges.transports.conftest import WHOLE, get, outcome
from tests.edges.transports.h2_peer import H2Request, H2Server, H2Way, echo
from tests.edges.transports.peers import Peer


async def test_a_crowd_shares_one_connection(h2way: H2Way) -> None:
    """Also when all come before it is made; a call that must not be repeated has one of its own."""
    server = H2Server(echo)
    async with h2way.serving(server) as origin, h2way.transport() as transport:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(get, transport, origin)
        assert len(server.connections) == 1
        await get(transport, origin, fresh=True)
        assert len(server.connections) == 2
        assert [(o.open, o.idle) for o in transport.statistics().origins.values()] == [(2, 2)]


async def test_a_provider_without_http2_is_asked_in_http_1(h2way: H2Way) -> None:
    """Then every request has a connection of its own, as ever, and none waits for another."""
    connections, gate = [], trio.Event()

    async def handler(peer: Peer) -> None:
        connections.append(peer)
        while await peer.request() is not None:
            if len(connections) == 3:
                gate.set()
            await gate.wait()
            await peer.say(WHOLE)

    async with h2way.serving(handler, protocols=("http/1.1",)) as origin, h2way.transport() as transport:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(get, transport, origin)
        assert (await get(transport, origin)).body == b"ok"
    assert len(connections) == 3


async def test_fewer_streams_are_allowed_than_wanted(h2way: H2Way) -> None:
    """The provider's limit holds; the others get their turn."""
    at_once = most = 0

    async def handler(request: H2Request) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(0.002)
        at_once -= 1
        await echo(request)

    server = H2Server(handler, {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 3})
    async with h2way.serving(server) as origin, h2way.transport() as transport, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(get, transport, origin)
    assert most <= 3


@pytest.mark.parametrize(("method", "requests"), [("GET", 3), ("POST", 2)])
async def test_a_kept_connection_may_be_lost(h2way: H2Way, method: str, requests: int) -> None:
    """A GET is sent once more, on a new connection; what may have had an effect is not."""

    async def handler(request: H2Request) -> None:
        if request.connection.number == 1 and server.requests > 1:
            await request.connection.peer.stream.aclose()
        else:
            await echo(request)

    server = H2Server(handler)
    async with h2way.serving(server) as origin, h2way.transport() as transport:
        await get(transport, origin)
        got = await outcome(transport, Call(method=method, url=f"{origin}/a"))
        assert got == ((200, b"/a ") if method == "GET" else httpx2.ReadError)
    assert server.requests == requests


async def test_what_a_leaving_provider_did_not_look_at_is_sent_elsewhere(h2way: H2Way) -> None:
    """GOAWAY names the last request that it took: later ones, whatever they are, go over a new connection."""

    async def handler(request: H2Request) -> None:
        if request.connection.number == 1 and request.stream_id > 1:
            request.connection.state.close_connection(0, last_stream_id=1)
            await request.connection.flush()
        else:
            await echo(request)

    server = H2Server(handler)
    async with h2way.serving(server) as origin, h2way.transport() as transport:
        await get(transport, origin)
        assert await outcome(transport, Call(method="POST", url=f"{origin}/a", body=b"b")) == (200, b"/a b")
    assert len(server.connections) == 2


async def test_a_call_that_is_late_takes_nobody_with_it(h2way: H2Way, mock_clock: trio.testing.MockClock) -> None:
    """The others on its connection are answered; the next call has a new one."""
    gate, reached = trio.Event(), trio.Event()

    async def handler(request: H2Request) -> None:
        if request[":path"] == "/silent":
            reached.set()
            await trio.sleep_forever()
        if request[":path"] == "/patient":
            await gate.wait()
        await echo(request)

    server, got = H2Server(handler), {}
    async with h2way.serving(server) as origin, h2way.transport() as transport:
        await get(transport, origin)

        async def ask(path: str, timeout_s: float) -> None:
            got[path] = await outcome(transport, Call(method="GET", url=f"{origin}{path}"), timeout_s=timeout_s)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "/patient", 600)
            await trio.testing.wait_all_tasks_blocked(0)
            async with trio.open_nursery() as inner:
                inner.start_soon(ask, "/silent", 30)
                await reached.wait()
                mock_clock.jump(31)
            await ask("/next", 30)
            assert len(server.connections) == 2
            gate.set()
    assert got == {"/patient": (200, b"/patient "), "/silent": httpx2.ReadTimeout, "/next": (200, b"/next ")}


@pytest.mark.parametrize("seed", range(2))
async def test_random_cancels_under_contention(h2way: H2Way, seed: int) -> None:
    """Calls that share connections and are cancelled at random: no answer goes astray, no place is lost."""
    dice = random.Random(seed)  # noqa: S311 - chance, not secrecy
    ends = {"cancelled": 0, "answered": 0}

    async def handler(request: H2Request) -> None:
        if dice.random() < 0.3:
            await trio.sleep(dice.random() * 0.002)
        await echo(request)

    async with h2way.serving(H2Server(handler)) as origin, h2way.transport(connections_per_origin=20) as transport:

        async def caller(number: int) -> None:
            for turn in range(4):
                body = bytes(dice.choice([0, 10, 100_000]))
                call = Call(method="POST", url=f"{origin}/{number}-{turn}", body=body)
                with trio.move_on_after(dice.expovariate(1 / 0.2)):
                    got = await outcome(transport, call)
                    # A cancel in the middle of a write breaks TLS, and with it the exchanges that share it.
                    assert got in {(200, b"/%d-%d " % (number, turn) + body), httpx2.WriteError, httpx2.ReadError}
                    ends["answered"] += isinstance(got, tuple)
                    continue
                ends["cancelled"] += 1

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(caller, number)
        for found in transport.statistics().origins.values():
            assert (found.open - found.idle, found.waiting) == (0, 0)
        for number in range(20):
            assert await outcome(transport, Call(method="GET", url=f"{origin}/{number}")) == (200, b"/%d " % number)
    assert min(ends.values()) > 20
