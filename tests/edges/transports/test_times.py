"""Which time is over: the same class of error, and with it the same promise about what was sent.

The clock stands still but for `jump`, so that nothing here depends on how fast anything is.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from tests.edges.transports.conftest import WHOLE, Outcome, Transport, Way, outcome, stay
from tests.edges.transports.peers import Peer

BIG = bytes(16 << 20)
"""More than the buffers of all sockets hold."""


class Asked:
    """A call under way, and what it came to."""

    def __init__(self, nursery: trio.Nursery, transport: Transport, call: Call, timeout_s: float = 30) -> None:
        self.outcome: Outcome | None = None
        self._ended = trio.Event()
        nursery.start_soon(self._ask, transport, call, timeout_s)

    async def _ask(self, transport: Transport, call: Call, timeout_s: float) -> None:
        self.outcome = await outcome(transport, call, timeout_s=timeout_s)
        self._ended.set()

    async def after(self, clock: trio.testing.MockClock, seconds: float) -> Outcome | None:
        """What it comes to when so much time passes at once."""
        await trio.testing.wait_all_tasks_blocked()
        assert self.outcome is None
        clock.jump(seconds)
        await self._ended.wait()
        return self.outcome


async def test_silence_is_a_read_timeout(way: Way, mock_clock: trio.testing.MockClock) -> None:
    """A provider that took the request and says nothing, or not all."""
    for said in (b"", WHOLE[:20], WHOLE[:-1], b"HTTP/1.1 103 Early\r\n\r\n"):
        reached = trio.Event()

        async def handler(peer: Peer, said: bytes = said, reached: trio.Event = reached) -> None:
            await peer.request()
            await peer.say(said)
            reached.set()
            await stay(peer)

        async with way.serving(handler) as origin, way.transport() as transport, trio.open_nursery() as nursery:
            asked = Asked(nursery, transport, Call(method="GET", url=origin))
            await reached.wait()
            assert await asked.after(mock_clock, 31) is httpx2.ReadTimeout


async def test_a_slow_drip_is_a_read_timeout(way: Way, mock_clock: trio.testing.MockClock) -> None:
    """The time is for the whole answer: bytes that keep coming do not prolong it."""
    said = trio.Event()

    async def handler(peer: Peer) -> None:
        nonlocal said
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            await peer.say(b"x")
            said.set()
            await trio.sleep(1)

    async with way.serving(handler) as origin, way.transport() as transport, trio.open_nursery() as nursery:
        asked = Asked(nursery, transport, Call(method="GET", url=origin))
        for _ in range(30):
            await said.wait()
            said = trio.Event()
            assert asked.outcome is None
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(1)
        await asked._ended.wait()
        assert asked.outcome is httpx2.ReadTimeout


async def test_an_unread_request_is_a_write_timeout(way: Way, mock_clock: trio.testing.MockClock) -> None:
    """A provider that does not take the whole request."""
    reached = trio.Event()

    async def handler(peer: Peer) -> None:
        await peer.head()
        reached.set()
        await trio.sleep_forever()

    async with way.serving(handler) as origin, way.transport() as transport, trio.open_nursery() as nursery:
        asked = Asked(nursery, transport, Call(method="POST", url=origin, body=BIG))
        await reached.wait()
        assert await asked.after(mock_clock, 31) is way.expected("unread", httpx2.WriteTimeout)


async def test_no_turn_is_a_pool_timeout(way: Way, mock_clock: trio.testing.MockClock) -> None:
    """A request whose turn did not come is certain too, and leaves the line."""
    reached = trio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        reached.set()
        await stay(peer)

    async with (
        way.serving(handler) as origin,
        way.transport(connections_per_origin=1) as transport,
        trio.open_nursery() as nursery,
    ):
        call = Call(method="POST", url=origin)
        Asked(nursery, transport, call, timeout_s=600)
        await reached.wait()
        waiting = Asked(nursery, transport, call)
        assert await waiting.after(mock_clock, 31) is httpx2.PoolTimeout
        assert [(o.open, o.idle, o.waiting) for o in transport.statistics().origins.values()] == [(1, 0, 0)]
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port of loopback whose listener has no room for one more connection, so that none is made."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize(("connect_timeout_s", "timeout_s"), [(10, 30), (30, 10)])
async def test_no_connection_is_a_connect_timeout(
    way: Way, mock_clock: trio.testing.MockClock, connect_timeout_s: float, timeout_s: float
) -> None:
    """Whichever time is over first, that of connecting or that of the whole call."""
    with full_backlog() as port:
        async with (
            way.proxied(),
            way.transport(connect_timeout_s=connect_timeout_s) as transport,
            trio.open_nursery() as nursery,
        ):
            asked = Asked(nursery, transport, Call(method="POST", url=way.url(port)), timeout_s)
            await trio.testing.wait_all_tasks_blocked()
            got = await asked.after(mock_clock, 11 if way.name != "proxy-plain" else 31)
            assert got is way.expected("connect-timeout", httpx2.ConnectTimeout)


async def test_a_silent_handshake_is_a_connect_timeout(secure: Way, mock_clock: trio.testing.MockClock) -> None:
    """A provider that takes the connection and does not begin TLS."""
    plain = Way(secure.kind, tls=False, authority=secure.authority)
    reached = trio.Event()

    async def handler(peer: Peer) -> None:
        await peer.stream.receive_some(1)
        reached.set()
        await stay(peer)

    async with plain.serving(handler) as origin, plain.transport() as transport, trio.open_nursery() as nursery:
        asked = Asked(nursery, transport, Call(method="POST", url=origin.replace("http:", "https:")))
        await reached.wait()
        assert await asked.after(mock_clock, 11) is httpx2.ConnectTimeout
