"""Providers on a Unix socket."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from creche.edges.upstream import Upstream
from tests.edges.upstream.conftest import WHOLE, read_request


@contextlib.contextmanager
def listening(path: Path, *, queue: int = 16) -> Iterator[trio.SocketListener]:
    """A listener on a path."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with trio.socket.from_stdlib_socket(bound.dup()) as listener:
            listener.listen(queue)
            yield trio.SocketListener(listener)


def url_of(path: Path) -> str:
    """As a recipe's `base` names it."""
    return f"http+unix://{quote(str(path), safe='')}"


async def test_a_provider_on_a_unix_socket_is_asked(short_tmp: Path) -> None:
    """The connection is kept, the path keeps its case, the target is the rest of the URL, the Host `localhost`."""
    requests = []
    path = short_tmp / "Model.sock"
    with listening(path) as listener:

        async def serve() -> None:
            async with await listener.accept() as stream:
                for _ in range(2):
                    requests.append(await read_request(stream))
                    await stream.send_all(WHOLE)

        upstream = Upstream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            for target in ("/v1/jobs?id=7", ""):
                answer = await upstream.send(Call(method="GET", url=url_of(path) + target), timeout_s=5)
                assert answer.body == b"ok"
        await upstream.aclose()
    assert [request.split(b"\r\n")[:2] for request in requests] == [
        [b"GET /v1/jobs?id=7 HTTP/1.1", b"Host: localhost"],
        [b"GET / HTTP/1.1", b"Host: localhost"],
    ]


async def test_no_socket_is_a_connect_error(short_tmp: Path) -> None:
    """As with a refused connection, nothing has arrived."""
    with pytest.raises(httpx2.ConnectError, match=r"^cannot connect: No such file or directory$"):
        await Upstream().send(Call(method="POST", url=url_of(short_tmp / "none.sock")), timeout_s=5)


async def test_a_full_queue_is_waited_for(short_tmp: Path) -> None:
    """Where the listener has no room the connection is tried again until it is there, or until the time is over."""
    path = short_tmp / "full.sock"
    with listening(path, queue=0) as listener, socket.socket(socket.AF_UNIX) as other:
        other.connect(str(path))
        upstream = Upstream()
        with pytest.raises(httpx2.ConnectTimeout):
            await upstream.send(Call(method="POST", url=url_of(path)), timeout_s=0.05)

        async def serve() -> None:
            await (await listener.accept()).aclose()
            async with await listener.accept() as stream:
                await read_request(stream)
                await stream.send_all(WHOLE)

        async with trio.open_nursery() as nursery:
            call = Call(method="POST", url=url_of(path))
            nursery.start_soon(lambda: upstream.send(call, timeout_s=5))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(serve)
        await upstream.aclose()
