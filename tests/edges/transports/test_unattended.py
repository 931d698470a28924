"""Calls that nobody waits for, as polls are sent: `prepare(...).begin(done, step_s)`. Only the fast transport has them.

They need a connection that is kept from a call before, so each server here answers one before it becomes awkward.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Answer, Call, Prepared, Unanswered
from tests.edges.transports.conftest import WHOLE, Handler, Outcome, Transport, Way, get, saying, stay
from tests.edges.transports.peers import Counting, Gate, Peer, whole
from tests.edges.transports.test_answers import ANSWERS
from tests.edges.transports.test_broken import CUT, PROTOCOL
from tests.edges.transports.test_cancelling import Echo, assert_nothing_is_in_use
from tests.edges.transports.test_limits import TOO_MUCH

STEP_S = 2.0**-8
"""A power of two: its multiples are exact, also on a clock that stands still."""


@pytest.fixture
def kind() -> str:
    """The other transports begin nothing."""
    return "upstream"


class Begun:
    """A call that was begun, unless `abandon` is None, and what it came to."""

    def __init__(self, prepared: Prepared, step_s: float = STEP_S) -> None:
        self.answer: Answer | None = None
        self.outcome: Outcome | None = None
        self._ended = trio.Event()
        self.abandon = prepared.begin(self._done, step_s)

    @property
    def begun(self) -> bool:
        return self.abandon is not None

    async def end(self) -> Outcome:
        """What it comes to."""
        assert self.begun
        await self._ended.wait()
        assert self.outcome is not None
        return self.outcome

    def _done(self, end: Answer | Exception) -> None:
        assert self.outcome is None, "it ends once"
        self.answer = end if isinstance(end, Answer) else None
        self.outcome = (end.status, end.body) if isinstance(end, Answer) else type(end)
        self._ended.set()


def then(handler: Handler) -> Handler:
    """Answers the first request of each connection, and goes on as `handler`."""

    async def both(peer: Peer) -> None:
        await peer.request()
        await peer.say(WHOLE)
        await handler(peer)

    return both


@contextlib.asynccontextmanager
async def prepared_for(way: Way, handler: Handler, **limits: int) -> AsyncIterator[tuple[Transport, Prepared]]:
    """A call that is ready to be sent on a connection which is kept."""
    async with way.serving(then(handler)) as origin, way.transport(**limits) as transport:
        prepared = transport.prepare(Call(method="GET", url=origin), timeout_s=20)
        assert (await prepared.send()).body == b"ok"
        yield transport, prepared


CASES: dict[str, tuple[bytes, Outcome]] = {
    **{case: (raw, (status, body)) for case, (raw, status, body) in ANSWERS.items()},
    **{case: (raw, httpx2.RemoteProtocolError) for case, raw in {**PROTOCOL, **TOO_MUCH}.items()},
    **{f"cut-{case}": (raw, httpx2.ReadError) for case, raw in CUT.items()},
    "cut-nothing": (b"", Unanswered),
    "not-gzip": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nplain", httpx2.DecodingError),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_is_said_is_understood_as_ever(way: Way, case: str) -> None:
    """Answers and errors are those of a call that somebody waits for; nothing stays in use."""
    raw, common = CASES[case]
    limits = {"max_body_bytes": 1000, "max_header_bytes": 1000} if case in TOO_MUCH else {}
    async with prepared_for(way, saying(raw), **limits) as (transport, prepared):
        assert await Begun(prepared).end() == way.expected(case, common)
        assert_nothing_is_in_use(transport, 1)


async def test_a_connection_that_is_closed_instead_of_an_answer_is_no_error(way: Way) -> None:
    """What `send` would send once more is as good as not asked; a POST may have arrived, and is not."""

    async def hang_up(peer: Peer) -> None:
        await peer.request()

    for method, common in (("GET", Unanswered), ("POST", httpx2.ReadError)):
        async with way.serving(then(hang_up)) as origin, way.transport() as transport:
            prepared = transport.prepare(Call(method=method, url=origin), timeout_s=20)
            await prepared.send()
            assert await Begun(prepared).end() is common
            assert (await prepared.send()).body == b"ok"


async def test_one_connection_carries_one_after_another(way: Way) -> None:
    """Begun or waited for, as it comes."""
    server = Counting()
    async with way.serving(server) as origin, way.transport() as transport:
        prepared = transport.prepare(Call(method="GET", url=origin), timeout_s=20)
        assert not Begun(prepared).begun, "there is no connection yet"
        for _ in range(3):
            assert (await prepared.send()).body == b"1"
            assert await Begun(prepared).end() == (200, b"1")
    assert (server.connections, server.requests) == (1, 6)


async def test_no_free_slot_begins_nothing(way: Way) -> None:
    """Neither does a transport that is closed, nor a call that wants a new connection. All are left as they were."""
    gate = Gate()
    gate.opened.set()
    async with way.serving(gate) as origin, way.transport(connections_per_origin=1) as transport:
        prepared = transport.prepare(Call(method="GET", url=f"{origin}/1"), timeout_s=20)
        fresh = transport.prepare(Call(method="GET", url=f"{origin}/2", fresh=True), timeout_s=20)
        await prepared.send()
        assert not Begun(fresh).begun
        gate.opened = trio.Event()
        first = Begun(prepared)
        await gate.reached(1)
        assert not Begun(prepared).begun
        await transport.aclose()
        gate.opened.set()
        assert await first.end() == (200, b"ok")
        assert not Begun(prepared).begun
    assert gate.order == [1, 1]


async def test_silence_is_a_read_timeout(way: Way, mock_clock: trio.testing.MockClock) -> None:
    """Whether nothing came or not all; the connection is closed."""
    for said in (b"", WHOLE[:20], WHOLE[:-1]):
        async with prepared_for(way, saying(said, stay)) as (transport, prepared):
            begun = Begun(prepared)
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert begun.outcome is None
            mock_clock.jump(22)
            assert await begun.end() is httpx2.ReadTimeout
            assert transport.statistics().origins == {}


async def test_an_unread_request_is_a_write_timeout(way: Way, mock_clock: trio.testing.MockClock) -> None:
    """A provider that does not take the whole request."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.say(WHOLE)
        await trio.sleep_forever()

    async with way.serving(handler) as origin, way.transport() as transport:
        await get(transport, origin)
        begun = Begun(transport.prepare(Call(method="POST", url=origin, body=bytes(16 << 20)), timeout_s=20))
        await trio.testing.wait_all_tasks_blocked(0.005)
        mock_clock.jump(22)
        assert await begun.end() is httpx2.WriteTimeout


