"""Handlers of the front that fail, and clients that hang up."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from creche.core.exchange import Request, Response
from tests.edges.front.conftest import GET, Serve, Waiting, mirror, with_target


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        OSError(errno.EIO, "secret"),
        ExceptionGroup("secret", [KeyError(1), OSError(2)]),
        trio.TooSlowError(),
    ],
)
async def test_a_handler_that_fails_is_answered_for(serve: Serve, errors_logged: list[str], error: Exception) -> None:
    """The client learns that it is our fault and no more; the log has it once; the connection goes on."""

    async def handle(request: Request) -> Response:
        if request.path == "/fail":
            raise error
        return await mirror(request)

    client = await (await serve(handle)).client()
    for method in ("GET", "POST"):
        await client.send(f"{method} /fail?token=secret HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        answer = await client.answer()
        assert answer.problem == (500, "internal")
        assert b"secret" not in answer.body
    assert errors_logged == ["GET /fail failed", "POST /fail failed"]
    await client.send(GET)
    assert (await client.answer()).status == 200


async def test_a_handler_whose_answer_cannot_be_sent_is_logged(serve: Serve, errors_logged: list[str]) -> None:
    """An answer that would not be HTTP ends the connection, not the server."""

    async def handle(request: Request) -> Response:
        return Response(status=200, headers=(("X", "a\r\nb"),)) if request.path == "/bad" else await mirror(request)

    served = await serve(handle)
    client = await served.client()
    await client.send(with_target(b"/bad"))
    assert await client.closed()
    assert errors_logged == ["GET /bad failed"]
    assert await served.is_well()


async def test_no_more_of_a_request_is_shown_than_fits(serve: Serve, errors_logged: list[str]) -> None:
    """What a stranger sent is cut in the log, and stays on one line."""

    async def handle(_: Request) -> Response:
        raise ValueError

    await (await serve(handle)).ask(with_target(b"/%0a" + b"x" * 1000 + b"?token=secret"))
    (message,) = errors_logged
    assert message.startswith("GET /%0axxx")
    assert len(message) == 200 + len(" failed")


async def test_a_get_is_cancelled_when_its_unix_client_hangs_up(serve: Serve) -> None:
    """Long waits of clients that are gone do not pile up."""
    waiting = Waiting()
    served = await serve(waiting)
    client = await served.client()
    await client.send(GET + GET)
    await waiting.began.wait()
    await client.stream.aclose()
    await waiting.cancelled.wait()
    waiting.released.set()
    assert await served.is_well()


async def test_a_get_is_cancelled_when_its_tcp_client_resets(serve: Serve) -> None:
    """On TCP an orderly end looks like half a close, a reset does not."""
    waiting = Waiting()
    client = await (await serve(waiting)).client("tcp")
    await client.send(GET)
    await waiting.began.wait()
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.stream.aclose()
    await waiting.cancelled.wait()


async def test_a_client_that_is_gone_before_its_handler_begins_is_noticed(serve: Serve) -> None:
    """Hanging up is not missed because it came early."""
    waiting = Waiting()
    served = await serve(waiting)
    with socket.socket(socket.AF_UNIX) as client:  # with no chance for the front to run until it is closed
        client.connect(os.fspath(served.path))
        client.sendall(GET)
    await waiting.cancelled.wait()


async def test_a_change_is_carried_out_although_its_client_hangs_up(serve: Serve) -> None:
    """A POST is never cancelled by its client."""
    waiting = Waiting()
    served = await serve(waiting)
    client = await served.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    await waiting.began.wait()
    await client.stream.aclose()
    await wait_all_tasks_blocked(0.05)
    assert not waiting.cancelled.is_set()
    waiting.released.set()
    await served.stop()
    assert not waiting.cancelled.is_set()


async def test_a_client_that_only_stops_sending_gets_its_answer(serve: Serve, kind: str) -> None:
    """`nc -N` shuts down its writing half and waits."""
    waiting = Waiting()
    client = await (await serve(waiting)).client(kind)
    await client.send(GET)
    await client.stream.send_eof()
    await waiting.began.wait()
    await wait_all_tasks_blocked(0.05)
    waiting.released.set()
    assert (await client.answer()).status == 200
    assert await client.closed()
