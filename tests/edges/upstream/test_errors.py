"""Which error of `Upstream` says what: which time is over, how far a request came."""

from __future__ import annotations

import socket

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from creche.edges.upstream import Upstream
from tests.edges.upstream.conftest import WHOLE, provider, read_request, reset, silent


async def test_no_listener_is_a_connect_error() -> None:
    """A refused connection is certain: nothing arrived."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(httpx2.ConnectError, match=r"^cannot connect: Connection refused$"):
            await Upstream().send(Call(method="POST", url=f"http://127.0.0.1:{unused.getsockname()[1]}"), timeout_s=5)


@pytest.mark.parametrize(("connect_timeout_s", "timeout_s"), [(0.05, 5), (5, 0.05)])
async def test_connecting_has_its_own_time(connect_timeout_s: float, timeout_s: float) -> None:
    """A provider that does not get a connection ready in time is a ConnectTimeout, also when the total time is over."""
    upstream = Upstream(connect_timeout_s=connect_timeout_s)
    async with provider(silent) as origin:
        with pytest.raises(httpx2.ConnectTimeout):
            await upstream.send(Call(method="POST", url=origin.replace("http", "https")), timeout_s=timeout_s)
    assert upstream.statistics().origins == {}


async def test_no_slot_is_a_pool_timeout() -> None:
    """A request whose turn did not come is certain too, and leaves the line."""
    upstream = Upstream(connections_per_origin=1)
    async with provider(silent) as origin, trio.open_nursery() as nursery:
        call = Call(method="POST", url=origin)
        nursery.start_soon(lambda: upstream.send(call, timeout_s=60))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(httpx2.PoolTimeout):
            await upstream.send(call, timeout_s=0.05)
        assert [(o.open, o.waiting) for o in upstream.statistics().origins.values()] == [(1, 0)]
        nursery.cancel_scope.cancel()


async def test_what_may_not_be_created_any_more_is_not_sent() -> None:
    """It is asked after all waiting, in the moment in which the request would leave; others are sent."""
    allowed, heard = [True, False], []

    async def listen(stream: trio.SocketStream) -> None:
        heard.append(await read_request(stream))
        await stream.send_all(WHOLE)

    upstream = Upstream(may_create=lambda: allowed.pop(0))
    async with provider(listen) as origin:
        create = Call(method="POST", url=origin, fresh=True)
        assert (await upstream.send(create, timeout_s=5)).status == 200
        with pytest.raises(httpx2.ConnectError, match="cut off from its fleet"):
            await upstream.send(create, timeout_s=5)
        assert (await upstream.send(Call(method="POST", url=origin), timeout_s=5)).status == 200
    assert len([request for request in heard if request]) == 2
    await upstream.aclose()


async def test_no_answer_is_a_read_timeout() -> None:
    """A provider that took the request and says nothing, or not all, is a ReadTimeout."""

    async def half(stream: trio.SocketStream) -> None:
        await stream.send_all(WHOLE[:-1])
        await silent(stream)

    for handler in (silent, half):
        async with provider(handler) as origin:
            with pytest.raises(httpx2.ReadTimeout):
                await Upstream().send(Call(method="GET", url=origin), timeout_s=0.05)


BIG = bytes(16 << 20)
"""More than the buffers of both sockets hold."""


async def test_unread_request_is_a_write_timeout() -> None:
    """A provider that does not take the whole request in time is a WriteTimeout."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep_forever()

    async with provider(handler) as origin:
        with pytest.raises(httpx2.WriteTimeout):
            await Upstream().send(Call(method="POST", url=origin, body=BIG), timeout_s=0.2)


@pytest.mark.parametrize("then", ["wait", "close", "reset"])
async def test_answer_may_come_before_the_request_is_through(then: str) -> None:
    """A provider that refuses a large body early is heard, whatever it does next; the connection is not used again."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        if then == "reset":
            await trio.testing.wait_all_tasks_blocked()
            reset(stream)
        elif then == "wait":
            await trio.sleep_forever()

    upstream = Upstream()
    async with provider(handler) as origin:
        answer = await upstream.send(Call(method="POST", url=origin, body=BIG), timeout_s=5)
    assert (answer.status, answer.body) == (413, b"no")
    assert upstream.statistics().origins == {}


async def test_reset_while_sending_is_a_write_or_read_error() -> None:
    """A provider that hangs up in the middle of the request leaves open what arrived."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        reset(stream)

    async with provider(handler) as origin:
        with pytest.raises((httpx2.WriteError, httpx2.ReadError)):
            await Upstream().send(Call(method="POST", url=origin, body=BIG), timeout_s=5)


async def test_reset_while_answering_is_a_read_error() -> None:
    """A connection that breaks in the middle of an answer leaves open what happened."""

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(WHOLE[:-1])
        await trio.testing.wait_all_tasks_blocked()
        reset(stream)

    async with provider(handler) as origin:
        with pytest.raises(httpx2.ReadError):
            await Upstream().send(Call(method="GET", url=origin), timeout_s=5)
