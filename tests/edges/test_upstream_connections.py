"""How `Upstream` keeps, shares, secures and gives up its connections, also when cancelled anywhere."""

from __future__ import annotations

import itertools
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import trio
import trio.testing
import trustme

from creche.core.exchange import Answer, Call
from creche.edges.upstream import Upstream
from creche.edges.upstream_connection import STAGGER_S

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Handler = Callable[[Stream], Awaitable[None]]


@asynccontextmanager
async def provider(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """For 10 s at most: a server that does `handler` with each connection, then closes it. Gives its port."""

    async def guarded(stream: Stream) -> None:
        try:
            await handler(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(stream)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            if context is None:
                nursery.start_soon(trio.serve_listeners, guarded, [listener])
            else:
                secured = trio.SSLListener(listener, context, https_compatible=True)
                nursery.start_soon(trio.serve_listeners, guarded, [secured])
            yield port
            nursery.cancel_scope.cancel()


class Requests:
    """Reads whole requests from a stream, one after another: the target and the body of each."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._data = b""

    async def next(self) -> tuple[str, bytes] | None:
        while b"\r\n\r\n" not in self._data:
            if not await self._more():
                return None
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0].partition(b":")[2]) if lengths else 0
        while len(self._data) < length:
            if not await self._more():
                return None
        body, self._data = self._data[:length], self._data[length:]
        return head.split(b" ")[1].decode(), body

    async def _more(self) -> bool:
        more = await self._stream.receive_some()
        self._data += more
        return bool(more)


def whole(body: str | bytes, *fields: bytes) -> bytes:
    """An answer with this body."""
    data = body.encode() if isinstance(body, str) else body
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(data), *fields, b"", data])


class Counting:
    """Answers each request with the number of its connection; `then` is what it does after each answer."""

    def __init__(self, then: Handler | None = None, *, fields: tuple[bytes, ...] = (), surplus: bytes = b"") -> None:
        self._then = then
        self._fields = fields
        self._surplus = surplus
        self.connections = 0
        self.requests = 0

    async def __call__(self, stream: Stream) -> None:
        self.connections += 1
        number = str(self.connections)
        requests = Requests(stream)
        while await requests.next() is not None:
            self.requests += 1
            await stream.send_all(whole(number, *self._fields) + self._surplus)
            if self._then is not None:
                await self._then(stream)


def counts(upstream: Upstream) -> tuple[int, int, int]:
    """Open, idle and waiting, over all origins."""
    origins = upstream.statistics().origins.values()
    return sum(o.open for o in origins), sum(o.idle for o in origins), sum(o.waiting for o in origins)


async def get(upstream: Upstream, port: int, target: str = "/", *, fresh: bool = False) -> str:
    """The body of the answer to a GET."""
    call = Call(method="GET", url=f"http://127.0.0.1:{port}{target}", fresh=fresh)
    return (await upstream.send(call, timeout_s=5)).body.decode()


# -- keeping -----------------------------------------------------------------------------------------


async def test_connections_are_kept() -> None:
    """Calls one after another use one connection; closing the transport closes it and refuses more."""
    upstream = Upstream()
    async with provider(Counting()) as port:
        assert [await get(upstream, port) for _ in range(3)] == ["1", "1", "1"]
        assert counts(upstream) == (1, 1, 0)
        await upstream.aclose()
        assert counts(upstream) == (0, 0, 0)
        with pytest.raises(httpx2.PoolTimeout):
            await get(upstream, port)


async def test_connection_of_a_call_under_way_is_closed_after_aclose() -> None:
    """A call that is under way when the transport closes still gets its answer; nothing stays open."""
    answer = trio.Event()

    async def handler(stream: Stream) -> None:
        await Requests(stream).next()
        await answer.wait()
        await stream.send_all(whole("late"))
        await trio.sleep_forever()

    upstream = Upstream()
    async with provider(handler) as port, trio.open_nursery() as nursery:
        got = []

        async def ask() -> None:
            got.append(await get(upstream, port))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await upstream.aclose()
        answer.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert (got, counts(upstream)) == (["late"], (0, 0, 0))


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(Counting(fields=(b"Connection: close",)), id="close"),
        pytest.param(Counting(surplus=b"HTTP/1.1 200"), id="part-of-another-answer"),
        pytest.param(Counting(surplus=whole("0")), id="another-answer"),
        pytest.param(Counting(fields=(b"Connection: close",), surplus=b"x"), id="close-and-garbage"),
    ],
)
async def test_connections_that_cannot_be_trusted_are_not_kept(server: Counting) -> None:
    """Where the provider wants to close, or said more than the answer, the next call has another connection."""
    upstream = Upstream()
    async with provider(server) as port:
        assert [await get(upstream, port) for _ in range(2)] == ["1", "2"]
        assert counts(upstream) == (0, 0, 0)


async def test_late_garbage_is_seen_before_the_next_call() -> None:
    """Bytes that come while a connection is idle are no answer to the next request."""

    async def late(stream: Stream) -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        await stream.send_all(whole("0"))

    upstream = Upstream()
    async with provider(Counting(late)) as port:
        assert await get(upstream, port) == "1"
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert await get(upstream, port) == "2"
        await upstream.aclose()


async def close(stream: Stream) -> None:
    """End the connection."""
    await stream.aclose()


async def test_closed_idle_connections_are_seen_before_the_next_call() -> None:
    """A POST is not lost to connections that the provider has closed meanwhile: they are skipped."""
    gate = trio.Event()

    async def close_later(stream: Stream) -> None:
        await gate.wait()
        await stream.aclose()

    upstream = Upstream()
    server = Counting(close_later)
    async with provider(server) as port:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(get, upstream, port)
        assert counts(upstream) == (3, 3, 0)
        gate.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        answer = await upstream.send(Call(method="POST", url=f"http://127.0.0.1:{port}"), timeout_s=5)
        assert (answer.body, server.requests) == (b"4", 4)
        await upstream.aclose()


async def test_old_connections_are_not_used_again() -> None:
    """What was idle for too long is closed when a call would use it, or when there is traffic to anywhere."""
    upstream = Upstream(idle_s=0.02)
    async with provider(Counting()) as port, provider(Counting(fields=(b"Connection: close",))) as other:
        assert await get(upstream, port) == "1"
        await trio.sleep(0.03)
        assert await get(upstream, port) == "2"
        await trio.sleep(0.03)
        await get(upstream, other)
        assert counts(upstream) == (0, 0, 0)


async def test_fresh_calls_have_a_new_connection() -> None:
    """A call that must not be repeated never uses a kept connection; its own may be used by others after it."""
    upstream = Upstream()
    async with provider(Counting()) as port:
        assert [await get(upstream, port, fresh=fresh) for fresh in (False, True, False, True)] == ["1", "2", "2", "3"]
        await upstream.aclose()


# -- repeating ---------------------------------------------------------------------------------------


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
        with pytest.raises(httpx2.RemoteProtocolError):
            await upstream.send(Call(method=method, url=f"http://127.0.0.1:{port}"), timeout_s=5)
    assert (server.requests, counts(upstream)) == (requests, (0, 0, 0))


# -- sharing -----------------------------------------------------------------------------------------


async def test_limit_holds_and_the_line_is_in_order() -> None:
    """No more requests are at the provider at once than the limit, and the others get their turn as they came."""
    at_once, most, order = 0, 0, []

    async def handler(stream: Stream) -> None:
        nonlocal at_once, most
        requests = Requests(stream)
        while (request := await requests.next()) is not None:
            at_once += 1
            most = max(most, at_once)
            order.append(int(request[0][1:]))
            await trio.testing.wait_all_tasks_blocked()
            at_once -= 1
            await stream.send_all(whole("ok"))

    upstream = Upstream(connections_per_origin=2)
    async with provider(handler) as port:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(get, upstream, port, f"/{number}")
                await trio.lowlevel.checkpoint()
            assert counts(upstream)[2] >= 17
        assert (most, counts(upstream)) == (2, (2, 2, 0))
        await upstream.aclose()
    assert max(abs(place - number) for place, number in enumerate(order)) <= 1


async def test_new_connection_takes_the_place_of_the_oldest_idle_one() -> None:
    """Idle connections count towards the limit, but never stand in the way."""
    upstream = Upstream(connections_per_origin=2)
    async with provider(Counting()) as port:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(get, upstream, port)
        for fresh in ("3", "4", "5"):
            assert await get(upstream, port, fresh=True) == fresh
            assert counts(upstream) == (2, 2, 0)
        await upstream.aclose()


# -- addresses ---------------------------------------------------------------------------------------


class Resolver(trio.abc.HostnameResolver):
    """Says where `provider.test` is, and counts how often it was asked."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports
        self.asked = 0

    async def getaddrinfo(self, host: bytes | str | None, *_: object, **__: object) -> list[tuple[object, ...]]:  # type: ignore[override]
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if host != b"provider.test":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in self.ports]

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        raise AssertionError


def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def test_names_are_looked_up_once() -> None:
    """A crowd of new connections shares one lookup, and later ones use its answer, until connecting fails."""
    upstream = Upstream()
    call = Call(method="GET", url="http://provider.test/", fresh=True)
    async with provider(Counting()) as port:
        resolver = Resolver(port)
        trio.socket.set_custom_hostname_resolver(resolver)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(lambda: upstream.send(call, timeout_s=5))
        await upstream.send(call, timeout_s=5)
        assert resolver.asked == 1
        await upstream.aclose()

    upstream = Upstream()
    trio.socket.set_custom_hostname_resolver(resolver)
    for asked in (2, 3):
        with pytest.raises(httpx2.ConnectError):
            await upstream.send(call, timeout_s=5)
        assert resolver.asked == asked


async def test_unknown_name_is_a_connect_error() -> None:
    """A name that cannot be looked up is certain: nothing arrived."""
    trio.socket.set_custom_hostname_resolver(Resolver())
    with pytest.raises(httpx2.ConnectError, match=r"http://other\.test:80: .*no such name"):
        await Upstream().send(Call(method="POST", url="http://other.test/"), timeout_s=5)


async def test_next_address_is_tried_when_one_fails_or_hangs() -> None:
    """An address that refuses costs nothing, one that does not answer costs a quarter of a second."""
    upstream = Upstream()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as filler:
        # With its backlog taken, Linux leaves further connections without an answer.
        filler.connect(full.getsockname())
        async with provider(Counting()) as port:
            trio.socket.set_custom_hostname_resolver(Resolver(unused_port(), full.getsockname()[1], port))
            begun = trio.current_time()
            assert (await upstream.send(Call(method="GET", url="http://provider.test"), timeout_s=5)).body == b"1"
            assert STAGGER_S <= trio.current_time() - begun < 2
            await upstream.aclose()


# -- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the certificates of these tests."""
    return trustme.CA()


def server_context(authority: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    """The server's side."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """A client that trusts the authority of the tests and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


async def test_tls_by_the_system_certificates(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a context the transport trusts the system's authorities, asks for HTTP/1.1 and keeps connections."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    protocols = []

    async def note(stream: Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        protocols.append(stream.selected_alpn_protocol())

    upstream = Upstream()
    async with provider(Counting(note), server_context(authority)) as port:
        call = Call(method="GET", url=f"https://127.0.0.1:{port}/")
        assert [(await upstream.send(call, timeout_s=5)).body for _ in range(3)] == [b"1", b"1", b"1"]
        await upstream.aclose()
    assert protocols == ["http/1.1"] * 3


@pytest.mark.parametrize("tls", [False, True])
async def test_large_bodies_pass_whole_both_ways(authority: trustme.CA, *, tls: bool) -> None:
    """Bodies larger than any buffer arrive as they were sent."""

    async def echo(stream: Stream) -> None:
        requests = Requests(stream)
        while (request := await requests.next()) is not None:
            await stream.send_all(whole(request[1]))

    upstream = Upstream(ssl_context=client_context(authority))
    body = b"".join(number.to_bytes(4, "big") for number in range(3 << 18))
    async with provider(echo, server_context(authority) if tls else None) as port:
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
        for _ in range(2):
            assert (await upstream.send(Call(method="POST", url=url, body=body), timeout_s=10)).body == body
        assert counts(upstream) == (1, 1, 0)
        await upstream.aclose()


@pytest.mark.parametrize("case", ["stranger", "other-name", "no-tls"])
async def test_tls_that_cannot_be_trusted_is_a_connect_error(authority: trustme.CA, case: str) -> None:
    """A certificate of an unknown authority or for another name, or no TLS at all: nothing of the request is sent."""
    context = {
        "stranger": server_context(trustme.CA()),
        "other-name": server_context(authority, "other.test"),
        "no-tls": None,
    }[case]

    async def hello(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    upstream = Upstream(ssl_context=client_context(authority))
    async with provider(hello, context) as port:
        with pytest.raises(httpx2.ConnectError):
            await upstream.send(Call(method="POST", url=f"https://127.0.0.1:{port}/"), timeout_s=5)
    assert counts(upstream) == (0, 0, 0)


# -- cancelling --------------------------------------------------------------------------------------


def open_files() -> int:
    """How many this process has, sockets included."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True])
async def test_cancelled_anywhere_nothing_leaks_and_answers_never_mix(authority: trustme.CA, *, tls: bool) -> None:
    """Many calls for two connections, cancelled at random moments: each answer is its own call's; in the end all slots
    are free, calls work, and no socket is left open.
    """
    chance = random.Random(7)  # noqa: S311 - nobody must be kept from guessing

    async def echo(stream: Stream) -> None:
        requests = Requests(stream)
        while (request := await requests.next()) is not None:
            data = whole(request[0])
            cut = chance.randrange(len(data))
            await stream.send_all(data[:cut])
            if chance.random() < 0.3:
                await trio.sleep(chance.random() / 500)
            await stream.send_all(data[cut:])

    upstream = Upstream(connections_per_origin=2, ssl_context=client_context(authority))
    numbers = itertools.count()
    answered = cancelled = 0
    end = trio.current_time() + 1.5
    before = open_files()

    async def ask(port: int) -> None:
        nonlocal answered, cancelled
        while trio.current_time() < end:
            target = f"/{next(numbers)}"
            call = Call(
                method=chance.choice(["GET", "POST"]),
                url=f"{'https' if tls else 'http'}://127.0.0.1:{port}{target}",
                body=None if chance.random() < 0.9 else bytes(300_000),
                fresh=chance.random() < 0.1,
            )
            answer: Answer | None = None
            with trio.move_on_after(chance.random() * chance.choice([0.002, 0.02, 0.2])):
                answer = await upstream.send(call, timeout_s=chance.choice([0.5, 60]))
            if answer is None:
                cancelled += 1
            else:
                answered += 1
                assert answer.body == target.encode()
            opened, idle, _ = counts(upstream)
            assert idle <= opened <= 2

    async with provider(echo, server_context(authority) if tls else None) as port:
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask, port)
        opened, idle, waiting = counts(upstream)
        assert (opened, waiting) == (idle, 0)
        assert min(answered, cancelled) > 20
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/after"
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(lambda: upstream.send(Call(method="GET", url=url), timeout_s=5))
        await upstream.aclose()
        assert counts(upstream) == (0, 0, 0)
    assert open_files() <= before
