"""Which connections are kept for the next call, which lost calls are repeated, what is never taken for an answer."""

from __future__ import annotations

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from tests.edges.transports.conftest import WHOLE, Transport, Way, get, outcome
from tests.edges.transports.peers import Counting, Peer, Said, whole


def counts(transport: Transport) -> tuple[int, int, int]:
    """Open, idle and waiting, over all origins."""
    origins = transport.statistics().origins.values()
    return sum(o.open for o in origins), sum(o.idle for o in origins), sum(o.waiting for o in origins)


async def bodies(transport: Transport, origin: str, number: int) -> list[bytes]:
    """Those of so many answers, one after another."""
    return [(await get(transport, origin)).body for _ in range(number)]


async def test_connections_are_kept(way: Way) -> None:
    """Calls one after another use one connection."""
    async with way.serving(Counting()) as origin, way.transport() as transport:
        assert await bodies(transport, origin, 5) == [b"1"] * 5
        assert counts(transport) == (1, 1, 0)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(lambda body: whole(body, b"Connection: close"), id="close"),
        pytest.param(lambda body: whole(body, b"Connection: x, CLOSE"), id="close-among-others"),
        pytest.param(lambda body: whole(body).replace(b"/1.1", b"/1.0"), id="1.0"),
        pytest.param(lambda body: whole(body) + b"x", id="a-byte"),
        pytest.param(lambda body: whole(body) + b"HTTP/1.1 200", id="part-of-another-answer"),
        pytest.param(lambda body: whole(body) + whole(b"0"), id="another-answer"),
        pytest.param(lambda body: whole(body) + b"HTTP/1.1 100 Continue\r\n\r\n", id="informational"),
        pytest.param(
            lambda body: (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n" + body + b"\r\n0\r\n\r\n" + WHOLE
            ),
            id="another-answer-after-chunks",
        ),
        pytest.param(lambda body: whole(body, b"Connection: close") + b"x", id="close-and-garbage"),
    ],
)
async def test_connections_that_cannot_be_trusted_are_not_kept(way: Way, said: Said) -> None:
    """Where the provider wants to close, or said more than the answer, the next call has another connection."""
    async with way.serving(Counting(said)) as origin, way.transport() as transport:
        assert await bodies(transport, origin, 3) == [b"1", b"2", b"3"]
        assert counts(transport) == (0, 0, 0)


async def test_an_empty_line_after_an_answer_begins_no_answer(way: Way) -> None:
    """Some servers say one more than they should; whether the connection is used again is a matter of taste."""
    server = Counting(lambda body: whole(body) + b"\r\n")
    async with way.serving(server) as origin, way.transport() as transport:
        await get(transport, origin)
        got = await outcome(transport, Call(method="POST", url=origin))
    assert got == way.expected("empty-line", (200, b"2"))


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", id="408"),
        pytest.param(whole(b"0"), id="answer"),
        pytest.param(b"x", id="a-byte"),
        pytest.param(b"", id="nothing-but-an-end"),
    ],
)
@pytest.mark.parametrize("ends", [False, True], ids=["stays", "ends"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_comes_to_an_idle_connection_is_no_answer(way: Way, late: bytes, method: str, *, ends: bool) -> None:
    """Bytes or an end that come while a connection is idle: the next call has a new one, and is not lost."""
    said = trio.Event()

    async def say_late(peer: Peer) -> None:
        if not said.is_set():
            try:
                if late:
                    # Apart from the answer, in TLS as a record of its own.
                    await peer.say(late)
                if ends or not late:
                    await peer.end_sending()
            finally:
                said.set()  # it may be closed already, because of what was said

    server = Counting(then=say_late)
    async with way.serving(server) as origin, way.transport() as transport:
        assert (await get(transport, origin)).body == b"1"
        await said.wait()
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert (await get(transport, origin, method=method)).body == b"2"
    assert server.requests == 2


async def test_old_connections_are_not_used_again(way: Way, mock_clock: trio.testing.MockClock) -> None:
    """What was idle for too long is closed when a call would use it, or when there is traffic to anywhere."""
    async with (
        way.serving(Counting()) as origin,
        way.serving(Counting()) as other,
        way.transport(idle_s=60) as transport,
    ):
        assert (await get(transport, origin)).body == b"1"
        mock_clock.jump(59)
        assert (await get(transport, origin)).body == b"1"
        mock_clock.jump(61)
        assert (await get(transport, origin)).body == b"2"
        mock_clock.jump(61)
        await get(transport, other)
        assert counts(transport) == (1, 1, 0)


async def test_fresh_calls_have_a_new_connection(way: Way) -> None:
    """A call that must not be repeated never uses a kept connection; its own may be used by others after it."""
    async with way.serving(Counting()) as origin, way.transport() as transport:
        got = [(await get(transport, origin, fresh=fresh)).body for fresh in (False, True, False, True)]
    assert got == [b"1", b"2", b"2", b"3"]


async def test_the_number_of_connections_is_bounded(way: Way) -> None:
    """A new connection takes the place of the oldest idle one."""
    async with way.serving(Counting()) as origin, way.transport(connections_per_origin=2) as transport:
        for number in (b"1", b"2", b"3", b"4"):
            assert (await get(transport, origin, fresh=True)).body == number
            assert counts(transport)[0] <= 2


class Dropping:
    """Answers the first request of each connection; at the second it says `last` and closes."""

    def __init__(self, last: bytes, *, reset: bool, answered: int = 1) -> None:
        self._last, self._reset, self._answered = last, reset, answered
        self.requests = 0

    async def __call__(self, peer: Peer) -> None:
        left = self._answered
        while await peer.request() is not None:
            self.requests += 1
            if not left:
                await peer.say(self._last)
                if self._reset:
                    peer.reset()
                return
            left -= 1
            await peer.say(WHOLE)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_safe_call_lost_to_a_closing_connection_is_repeated_once(way: Way, method: str, *, reset: bool) -> None:
    """A GET into a kept connection that the provider closes instead of answering is sent again, on a new one."""
    server = Dropping(b"", reset=reset)
    async with way.serving(server) as origin, way.transport() as transport:
        assert (await get(transport, origin)).body == b"ok"
        assert (await get(transport, origin, method=method)).status == 200
    assert server.requests == 3


@pytest.mark.parametrize(
    ("method", "last", "answered"),
    [
        pytest.param("POST", b"", 1, id="unsafe"),
        pytest.param("GET", b"HTTP", 1, id="answer-begun"),
        pytest.param("GET", b"", 0, id="new-connection"),
    ],
)
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_other_lost_calls_are_not_repeated(
    way: Way, method: str, last: bytes, answered: int, *, reset: bool
) -> None:
    """What may have had an effect, has begun to be answered, or failed on a new connection is not sent again."""
    server = Dropping(last, reset=reset, answered=answered)
    async with way.serving(server) as origin, way.transport() as transport:
        for _ in range(answered):
            assert (await get(transport, origin)).body == b"ok"
        assert await outcome(transport, Call(method=method, url=origin)) is httpx2.ReadError
        assert counts(transport) == (0, 0, 0)
    assert server.requests == answered + 1


async def test_a_call_that_fails_after_its_repetition_is_not_sent_a_third_time(way: Way) -> None:
    """Once more is enough."""
    server = Dropping(b"", reset=False)
    async with way.serving(server) as origin, way.transport() as transport:
        assert (await get(transport, origin)).body == b"ok"
        server._answered = 0
        assert await outcome(transport, Call(method="GET", url=origin)) is httpx2.ReadError
    assert server.requests == 3
