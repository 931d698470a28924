"""Calls of `Upstream` that are cancelled anywhere."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import trio
import trustme

from creche.core.exchange import Answer, Call
from creche.edges.upstream import Upstream
from tests.edges.upstream_connections.conftest import (
    Requests,
    Stream,
    client_context,
    counts,
    provider,
    server_context,
    whole,
)


def open_files() -> int:
    """How many this process has, sockets included."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True])
async def test_cancelled_anywhere_nothing_leaks_and_answers_never_mix(authority: trustme.CA, *, tls: bool) -> None:
    """Many calls for two connections, cancelled at random moments: each answer is its own call's; in the end all slots
    are free, calls work, and no socket is left open.
    """
    chance = random.Random(7)  # noqa: S311 - nobody must be kept from guessing

    async def echo(stream: Stream) -> None:
        requests = Requests(stream)
        while (request := await requests.next()) is not None:
            data = whole(request[0])
            cut = chance.randrange(len(data))
            await stream.send_all(data[:cut])
            if chance.random() < 0.3:
                await trio.sleep(chance.random() / 500)
            await stream.send_all(data[cut:])

    upstream = Upstream(connections_per_origin=2, ssl_context=client_context(authority))
    numbers = itertools.count()
    answered = cancelled = 0
    end = trio.current_time() + 1.5
    before = open_files()

    async def ask(port: int) -> None:
        nonlocal answered, cancelled
        while trio.current_time() < end:
            target = f"/{next(numbers)}"
            call = Call(
                method=chance.choice(["GET", "POST"]),
                url=f"{'https' if tls else 'http'}://127.0.0.1:{port}{target}",
                body=None if chance.random() < 0.9 else bytes(300_000),
                fresh=chance.random() < 0.1,
            )
            answer: Answer | None = None
            with trio.move_on_after(chance.random() * chance.choice([0.002, 0.02, 0.2])):
                answer = await upstream.send(call, timeout_s=chance.choice([0.5, 60]))
            if answer is None:
                cancelled += 1
            else:
                answered += 1
                assert answer.body == target.encode()
            opened, idle, _ = counts(upstream)
            assert idle <= opened <= 2

    async with provider(echo, server_context(authority) if tls else None) as port:
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask, port)
        opened, idle, waiting = counts(upstream)
        assert (opened, waiting) == (idle, 0)
        assert min(answered, cancelled) > 20
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/after"
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(lambda: upstream.send(Call(method="GET", url=url), timeout_s=5))
        await upstream.aclose()
        assert counts(upstream) == (0, 0, 0)
    assert open_files() <= before
