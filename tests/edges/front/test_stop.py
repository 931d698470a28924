"""How the front stops, and that it survives without file descriptors."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from creche.edges.front import Front, Limits
from creche.edges.front_connection import LAST_S
from creche.edges.front_listening import open_unix
from tests.edges.front.conftest import GET, Serve, Waiting, mirror


async def test_stop_closes_idle_connections_and_the_listeners(serve: Serve, kind: str) -> None:
    """Both those that never asked and those that are kept alive; afterwards nobody listens."""
    served = await serve()
    fresh, kept = await served.client(kind), await served.client(kind)
    await kept.send(GET)
    await kept.answer()
    await wait_all_tasks_blocked()
    await served.stop()
    assert await fresh.closed()
    assert await kept.closed()
    with pytest.raises(OSError, match=r"refused|failed"):
        await served.client(kind)


async def test_stop_lets_a_request_in_progress_be_answered(serve: Serve, kind: str) -> None:
    """Whether it is being handled or still arriving; the answer says that it is the last."""
    waiting = Waiting()
    served = await serve(waiting)
    handled, arriving = await served.client(kind), await served.client(kind)
    await handled.send(GET + GET)
    await arriving.send(GET[:-2])
    await waiting.began.wait()
    await wait_all_tasks_blocked()
    served.front.stop()
    await arriving.send(GET[-2:])
    waiting.released.set()
    for client in (handled, arriving):
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.closed()
    await served.ended.wait()


async def test_who_had_connected_before_a_stop_is_heard(serve: Serve, kind: str) -> None:
    """Its first request, and no other; nobody waits for one who says nothing for longer than a moment."""
    served = await serve()
    quick, silent = await served.client(kind), await served.client(kind)
    await wait_all_tasks_blocked()
    heard: list[float] = []

    async def hear_last() -> None:
        await served.front.last_requests()
        heard.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_last)
        await wait_all_tasks_blocked()
        await quick.send(GET + GET)
        answer = await quick.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert heard == [], "the silent one may say something yet"
    assert await quick.closed()
    assert await silent.closed()
    assert heard[0] - began < 2 * LAST_S
    await served.ended.wait()


async def test_who_was_not_let_in_yet_is_heard(serve: Serve, kind: str) -> None:
    """Twenty who connect and ask while the stop comes: nobody has accepted them."""
    served = await serve()
    clients = [await served.client(kind) for _ in range(20)]
    for client in clients:
        await client.send(GET)
    served.front.stop()
    assert [(await client.answer()).status for client in clients] == 20 * [200]
    await served.ended.wait()


async def test_stop_before_serve_serves_nobody(short_tmp: Path) -> None:
    """A stop that comes early is not forgotten."""
    front = Front(handle=mirror, upgrade=None, limits=Limits())
    front.stop()
    with trio.fail_after(5):
        await front.serve([open_unix(short_tmp / "front.sock")])


async def test_cancelling_serve_cancels_what_is_in_progress(short_tmp: Path) -> None:
    """Handlers of any method end, listeners and connections are closed."""
    waiting = Waiting()
    front = Front(handle=waiting, upgrade=None, limits=Limits())
    path = short_tmp / "front.sock"
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(front.serve, [open_unix(path)])
            client = await trio.open_unix_socket(path)
            await client.send_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            await waiting.began.wait()
            nursery.cancel_scope.cancel()
        async with client:
            assert waiting.cancelled.is_set()
            assert await client.receive_some() == b""


async def test_running_out_of_file_descriptors_is_survived(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, errors_logged: list[str]
) -> None:
    """It is logged once, and connections are accepted again as soon as it is over."""
    accept = trio.SocketListener.accept
    failures = iter([OSError(errno.EMFILE, "Too many open files")] * 3)

    async def starved(listener: trio.SocketListener) -> trio.SocketStream:
        if listener.socket.family == socket.AF_UNIX:
            for error in failures:
                raise error
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", starved)
    assert await (await serve()).is_well()
    assert errors_logged == ["cannot accept connections for now: Too many open files"]
