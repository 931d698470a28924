"""HTTP/2: what the other tests hold for HTTP/1.1, and what only requests that share a connection can do to others."""

from __future__ import annotations

import contextlib
import gzip
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import h2.settings
import httpx2
import pytest
import trio
import trio.testing
import trustme

from creche.core.exchange import Call
from creche.edges.upstream_httpx import HttpxUpstream
from tests.edges.transports.conftest import WHOLE, Outcome, Way, get, outcome
from tests.edges.transports.h2_peer import H2Request, H2Server
from tests.edges.transports.peers import Peer, relay, serve

Handler = Callable[[H2Request], Awaitable[None]]


class H2Way:
    """Makes providers that speak HTTP/2, and transports that want it; straight or through a proxy."""

    def __init__(self, authority: trustme.CA, *, proxied: bool) -> None:
        self._way = Way("httpx2", tls=True, authority=authority)
        self._authority = authority
        self._proxied = proxied
        self._proxy: str | None = None

    @contextlib.asynccontextmanager
    async def serving(
        self, handler: Callable[[Peer], Awaitable[None]], *, protocols: tuple[str, ...] = ("h2", "http/1.1")
    ) -> AsyncIterator[str]:
        """A provider's origin."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert("127.0.0.1").configure_cert(context)
        context.set_alpn_protocols(list(protocols))
        async with serve(relay) as proxy, serve(handler, context) as port:
            self._proxy = f"http://127.0.0.1:{proxy}" if self._proxied else None
            yield self._way.url(port)

    @contextlib.asynccontextmanager
    async def transport(self, **limits: int) -> AsyncIterator[HttpxUpstream]:
        """A transport, after which nothing may be in use."""
        made = HttpxUpstream(
            http2=True,
            proxy=self._proxy,
            make_context=self._way.client_context,
            **limits,
        )
        yield made
        await made.aclose()
        assert made.statistics().origins == {}


@pytest.fixture(params=["straight", "proxied"])
def h2way(request: pytest.FixtureRequest, authority: trustme.CA) -> H2Way:
    """Straight and through a proxy's tunnel."""
    return H2Way(authority, proxied=request.param == "proxied")


async def echo(request: H2Request) -> None:
    """Answer with the path and the body."""
    await request.answer(request[":path"].encode() + b" " + request.body, ("x-path", request[":path"]))


async def test_requests_and_answers_pass_whole(h2way: H2Way) -> None:
    """Method, target, host, headers and large bodies both ways; over one connection, one after another."""
    seen: list[list[tuple[str, str]]] = []

    async def handler(request: H2Request) -> None:
        seen.append(request.headers)
        await request.answer(request.body, ("x-place", "1"), ("x-place", "2"), status="201")

    server, body = H2Server(handler), bytes(range(256)) * 10_000
    async with h2way.serving(server) as origin, h2way.transport() as transport:
        for sent in (body, b"", b"{}"):
            call = Call(method="POST", url=f"{origin}/a?b=c#d", headers=(("X-Key", "k"),), body=sent)
            answer = await transport.send(call, timeout_s=20)
            assert (answer.status, dict(answer.headers), answer.body) == (201, {"x-place": "2"}, sent)
        head = await get(transport, origin, method="HEAD")
        assert (head.status, head.body) == (201, b"")
    assert len(server.connections) == 1
    assert seen[0] == [
        (":method", "POST"),
        (":authority", origin.partition("://")[2]),
        (":scheme", "https"),
        (":path", "/a?b=c"),
        ("x-key", "k"),
        ("accept-encoding", "identity"),
        ("content-length", str(len(body))),
    ]


async def test_coded_bodies_are_decoded(h2way: H2Way) -> None:
    """As over HTTP/1.1, and with the same limits."""

    async def handler(request: H2Request) -> None:
        await request.answer(gzip.compress(b"x" * 2000), ("content-encoding", "gzip"))

    async with h2way.serving(H2Server(handler)) as origin:
        async with h2way.transport() as transport:
            assert (await get(transport, origin)).body == b"x" * 2000
        async with h2way.transport(max_body_bytes=1000) as transport:
            assert await outcome(transport, Call(method="GET", url=origin)) is httpx2.RemoteProtocolError


