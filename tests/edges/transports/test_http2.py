"""HTTP/2: what the other tests hold for HTTP/1.1."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from creche.core.exchange import Call
from tests.edges.transports.conftest import Outcome, get, outcome
from tests.edges.transports.h2_peer import H2Request, H2Server, H2Way, echo

Handler = Callable[[H2Request], Awaitable[None]]


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
