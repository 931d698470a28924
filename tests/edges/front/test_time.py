"""How long the front waits for its clients, over real sockets."""

from __future__ import annotations

import pytest
import trio

from creche.core.exchange import Request, Response
from tests.edges.front.conftest import GET, QUICK, Serve


async def test_half_a_head_and_silence_times_out(serve: Serve, kind: str) -> None:
    """A client that stops in the midst of a head is told, and cut off."""
    served = await serve(limits=QUICK)
    client = await served.client(kind)
    await client.send(GET[:20])
    answer = await client.answer()
    assert answer.problem == (408, "request_timeout")
    assert answer.headers["connection"] == "close"
    assert await client.closed()
    assert await served.is_well()


async def test_a_head_that_trickles_times_out(serve: Serve) -> None:
    """Each byte does not buy new time: the whole head has its limit."""
    client = await (await serve(limits=QUICK)).client()

    async def trickle() -> None:
        await client.send(GET[:-2] + b"X: ")
        while True:
            await trio.sleep(0.02)
            await client.send(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        assert (await client.answer()).problem == (408, "request_timeout")
        nursery.cancel_scope.cancel()


async def test_a_slow_body_times_out(serve: Serve, kind: str) -> None:
    """A body that does not arrive in its time is given up."""
    client = await (await serve(limits=QUICK)).client(kind)
    await client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
    assert (await client.answer()).problem == (408, "request_timeout")
    assert await client.closed()


@pytest.mark.parametrize("before", [b"", GET])
async def test_silence_is_answered_with_silence(serve: Serve, kind: str, before: bytes) -> None:
    """A connection on which nothing is asked, at first or after an answer, is closed without a word."""
    client = await (await serve(limits=QUICK)).client(kind)
    if before:
        await client.send(before)
        await client.answer()
    assert await client.closed()


@pytest.mark.slow
async def test_the_time_begins_anew_with_each_request(serve: Serve) -> None:
    """A connection may live longer than any of its limits."""
    client = await (await serve(limits=QUICK)).client()
    began = trio.current_time()
    while trio.current_time() < began + 2 * QUICK.idle_s:
        await client.send(GET)
        assert (await client.answer()).status == 200


@pytest.mark.slow
async def test_a_client_that_takes_no_answer_is_cut_off(serve: Serve, kind: str) -> None:
    """A large answer does not wait for ever to be read."""

    async def handle(_: Request) -> Response:
        return Response(status=200, body=bytes(20 << 20))

    served = await serve(handle, QUICK)
    client = await served.client(kind)
    await client.send(GET)
    await client.stream.receive_some(1)
    await served.stop()


@pytest.mark.slow
async def test_a_client_that_reads_slowly_gets_a_large_answer(serve: Serve, kind: str) -> None:
    """The time to write counts for each 256 KiB, not for the whole."""

    async def handle(_: Request) -> Response:
        return Response(status=200, body=bytes(8 << 20))

    client = await (await serve(handle, QUICK)).client(kind)
    began = trio.current_time()
    await client.send(GET)
    received = 0
    while received < 8 << 20:
        await trio.sleep(0.01)
        received += len(await client.stream.receive_some(1 << 18))
    assert trio.current_time() - began > QUICK.write_s
