"""What only a proxy can do to a call: refuse it, want a password, be reached by TLS, break before the tunnel stands."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator

import httpx2
import pytest
import trio
import trio.testing
import trustme

from creche.core.exchange import Call
from creche.edges.upstream_httpx import HttpxUpstream
from tests.edges.transports.conftest import WHOLE, Handler, Way, get, outcome, saying, stay
from tests.edges.transports.peers import Peer, relay, serve

USER = "me%40home:ge%3Aheim@"
CREDENTIALS = b"Proxy-Authorization: Basic " + base64.b64encode(b"me@home:ge:heim")


@pytest.fixture(params=["plain", "tls"])
def provider(request: pytest.FixtureRequest, authority: trustme.CA) -> Way:
    """Providers with and without TLS."""
    return Way("httpx2", tls=request.param == "tls", authority=authority)


@contextlib.asynccontextmanager
async def by(provider: Way, proxy: str) -> AsyncIterator[HttpxUpstream]:
    """A transport by this proxy, which leaves nothing in use."""
    transport = HttpxUpstream(proxy=proxy, make_context=provider.client_context)
    yield transport
    await transport.aclose()
    assert transport.statistics().origins == {}


class Noting:
    """A relay that keeps the heads that it was asked with."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        head = await peer.head()
        if head is not None:
            self.heads.append(head)
            peer._data = head + b"\r\n\r\n" + peer._data
            await relay(peer)


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http-proxy", "https-proxy"])
async def test_providers_are_reached_by_either_kind_of_proxy(provider: Way, *, proxy_tls: bool) -> None:
    """By TLS within TLS too; user and password are told to the proxy, and the tunnel's far end never sees them."""
    noting, seen = Noting(), []

    async def handler(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            seen.append(request)
            await peer.say(WHOLE)

    context = provider.server_context() if proxy_tls else None
    async with (
        provider.serving(handler) as origin,
        serve(noting, context) as port,
        by(provider, f"{'https' if proxy_tls else 'http'}://{USER}127.0.0.1:{port}") as transport,
    ):
        for _ in range(3):
            call = Call(method="POST", url=f"{origin}/a?b", body=bytes(100_000))
            assert await outcome(transport, call) == (200, b"ok")
        assert [(o.open, o.idle) for o in transport.statistics().origins.values()] == [(1, 1)]
    where = origin.partition("://")[2].encode()
    assert len(noting.heads) == 1
    assert CREDENTIALS in noting.heads[0].split(b"\r\n")
    if provider.tls:
        assert noting.heads[0].startswith(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n" % (where, where))
        assert b"geheim" not in noting.heads[0]
        assert all(b"Proxy-" not in head for head, _ in seen)
    else:
        assert noting.heads[0].startswith(b"POST http://%s/a?b HTTP/1.1\r\n" % where)
    assert [body for _, body in seen] == [bytes(100_000)] * 3


async def test_ipv6_providers_are_named_in_brackets(authority: trustme.CA) -> None:
    """The target of a CONNECT is a host and a port."""
    provider, noting = Way("httpx2", tls=True, authority=authority), Noting()
    async with (
        provider.serving(saying(WHOLE), host="::1") as origin,
        serve(noting) as port,
        by(provider, f"http://127.0.0.1:{port}") as transport,
    ):
        assert (await get(transport, origin)).body == b"ok"
    assert noting.heads[0].startswith(b"CONNECT [::1]:")


@pytest.mark.parametrize(
    "status", [b"407 Proxy Authentication Required", b"403 Forbidden", b"502 Bad Gateway", b"300 X"]
)
async def test_a_proxy_that_refuses_the_tunnel_is_a_connect_error(authority: trustme.CA, status: bytes) -> None:
    """Nothing was sent; what it says is told, and no password."""
    provider = Way("httpx2", tls=True, authority=authority)
    refusing = saying(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nno", stay)
    async with serve(refusing) as port, by(provider, f"http://{USER}127.0.0.1:{port}") as transport:
        with pytest.raises(httpx2.ConnectError, match=f"the proxy refuses: {status.decode()}") as caught:
            await get(transport, "https://provider.test/", method="POST")
    assert "heim" not in str(caught.value)


async def test_a_proxy_that_wants_a_password_for_an_http_provider_is_a_connect_error(authority: trustme.CA) -> None:
    """407 is never a provider's answer: nothing was passed on."""
    provider = Way("httpx2", tls=False, authority=authority)
    refusing = saying(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", stay)
    async with serve(refusing) as port, by(provider, f"http://127.0.0.1:{port}") as transport:
        with pytest.raises(httpx2.ConnectError, match="the proxy refuses: 407"):
            await get(transport, "http://provider.test/", method="POST")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="close"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", id="cut"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="ssh"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX\r\n\r\n", id="broken-head"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nthis is no TLS", id="no-tls-behind"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="close-behind"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, id="endless-head"),
    ],
)
async def test_a_proxy_that_breaks_before_the_tunnel_stands_is_a_connect_error(
    authority: trustme.CA, said: bytes
) -> None:
    """Whatever it says or leaves unsaid then: the request was not sent."""
    provider = Way("httpx2", tls=True, authority=authority)
    async with serve(saying(said)) as port, by(provider, f"http://{USER}127.0.0.1:{port}") as transport:
        with pytest.raises(httpx2.ConnectError) as caught:
            await get(transport, "https://provider.test/", method="POST")
    assert "heim" not in str(caught.value)


async def test_a_silent_proxy_is_a_connect_timeout(authority: trustme.CA, mock_clock: trio.testing.MockClock) -> None:
    """Before the tunnel stands, time is that of connecting."""
    provider, reached = Way("httpx2", tls=True, authority=authority), trio.Event()

    async def silent(peer: Peer) -> None:
        await peer.head()
        reached.set()
        await stay(peer)

    async with serve(silent) as port, by(provider, f"http://127.0.0.1:{port}") as transport:
        got = []

        async def ask() -> None:
            got.append(await outcome(transport, Call(method="GET", url="https://provider.test/")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await reached.wait()
            mock_clock.jump(11)
    assert got == [httpx2.ConnectTimeout]


@pytest.mark.parametrize("case", ["stranger", "no-tls", "refused"])
async def test_a_proxy_that_cannot_be_reached_is_a_connect_error(provider: Way, case: str) -> None:
    """A proxy is trusted by the same certificates as providers are."""
    context = Way("httpx2", tls=True, authority=trustme.CA()).server_context() if case == "stranger" else None
    heads: list[object] = []

    async def handler(peer: Peer) -> None:
        heads.append(peer if case == "stranger" else await peer.stream.receive_some(1))

    serving: Handler = handler
    async with serve(serving, context) as port:
        where = 1 if case == "refused" else port
        async with by(provider, f"https://{USER}127.0.0.1:{where}") as transport:
            with pytest.raises(httpx2.ConnectError) as caught:
                await get(transport, provider.url(80, "provider.test"), method="POST")
    assert "heim" not in str(caught.value)
    assert case == "no-tls" or heads == []
