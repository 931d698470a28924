"""The simulated provider: its rules at a desk with a made-up clock, and its server on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from creche.core.exchange import Answer
from creche.simulator import Drop, Reply, Simulator, serve

START = 1_700_000_000.0
LIMIT_S = 20.0


class Desk:
    """A simulator with a clock that only tests move."""

    def __init__(self, simulator: Simulator | None = None) -> None:
        self.simulator = simulator or Simulator()
        self.now = START

    def ask(self, method: str, path: str, content: object = None, **headers: str) -> Reply | Drop:
        body = b"" if content is None else msgspec.json.encode(content)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.simulator.handle(method, path, named, body, self.now)

    def read(self, method: str, path: str, content: object = None, **headers: str) -> tuple[int, Any]:
        reply = self.ask(method, path, content, **headers)
        assert isinstance(reply, Reply), "the connection was dropped"
        return reply.status, msgspec.json.decode(reply.body)

    def create(self, script: dict[str, Any] | None = None, **headers: str) -> str:
        status, job = self.read("POST", "/v1/jobs", {"prompt": "hello", "simulate": script or {}}, **headers)
        assert status == 201
        return str(job["id"])

    def poll(self, job: str, at_s: float | None = None) -> dict[str, Any]:
        if at_s is not None:
            self.now = START + at_s
        status, body = self.read("GET", f"/v1/jobs/{job}")
        assert status == 200
        return dict(body)

    def words(self, job: str, *times_s: float) -> list[str]:
        return [self.poll(job, at_s)["status"] for at_s in times_s]

    def codes(self, method: str, path: str, times: int) -> list[int]:
        """HTTP statuses of one request made several times, 0 for a dropped connection."""
        replies = [self.ask(method, path) for _ in range(times)]
        return [reply.status if isinstance(reply, Reply) else 0 for reply in replies]

    def world(self, **world: object) -> dict[str, Any]:
        status, shown = self.read("PUT", "/v1/world", world)
        assert status == 200
        return dict(shown)

    def stats(self) -> dict[str, Any]:
        return dict(self.read("GET", "/v1/stats")[1])


class Client:
    """One connection; answers come in the order of the requests."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""

    async def ask(self, request: bytes) -> Answer | None:
        await self.stream.send_all(request)
        return await self.answer(with_body=not request.startswith(b"HEAD"))

    async def answer(self, *, with_body: bool = True) -> Answer | None:
        """The next answer, None when the server closed the connection instead."""
        while b"\r\n\r\n" not in self._rest:
            if not await self._more():
                return None
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers["content-length"]) if with_body else 0
        while len(self._rest) < size:
            assert await self._more(), "the connection was closed within a body"
        body, self._rest = self._rest[:size], self._rest[size:]
        return Answer(status=int(first.split()[1]), headers=headers, body=body)

    async def _more(self) -> bool:
        data = await self.stream.receive_some()
        self._rest += data
        return bool(data)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A connection to the simulator, closed afterwards."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with await trio.open_tcp_stream(host.strip("[]"), int(port)) as stream:
        yield Client(stream)


@pytest.fixture
async def url(nursery: trio.Nursery) -> str:
    """A simulator on a free port."""
    return str(await nursery.start(serve))
