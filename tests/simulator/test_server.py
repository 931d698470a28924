"""The simulator's server, on real sockets."""

from __future__ import annotations

import socket
from functools import partial

import msgspec
import pytest
import trio

from creche.simulator import Reply, Simulator, serve
from creche.simulator.server import MAX_BODY_BYTES, MAX_HEAD_BYTES
from tests.simulator.conftest import LIMIT_S, connected

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def _assert_serving(url: str) -> None:
    async with connected(url) as client:
        answer = await client.ask(HEALTH)
        assert answer is not None
        assert answer.status == 200


def _post(body: bytes, headers: bytes = b"") -> bytes:
    return b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (headers, len(body), body)


async def test_a_connection_serves_many_requests(url: str) -> None:
    """Kept alive, also when requests come in one piece, or byte by byte, until the client asks to close."""
    with trio.fail_after(LIMIT_S):
        async with connected(url) as client:
            await client.stream.send_all(HEALTH + _post(b'{"prompt": 1}') + HEALTH)
            for byte in _post(b"7"):
                await client.stream.send_all(bytes([byte]))
            answers = [await client.answer() for _ in range(4)]
            assert [answer and answer.status for answer in answers] == [200, 201, 200, 201]
            last = await client.ask(HEALTH.replace(b"Host: x", b"Connection: close"))
            assert last is not None
            assert last.headers["connection"] == "close"
            assert await client.answer() is None


async def test_a_head_request_is_answered_without_a_body(url: str) -> None:
    """The next answer on the connection is where the client expects it."""
    with trio.fail_after(LIMIT_S):
        async with connected(url) as client:
            first = await client.ask(b"HEAD /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n")
            second = await client.ask(HEALTH)
            assert first is not None
            assert second is not None
            assert (first.status, second.body) == (404, b'{"ok":true}')


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
        (b"POST /v1/jobs HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (MAX_HEAD_BYTES + MAX_BODY_BYTES), 413),
    ],
    ids=["tls", "version", "upgrade", "lengths", "header", "url", "body"],
)
async def test_a_bad_request_ends_its_connection_only(url: str, request_bytes: bytes, status: int) -> None:
    """It is answered and its connection closed; the next connection is served."""
    with trio.fail_after(LIMIT_S):
        async with connected(url) as client:
            answer = await client.ask(request_bytes)
            assert answer is not None
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert await client.answer() is None
        await _assert_serving(url)


async def test_large_outputs_reach_slow_readers(url: str) -> None:
    """More than the socket takes at once arrives whole, and holds nobody else up."""
    text = "x" * 8_000_000
    body = msgspec.json.encode({"prompt": text, "simulate": {"queue": "0s", "run": "0s"}})
    with trio.fail_after(LIMIT_S):
        async with connected(url) as slow:
            await slow.stream.send_all(_post(body))
            await _assert_serving(url)
            answer = await slow.answer()
            assert answer is not None
            assert msgspec.json.decode(answer.body)["output"] == text


async def test_clients_that_go_away_do_no_harm(url: str) -> None:
    """Before, within and after a request, with its answer on the way."""
    with trio.fail_after(LIMIT_S):
        for sent in (b"", b"POST /v1/jobs HT", _post(b'{"simulate": {"latency": "30ms"}}')):
            async with connected(url) as client:
                if sent:
                    await client.stream.send_all(sent)
                client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset on close
        await _assert_serving(url)


async def test_a_defect_ends_its_connection_only(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of the rules is logged; the server goes on."""

    def broken(*_: object) -> Reply:
        raise RuntimeError("a defect")

    with trio.fail_after(LIMIT_S):
        with monkeypatch.context() as patch:
            patch.setattr(Simulator, "handle", broken)
            async with connected(url) as client:
                assert await client.ask(HEALTH) is None
        assert "a request could not be answered" in caplog.text
        await _assert_serving(url)


async def test_the_server_speaks_ipv6(nursery: trio.Nursery) -> None:
    """Its URL has the address in brackets."""
    with trio.fail_after(LIMIT_S):
        url = await nursery.start(partial(serve, host="::1"))
        assert url.startswith("http://[::1]:")
        await _assert_serving(url)