async def test_a_crowd_shares_one_connection(h2way: H2Way) -> None:
    """Also when all come before it is made; a call that must not be repeated has one of its own."""
    server = H2Server(echo)
    async with h2way.serving(server) as origin, h2way.transport() as transport:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(get, transport, origin)
        assert len(server.connections) == 1
        await get(transport, origin, fresh=True)
        assert len(server.connections) == 2
        assert [(o.open, o.idle) for o in transport.statistics().origins.values()] == [(2, 2)]


async def test_a_provider_without_http2_is_asked_in_http_1(h2way: H2Way) -> None:
    """Then every request has a connection of its own, as ever, and none waits for another."""
    connections, gate = [], trio.Event()

    async def handler(peer: Peer) -> None:
        connections.append(peer)
        while await peer.request() is not None:
            if len(connections) == 3:
                gate.set()
            await gate.wait()
            await peer.say(WHOLE)

    async with h2way.serving(handler, protocols=("http/1.1",)) as origin, h2way.transport() as transport:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(get, transport, origin)
        assert (await get(transport, origin)).body == b"ok"
    assert len(connections) == 3


async def test_fewer_streams_are_allowed_than_wanted(h2way: H2Way) -> None:
    """The provider's limit holds; the others get their turn."""
    at_once = most = 0

    async def handler(request: H2Request) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(0.002)
        at_once -= 1
        await echo(request)

    server = H2Server(handler, {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 3})
    async with h2way.serving(server) as origin, h2way.transport() as transport, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(get, transport, origin)
    assert most <= 3


async def reset(request: H2Request) -> None:
    await request.reset()


async def reset_in_answer(request: H2Request) -> None:
    await request.answer(b"beg", end=False)
    await request.reset()


async def close(request: H2Request) -> None:
    await request.connection.peer.stream.aclose()


async def close_in_answer(request: H2Request) -> None:
    await request.answer(b"beg", end=False)
    await close(request)


async def break_off(request: H2Request) -> None:
    request.connection.peer.reset()


async def go_away(request: H2Request) -> None:
    request.connection.state.close_connection(2)
    await request.connection.flush()


async def garbage(request: H2Request) -> None:
    await request.connection.peer.say(bytes(9))  # a piece of a body for no request


async def garbage_in_answer(request: H2Request) -> None:
    await request.answer(b"beg", end=False)
    await garbage(request)


async def too_much(request: H2Request) -> None:
    await request.answer(b"x" * 5000)


async def announced_too_much(request: H2Request) -> None:
    await request.answer(b"", ("content-length", "5000"), end=False)


async def endless_headers(request: H2Request) -> None:
    await request.answer(b"ok", *[("x", "y" * 1000)] * 100)


async def no_status(request: H2Request) -> None:
    await request.answer(b"ok", status="abc")


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (reset, httpx2.ReadError),
        (reset_in_answer, httpx2.ReadError),
        (close, httpx2.ReadError),
        (close_in_answer, httpx2.ReadError),
        (break_off, httpx2.ReadError),
        (go_away, httpx2.ReadError),
        (garbage, httpx2.RemoteProtocolError),
        (garbage_in_answer, httpx2.RemoteProtocolError),
        (too_much, httpx2.RemoteProtocolError),
        (announced_too_much, httpx2.RemoteProtocolError),
        (endless_headers, httpx2.RemoteProtocolError),
        (no_status, httpx2.RemoteProtocolError),
    ],
)
async def test_errors_are_the_same_as_over_http_1(h2way: H2Way, handler: Handler, expected: Outcome) -> None:
    """What ends an exchange makes the class of the error, not the protocol; the next call is none the worse."""
    first = True

    async def once(request: H2Request) -> None:
        nonlocal first
        if first:
            first = False
            await handler(request)
        else:
            await echo(request)

    async with h2way.serving(H2Server(once)) as origin, h2way.transport(max_body_bytes=1000) as transport:
        call = Call(method="POST", url=f"{origin}/a", body=b"b")
        assert await outcome(transport, call) is expected
        assert await outcome(transport, call) == (200, b"/a b")


