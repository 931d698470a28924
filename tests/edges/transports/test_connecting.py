"""Connections that do not come to be: a ConnectError, and nothing was sent."""

from __future__ import annotations

import socket
from typing import Any

import httpx2
import pytest
import trio
import trustme

from creche.core.exchange import Call
from tests.edges.transports.conftest import WHOLE, Way, get, outcome, saying
from tests.edges.transports.peers import Peer


async def test_no_listener_is_a_connect_error(way: Way) -> None:
    """A refused connection is certain: nothing arrived."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with way.proxied(), way.transport() as transport:
            got = await outcome(transport, Call(method="POST", url=way.url(unused.getsockname()[1])))
    assert got == way.expected("refused", httpx2.ConnectError)


class Names:
    """Stands for the resolver, for the one name that it knows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
        self._real, self._addresses = socket.getaddrinfo, addresses
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)

    def getaddrinfo(self, host: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the one it stands for
        if host not in {"provider.test", b"provider.test"}:
            return self._real(host, *args, **kwargs)
        if kwargs.get("flags", 0) & socket.AI_NUMERICHOST or not self._addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found for address in self._addresses for found in self._real(address, *args, **kwargs)]


async def test_an_unknown_name_is_a_connect_error(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the resolver does not know."""
    Names(monkeypatch, [])
    async with way.proxied(), way.transport() as transport:
        got = await outcome(transport, Call(method="POST", url=way.url(80, "provider.test")))
    assert got == way.expected("unresolvable", httpx2.ConnectError)


async def test_another_family_is_tried(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens on the first address of a name, the next one is tried."""
    Names(monkeypatch, ["::1", "127.0.0.1"])
    context = way.server_context("provider.test")
    async with way.serving(saying(WHOLE), context=context) as origin, way.transport() as transport:
        assert (await get(transport, origin.replace("127.0.0.1", "provider.test"))).body == b"ok"


async def test_ipv6_addresses_can_be_named(way: Way) -> None:
    """A literal in brackets, as Host and in the certificate too."""
    heads = []

    async def handler(peer: Peer) -> None:
        request = await peer.request()
        if request is not None:
            heads.append(request[0])
            await peer.say(WHOLE)

    async with way.serving(handler, host="::1") as origin, way.transport() as transport:
        assert (await get(transport, origin)).body == b"ok"
    assert f"\r\nHost: {origin.partition('://')[2]}\r\n".encode() in heads[0]


@pytest.mark.parametrize("case", ["stranger", "other-name", "no-tls", "close", "reset"])
async def test_tls_that_cannot_be_trusted_is_a_connect_error(secure: Way, case: str) -> None:
    """A certificate of an unknown authority or for another name, no TLS at all, or an end in the handshake."""
    requests = []

    async def handler(peer: Peer) -> None:
        requests.append(await peer.request())

    async def no_tls(peer: Peer) -> None:
        await peer.stream.receive_some(1)
        if case == "no-tls":
            await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif case == "reset":
            peer.reset()

    stranger = Way(secure.kind, tls=True, authority=trustme.CA())
    without = Way(secure.kind, tls=False, authority=secure.authority)
    server = {"stranger": stranger, "other-name": secure}.get(case, without)
    context = secure.server_context("other.test") if case == "other-name" else None
    async with server.serving(handler if server.tls else no_tls, context=context) as origin:
        secure._proxy = server._proxy
        async with secure.transport() as transport:
            call = Call(method="POST", url=origin.replace("http:", "https:"))
            assert await outcome(transport, call) is httpx2.ConnectError
            assert transport.statistics().origins == {}
    assert requests == []


async def test_an_unused_connection_is_none_of_ours(way: Way) -> None:
    """A provider that closes each connection at once, before the request can come, never has it twice."""
    opened = 0

    async def handler(peer: Peer) -> None:
        nonlocal opened
        opened += 1
        peer.reset()
        await trio.lowlevel.checkpoint()

    async with way.serving(handler) as origin, way.transport() as transport:
        got = await outcome(transport, Call(method="GET", url=origin))
    assert got in {httpx2.ReadError, httpx2.WriteError, httpx2.ConnectError}
    assert opened == 1
