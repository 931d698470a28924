"""Which calls `Upstream` repeats when a kept connection is lost, and which it does not."""

from __future__ import annotations

import itertools

import httpx2
import pytest

from creche.core.exchange import Call
from creche.edges.upstream import Upstream
from tests.edges.upstream_connections.conftest import Requests, Stream, counts, get, provider, whole


class Dropping:
    """Answers the first request of each connection; at the second it says `last` and closes."""

    def __init__(self, last: bytes = b"", *, answered: int = 1) -> None:
        self._last = last
        self._answered = answered
        self.requests = 0

    async def __call__(self, stream: Stream) -> None:
        requests = Requests(stream)
        for number in itertools.count(1):
            if await requests.next() is None:
                return
            self.requests += 1
            if number > self._answered:
                await stream.send_all(self._last)
                return
            await stream.send_all(whole("ok"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_safe_call_lost_to_a_closing_connection_is_repeated_once(method: str) -> None:
    """A GET into a kept connection that the provider closes instead of answering is sent again, on a new one."""
    upstream = Upstream()
    server = Dropping()
    async with provider(server) as port:
        call = Call(method=method, url=f"http://127.0.0.1:{port}")
        assert await get(upstream, port) == "ok"
        assert (await upstream.send(call, timeout_s=5)).status == 200
        await upstream.aclose()
    assert server.requests == 3


@pytest.mark.parametrize(
    ("method", "server", "requests"),
    [
        pytest.param("POST", Dropping(), 2, id="unsafe"),
        pytest.param("GET", Dropping(b"HTTP"), 2, id="answer-begun"),
        pytest.param("GET", Dropping(answered=0), 1, id="new-connection"),
    ],
)
async def test_other_lost_calls_are_not_repeated(method: str, server: Dropping, requests: int) -> None:
    """What may have had an effect, has begun to be answered, or failed on a new connection is not sent again."""
    upstream = Upstream()
    async with provider(server) as port:
        if requests == 2:
            assert await get(upstream, port) == "ok"
        with pytest.raises(httpx2.ReadError):
            await upstream.send(Call(method=method, url=f"http://127.0.0.1:{port}"), timeout_s=5)
    assert (server.requests, counts(upstream)) == (requests, (0, 0, 0))