@pytest.mark.parametrize(("method", "requests"), [("GET", 3), ("POST", 2)])
async def test_a_kept_connection_may_be_lost(h2way: H2Way, method: str, requests: int) -> None:
    """A GET is sent once more, on a new connection; what may have had an effect is not."""

    async def handler(request: H2Request) -> None:
        if request.connection.number == 1 and server.requests > 1:
            await close(request)
        else:
            await echo(request)

    server = H2Server(handler)
    async with h2way.serving(server) as origin, h2way.transport() as transport:
        await get(transport, origin)
        got = await outcome(transport, Call(method=method, url=f"{origin}/a"))
        assert got == ((200, b"/a ") if method == "GET" else httpx2.ReadError)
    assert server.requests == requests


async def test_what_a_leaving_provider_did_not_look_at_is_sent_elsewhere(h2way: H2Way) -> None:
    """GOAWAY names the last request that it took: later ones, whatever they are, go over a new connection."""

    async def handler(request: H2Request) -> None:
        if request.connection.number == 1 and request.stream_id > 1:
            request.connection.state.close_connection(0, last_stream_id=1)
            await request.connection.flush()
        else:
            await echo(request)

    server = H2Server(handler)
    async with h2way.serving(server) as origin, h2way.transport() as transport:
        await get(transport, origin)
        assert await outcome(transport, Call(method="POST", url=f"{origin}/a", body=b"b")) == (200, b"/a b")
    assert len(server.connections) == 2


async def test_a_call_that_is_late_takes_nobody_with_it(h2way: H2Way, mock_clock: trio.testing.MockClock) -> None:
    """The others on its connection are answered; the next call has a new one."""
    gate, reached = trio.Event(), trio.Event()

    async def handler(request: H2Request) -> None:
        if request[":path"] == "/silent":
            reached.set()
            await trio.sleep_forever()
        if request[":path"] == "/patient":
            await gate.wait()
        await echo(request)

    server, got = H2Server(handler), {}
    async with h2way.serving(server) as origin, h2way.transport() as transport:
        await get(transport, origin)

        async def ask(path: str, timeout_s: float) -> None:
            got[path] = await outcome(transport, Call(method="GET", url=f"{origin}{path}"), timeout_s=timeout_s)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "/patient", 600)
            await trio.testing.wait_all_tasks_blocked(0)
            async with trio.open_nursery() as inner:
                inner.start_soon(ask, "/silent", 30)
                await reached.wait()
                mock_clock.jump(31)
            await ask("/next", 30)
            assert len(server.connections) == 2
            gate.set()
    assert got == {"/patient": (200, b"/patient "), "/silent": httpx2.ReadTimeout, "/next": (200, b"/next ")}


@pytest.mark.parametrize("seed", range(2))
async def test_random_cancels_under_contention(h2way: H2Way, seed: int) -> None:
    """Calls that share connections and are cancelled at random: no answer goes astray, no place is lost."""
    dice = random.Random(seed)  # noqa: S311 - chance, not secrecy
    ends = {"cancelled": 0, "answered": 0}

    async def handler(request: H2Request) -> None:
        if dice.random() < 0.3:
            await trio.sleep(dice.random() * 0.002)
        await echo(request)

    async with h2way.serving(H2Server(handler)) as origin, h2way.transport(connections_per_origin=20) as transport:

        async def caller(number: int) -> None:
            for turn in range(4):
                body = bytes(dice.choice([0, 10, 100_000]))
                call = Call(method="POST", url=f"{origin}/{number}-{turn}", body=body)
                with trio.move_on_after(dice.expovariate(1 / 0.2)):
                    got = await outcome(transport, call)
                    # A cancel in the middle of a write breaks TLS, and with it the exchanges that share it.
                    assert got in {(200, b"/%d-%d " % (number, turn) + body), httpx2.WriteError, httpx2.ReadError}
                    ends["answered"] += isinstance(got, tuple)
                    continue
                ends["cancelled"] += 1

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(caller, number)
        for found in transport.statistics().origins.values():
            assert (found.open - found.idle, found.waiting) == (0, 0)
        for number in range(20):
            assert await outcome(transport, Call(method="GET", url=f"{origin}/{number}")) == (200, b"/%d " % number)
    assert min(ends.values()) > 20