async def test_a_large_answer_does_not_wait_for_one_look_after_another(
    way: Way, mock_clock: trio.testing.MockClock
) -> None:
    """It would not be through in time: a look reads as much as a record of TLS at most."""
    body = bytes(4 << 20)
    async with prepared_for(way, saying(whole(body), stay)) as (_, prepared):
        begun = Begun(prepared, step_s=1.0)
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert begun.outcome is None
        mock_clock.jump(1)
        assert await begun.end() == (200, body)


@pytest.mark.parametrize("late", [b"x", WHOLE, b""], ids=["a-byte", "answer", "end"])
async def test_what_comes_to_an_idle_connection_is_no_answer(way: Way, late: bytes) -> None:
    """After an answer that nobody waited for, too: then there is no connection to begin with."""
    say_late, said = trio.Event(), trio.Event()

    async def handler(peer: Peer) -> None:
        await saying(WHOLE)(peer)
        await say_late.wait()
        await peer.say(late)
        if not late:
            await peer.end_sending()
        said.set()
        await stay(peer)

    async with prepared_for(way, handler) as (transport, prepared):
        assert await Begun(prepared).end() == (200, b"ok")
        say_late.set()
        await said.wait()
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert not Begun(prepared).begun
        assert transport.statistics().origins == {}


@pytest.mark.parametrize("said", [b"", WHOLE[:20]], ids=["before", "in-the-middle"])
async def test_what_is_abandoned_is_heard_of_no_more(way: Way, mock_clock: trio.testing.MockClock, said: bytes) -> None:
    """Its connection is closed, its slot free; the rest of its answer goes to nobody."""
    reached, closed = trio.Event(), trio.Event()

    async def handler(peer: Peer) -> None:
        if await peer.request() is not None:
            await peer.say(said)
            reached.set()
            await peer.until_end()
            closed.set()

    async with prepared_for(way, handler, connections_per_origin=1) as (transport, prepared):
        begun = Begun(prepared)
        await reached.wait()
        await trio.testing.wait_all_tasks_blocked(0.005)
        mock_clock.jump(STEP_S)
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert begun.abandon is not None
        begun.abandon()
        await closed.wait()
        assert begun.outcome is None
        assert transport.statistics().origins == {}
        assert (await prepared.send()).body == b"ok"


@pytest.mark.parametrize("seed", range(2))
async def test_answers_never_mix(way: Way, seed: int) -> None:
    """50 tasks share 5 connections, begin calls and send them, and abandon some at random moments."""
    dice = random.Random(seed)  # noqa: S311 - chance, not secrecy
    counts = {"sent": 0, "ended": 0, "abandoned": 0}

    async def ask(prepared: Prepared) -> Answer | None:
        begun = Begun(prepared, dice.choice([STEP_S, STEP_S / 2]))
        if begun.abandon is None:
            if dice.random() < 0.9:
                return None
            counts["sent"] += 1
            return await prepared.send()
        if dice.random() < 0.3:
            await trio.sleep(dice.random() * 2 * STEP_S)
            if begun.outcome is None:
                counts["abandoned"] += 1
                begun.abandon()
        else:
            counts["ended"] += 1
            await begun.end()
            assert begun.answer is not None
        return begun.answer

    async def poll(number: int, transport: Transport, origin: str) -> None:
        prepared = transport.prepare(Call(method="GET", url=f"{origin}/{number}"), timeout_s=30)
        for _ in range(30):
            answer = await ask(prepared)
            if answer is not None:
                assert (answer.headers["x-number"], answer.body) == (str(number), b"%d " % number)
            await trio.sleep(dice.random() * 4 * STEP_S)

    async with way.serving(Echo(seed)) as origin, way.transport(connections_per_origin=5) as transport:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(poll, number, transport, origin)
        assert_nothing_is_in_use(transport, 5)
    assert min(counts.values()) > 10
