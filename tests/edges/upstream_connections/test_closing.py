"""What `Upstream.aclose` does to the calls of each stage: those not on the wire yet fail at once, the others end."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Answer, Call
from creche.edges.upstream import Upstream
from tests.edges.upstream_connections.conftest import Requests, Stream, counts, provider, whole

PROMPT_S = 1.0
"""Much shorter than any time-out of these tests."""


class Asked:
    """Calls in the background, shielded as creates are, and how they ended in the order of their ends."""

    def __init__(self, upstream: Upstream, nursery: trio.Nursery) -> None:
        self._upstream = upstream
        self._nursery = nursery
        self.ends: list[Answer | Exception] = []

    def ask(self, url: str) -> None:
        self._nursery.start_soon(self._ask, Call(method="POST", url=url, body=b"x", fresh=True))

    async def _ask(self, call: Call) -> None:
        with trio.CancelScope(shield=True):
            try:
                self.ends.append(await self._upstream.send(call, timeout_s=30))
            except httpx2.HTTPError as exc:
                self.ends.append(exc)


@asynccontextmanager
async def asking(upstream: Upstream) -> AsyncIterator[Asked]:
    """A nursery for the calls that must have ended within `PROMPT_S` of the end of the block."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            yield Asked(upstream, nursery)
            nursery.cancel_scope.deadline = trio.current_time() + PROMPT_S


async def test_calls_in_the_line_fail_at_once_and_the_one_on_the_wire_ends() -> None:
    """Of five calls for one connection the provider sees one; it is answered, the others certainly were not sent."""
    arrived, answer = trio.Event(), trio.Event()
    requests: list[str] = []

    async def handler(stream: Stream) -> None:
        reader = Requests(stream)
        while (request := await reader.next()) is not None:
            requests.append(request[0])
            arrived.set()
            await answer.wait()
            await stream.send_all(whole("ok"))

    upstream = Upstream(connections_per_origin=1)
    async with provider(handler) as port, asking(upstream) as asked:
        for number in range(5):
            asked.ask(f"http://127.0.0.1:{port}/{number}")
            await trio.testing.wait_all_tasks_blocked()
        await arrived.wait()
        await upstream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert [type(end) for end in asked.ends] == [httpx2.PoolTimeout] * 4
        answer.set()
    assert isinstance(asked.ends[-1], Answer)
    assert requests == ["/0"]
    assert counts(upstream) == (0, 0, 0)


@contextmanager
def full_backlog() -> Iterator[int]:
    """The port of a listener that leaves further connections without an answer, as Linux does with a full backlog."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as filler:
        filler.connect(full.getsockname())
        yield full.getsockname()[1]


async def test_calls_that_connect_fail_at_once() -> None:
    """A connection that is still being made carries no request any more."""
    upstream = Upstream()
    with full_backlog() as port:
        async with asking(upstream) as asked:
            for _ in range(3):
                asked.ask(f"http://127.0.0.1:{port}/")
            await trio.testing.wait_all_tasks_blocked()
            await upstream.aclose()
    assert [type(end) for end in asked.ends] == [httpx2.ConnectError] * 3
    assert counts(upstream) == (0, 0, 0)


async def test_calls_in_the_handshake_of_tls_fail_at_once() -> None:
    """Before its end no byte of a request is sent."""
    greeted = trio.Event()

    async def silent(stream: Stream) -> None:
        await stream.receive_some()
        greeted.set()
        await trio.sleep_forever()

    upstream = Upstream()
    async with provider(silent) as port, asking(upstream) as asked:
        asked.ask(f"https://127.0.0.1:{port}/")
        await greeted.wait()
        await upstream.aclose()
    assert [type(end) for end in asked.ends] == [httpx2.ConnectError]


async def test_a_connection_made_at_that_moment_is_not_used() -> None:
    """The connection is there before the call goes on, and the end comes between the two."""
    requests: list[object] = []

    async def handler(stream: Stream) -> None:
        request = await Requests(stream).next()
        if request is not None:
            requests.append(request)

    upstream = Upstream()
    async with provider(handler) as port, asking(upstream) as asked:
        asked.ask(f"http://127.0.0.1:{port}/")
        # From here on each turn may be the one; wherever the call stands, it was sent or it says that it was not.
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        await upstream.aclose()
    assert isinstance(asked.ends[0], httpx2.ConnectError) != bool(requests)


async def test_calls_that_look_up_a_name_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver without an answer holds nobody; its thread ends by itself and was none of Trio's common ones."""
    upstream = Upstream()
    common = trio.to_thread.current_default_thread_limiter()
    asked_for, release = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    real = socket.getaddrinfo

    def stuck(host: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the one it stands for
        if host != "provider.test" or kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
            return real(host, *args, **kwargs)
        token.run_sync_soon(asked_for.set)
        release.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    try:
        async with asking(upstream) as asked:
            asked.ask("http://provider.test/")
            await asked_for.wait()
            assert common.borrowed_tokens == 0
            await upstream.aclose()
    finally:
        release.set()
    assert [type(end) for end in asked.ends] == [httpx2.ConnectError]


async def test_nothing_is_sent_after_the_end() -> None:
    """A call that comes too late is refused, whether connections are free or not."""
    upstream = Upstream()
    await upstream.aclose()
    with pytest.raises(httpx2.PoolTimeout, match="no more requests are sent"):
        await upstream.send(Call(method="GET", url="http://127.0.0.1:1/"), timeout_s=5)
