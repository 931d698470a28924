"""How `Upstream` finds the addresses of a provider, and which of them it takes."""

from __future__ import annotations

import socket
from typing import Any

import httpx2
import pytest
import trio

from creche.core.exchange import Call
from creche.edges.upstream import Upstream
from creche.edges.upstream_dial import STAGGER_S
from tests.edges.upstream_connections.conftest import Counting, provider


class Resolver:
    """Says where `provider.test` is, and counts how often it was asked. Addresses are for the system's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
        self.ports = ports
        self.asked = 0
        self._system = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the one it stands for
        if not str(host).endswith(".test") or kwargs.get("flags"):
            return self._system(host, *args, **kwargs)
        self.asked += 1
        if host != "provider.test":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in self.ports]


def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def test_names_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd of new connections shares one lookup, and later ones use its answer, until connecting fails."""
    upstream = Upstream()
    call = Call(method="GET", url="http://provider.test/", fresh=True)
    async with provider(Counting()) as port:
        resolver = Resolver(monkeypatch, port)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(lambda: upstream.send(call, timeout_s=5))
        await upstream.send(call, timeout_s=5)
        assert resolver.asked == 1
        await upstream.aclose()

    upstream = Upstream()
    for asked in (2, 3):
        with pytest.raises(httpx2.ConnectError):
            await upstream.send(call, timeout_s=5)
        assert resolver.asked == asked


async def test_unknown_name_is_a_connect_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that cannot be looked up is certain: nothing arrived."""
    Resolver(monkeypatch)
    with pytest.raises(httpx2.ConnectError, match=r"^cannot connect: no such name$"):
        await Upstream().send(Call(method="POST", url="http://other.test/"), timeout_s=5)


async def test_next_address_is_tried_when_one_fails_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that refuses costs nothing, one that does not answer costs a quarter of a second."""
    upstream = Upstream()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as filler:
        # With its backlog taken, Linux leaves further connections without an answer.
        filler.connect(full.getsockname())
        async with provider(Counting()) as port:
            Resolver(monkeypatch, unused_port(), full.getsockname()[1], port)
            begun = trio.current_time()
            assert (await upstream.send(Call(method="GET", url="http://provider.test"), timeout_s=5)).body == b"1"
            assert STAGGER_S <= trio.current_time() - begun < 2
            await upstream.aclose()
