"""One awkward provider, several ways to it: every transport, plain and with TLS, straight and through a proxy.

A test asks for `way` and gets each. All transports are made in `Way.transport`, and nowhere else. Where ways differ for
good reason, differences.py says so.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import msgspec
import pytest
import trio
import trustme

from creche.core.exchange import Answer, Call
from creche.edges.upstream import Upstream
from creche.edges.upstream_httpx import HttpxUpstream
from creche.edges.upstream_routes import Sends
from creche.engine.timetable import Timetable
from tests.edges.transports.differences import DIFFERENCES
from tests.edges.transports.h2_peer import H2Way
from tests.edges.transports.peers import Peer, relay, serve

Handler = Callable[[Peer], Awaitable[None]]
Transport = Upstream | HttpxUpstream
Outcome = tuple[int, bytes] | type[Exception]

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Way:
    """A kind of transport (`upstream`, `httpx2`, or `proxy`: httpx2 through one), and whether providers use TLS."""

    def __init__(self, kind: str, *, tls: bool, authority: trustme.CA) -> None:
        self.kind = kind
        self.tls = tls
        self.authority = authority
        self._proxy: str | None = None

    @property
    def name(self) -> str:
        """`proxy-plain` for example."""
        return f"{self.kind}-{'tls' if self.tls else 'plain'}"

    def client_context(self) -> ssl.SSLContext:
        """Trusts the authority of the tests and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context

    def server_context(self, host: str = "127.0.0.1") -> ssl.SSLContext:
        """Offers no protocol but HTTP/1.1."""
        return _server_context(self.authority, host)

    def url(self, port: int, host: str = "127.0.0.1") -> str:
        """Where a provider is that is no server of `serving`."""
        return f"{'https' if self.tls else 'http'}://{host}:{port}"

    @contextlib.asynccontextmanager
    async def serving(
        self, handler: Handler, *, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
    ) -> AsyncIterator[str]:
        """A provider that does `handler` with each connection, then closes it. Gives its origin."""
        context = (context or self.server_context(host)) if self.tls else None
        async with contextlib.AsyncExitStack() as stack:
            port = await stack.enter_async_context(serve(handler, context, host))
            await stack.enter_async_context(self.proxied())
            yield self.url(port, f"[{host}]" if ":" in host else host)

    @contextlib.asynccontextmanager
    async def proxied(self) -> AsyncIterator[None]:
        """The proxy, where the kind has one."""
        async with contextlib.AsyncExitStack() as stack:
            if self.kind == "proxy":
                self._proxy = f"http://127.0.0.1:{await stack.enter_async_context(serve(relay))}"
            yield

    @contextlib.asynccontextmanager
    async def transport(
        self,
        *,
        connections_per_origin: int = 8,
        idle_s: float = 60.0,
        max_body_bytes: int = 64 << 20,
        max_header_bytes: int = 64 << 10,
        connect_timeout_s: float = 10.0,
    ) -> AsyncIterator[Transport]:
        """A transport, closed at the end, when nothing of it may be in use any more."""
        made: Transport
        if self.kind == "upstream":
            timetable = Timetable()
            trio.lowlevel.spawn_system_task(timetable.run)
            made = Upstream(
                timetable=timetable,
                connections_per_origin=connections_per_origin,
                idle_s=idle_s,
                max_body_bytes=max_body_bytes,
                max_header_bytes=max_header_bytes,
                connect_timeout_s=connect_timeout_s,
                ssl_context=self.client_context(),
            )
        else:
            made = HttpxUpstream(
                proxy=self._proxy,
                connections_per_origin=connections_per_origin,
                idle_s=idle_s,
                max_body_bytes=max_body_bytes,
                max_header_bytes=max_header_bytes,
                connect_timeout_s=connect_timeout_s,
                make_context=self.client_context,
            )
        failure = None
        try:
            yield made
        except Exception as exc:  # noqa: BLE001 - raised again, after the transport is closed
            failure = exc
        await made.aclose()
        if failure is not None:
            raise failure
        assert made.statistics().origins == {}

    def expected(self, case: str, common: Outcome) -> Outcome:
        """What a case comes to here: what it comes to everywhere, but for declared differences."""
        for kinds, cases, outcome, _ in DIFFERENCES:
            if kinds & {self.kind, self.name} and case in cases:
                assert outcome != common, "a difference that is none"
                return outcome
        return common


@functools.lru_cache(maxsize=64)
def _server_context(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return context


async def outcome(transport: Sends, call: Call, *, timeout_s: float = 20.0) -> Outcome:
    """An answer's status and body, or the class of the error."""
    try:
        answer = await transport.send(call, timeout_s=timeout_s)
    except httpx2.HTTPError as exc:
        return type(exc)
    return answer.status, answer.body


async def ask(way: Way, handler: Handler, call: Call | None = None, **limits: int) -> Outcome:
    """What one call to a provider comes to; its URL is put before the call's."""
    call = call or Call(method="GET", url="/")
    async with way.serving(handler) as origin, way.transport(**limits) as transport:
        return await outcome(transport, msgspec.structs.replace(call, url=origin + call.url))


async def get(transport: Transport, url: str, *, method: str = "GET", fresh: bool = False) -> Answer:
    """A small call."""
    return await transport.send(Call(method=method, url=url, fresh=fresh), timeout_s=20)


class Calls:
    """Calls under way, and what they came to."""

    def __init__(self, nursery: trio.Nursery, transport: Transport) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self._nursery = nursery
        self._transport = transport

    def ask(self, origin: str, number: int) -> None:
        """Call `/number`."""
        self._nursery.start_soon(self._ask, Call(method="POST", url=f"{origin}/{number}"), number)

    async def _ask(self, call: Call, number: int) -> None:
        self.outcomes[number] = await outcome(self._transport, call)


def saying(raw: bytes, then: Handler | None = None) -> Handler:
    """Reads one request, says `raw`, does `then`, closes."""

    async def handler(peer: Peer) -> None:
        if await peer.request() is not None:
            await peer.say(raw)
            if then is not None:
                await then(peer)

    return handler


async def stay(peer: Peer) -> None:
    """Wait for the client to close."""
    await peer.until_end()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs the certificates of these tests."""
    return trustme.CA()


@pytest.fixture(params=["upstream", "httpx2", "proxy"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of transport."""
    return str(request.param)


@pytest.fixture(params=["plain", "tls"])
def way(request: pytest.FixtureRequest, kind: str, authority: trustme.CA) -> Way:
    """Each kind of transport, to providers with and without TLS."""
    return Way(kind, tls=request.param == "tls", authority=authority)


@pytest.fixture
def plain(kind: str, authority: trustme.CA) -> Way:
    """Each kind of transport, to providers without TLS."""
    return Way(kind, tls=False, authority=authority)


@pytest.fixture
def secure(kind: str, authority: trustme.CA) -> Way:
    """Each kind of transport, to providers with TLS."""
    return Way(kind, tls=True, authority=authority)


@pytest.fixture(params=["straight", "proxied"])
def h2way(request: pytest.FixtureRequest, authority: trustme.CA) -> H2Way:
    """Straight and through a proxy's tunnel."""
    return H2Way(authority, proxied=request.param == "proxied")
