"""Calls cancelled at every moment, thousands of them: no connection's place is lost, no answer goes to another call."""

from __future__ import annotations

import itertools
import random

import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from tests.edges.transports.conftest import Transport, Way
from tests.edges.transports.peers import Peer

LARGE = 100_000
"""Bytes of a body that a transport may have to wait with."""


class Echo:
    """Answers each request with its own number and as many bytes as it had, some at once, some in pieces or later."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)  # noqa: S311 - chance, not secrecy

    async def __call__(self, peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            number = request[0].split(b" ")[1][1:]
            body = number + b" " + b"x" * len(request[1])
            answer = b"HTTP/1.1 200 OK\r\nX-Number: %s\r\nContent-Length: %d\r\n\r\n%s" % (number, len(body), body)
            cut = self._dice.randrange(len(answer))
            await peer.say(answer[:cut])
            if self._dice.random() < 0.3:
                await trio.sleep(self._dice.random() * 0.002)
            await peer.say(answer[cut:])


numbers = itertools.count(1)


async def ask(transport: Transport, origin: str, *, method: str, body_bytes: int, fresh: bool) -> None:
    """One call with a number of its own, whose answer must have it too."""
    number = next(numbers)
    body = bytes(body_bytes) if method == "POST" else None
    call = Call(method=method, url=f"{origin}/{number}", body=body, fresh=fresh)
    answer = await transport.send(call, timeout_s=30)
    assert answer.headers["x-number"] == str(number)
    assert answer.body == b"%d " % number + b"x" * (body_bytes if method == "POST" else 0)


def assert_nothing_is_in_use(transport: Transport, limit: int) -> None:
    """All slots are free, and what is open is idle and within the limit."""
    for origin in transport.statistics().origins.values():
        assert origin.open == origin.idle <= limit
        assert origin.waiting == 0


@pytest.mark.parametrize("seed", range(2))
async def test_random_cancels_under_contention(way: Way, seed: int) -> None:
    """200 callers share 5 connections and are cancelled at random moments; afterwards all is as if none had been."""
    dice = random.Random(seed)  # noqa: S311 - chance, not secrecy
    cancelled = answered = 0
    async with way.serving(Echo(seed)) as origin, way.transport(connections_per_origin=5) as transport:

        async def caller() -> None:
            nonlocal cancelled, answered
            for _ in range(5):
                kind = dice.choice([("GET", 0, False), ("POST", 10, True), ("POST", 10, False), ("POST", LARGE, False)])
                with trio.move_on_after(dice.expovariate(1 / 0.15)) as scope:
                    await ask(transport, origin, method=kind[0], body_bytes=kind[1], fresh=kind[2])
                cancelled += scope.cancelled_caught
                answered += not scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(caller)
        assert_nothing_is_in_use(transport, 5)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(lambda: ask(transport, origin, method="GET", body_bytes=0, fresh=False))
        assert_nothing_is_in_use(transport, 5)
    assert cancelled > 50
    assert answered > 50


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when its task is about to take its n-th step."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, n: int) -> None:
        self._task, self._scope, self._left = task, scope, n

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


@pytest.mark.parametrize(
    ("method", "body_bytes", "fresh"),
    [("GET", 0, False), ("POST", 10, True), ("POST", LARGE, False)],
    ids=["get", "fresh-post", "large-post"],
)
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
async def test_cancels_at_every_step(way: Way, method: str, body_bytes: int, *, fresh: bool, kept: bool) -> None:
    """Cancelled before its first, second, … step until it ends before: the next two calls are none the worse.

    They wait in line while it is cancelled, for the only connection.
    """
    async with way.serving(Echo(1)) as origin, way.transport(connections_per_origin=1) as transport:
        in_a_row = 0
        for n in itertools.count(1):
            assert n < 200, "does not end"
            if kept:
                await ask(transport, origin, method="GET", body_bytes=0, fresh=False)
            else:
                await forget_idle(transport)
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(lambda: ask(transport, origin, method="POST", body_bytes=3, fresh=False))
                with trio.CancelScope() as scope:
                    instrument = CancelAtStep(trio.lowlevel.current_task(), scope, n)
                    trio.lowlevel.add_instrument(instrument)
                    try:
                        await ask(transport, origin, method=method, body_bytes=body_bytes, fresh=fresh)
                    finally:
                        trio.lowlevel.remove_instrument(instrument)
            assert_nothing_is_in_use(transport, 1)
            # A step may end what it was to be cancelled in; twice in a row says that it is the last.
            in_a_row = 0 if scope.cancelled_caught else in_a_row + 1
            if in_a_row == 2:
                break


async def forget_idle(transport: Transport) -> None:
    """Leave no connection idle, as time would."""
    for origin in transport._origins.values():
        origin.close_idle()
