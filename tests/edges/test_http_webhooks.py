"""One attempt at a real receiver: what it gets, and what is made of its answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
from standardwebhooks import Webhook

from creche.core.webhooks import Delivery, Endpoint, read_key
from creche.edges.http_webhooks import HttpSender
from creche.edges.upstream import Upstream

SECRET = "whsec_" + 12 * "bWFk"
BODY = '{"type":"task.succeeded","data":{"ä":1.50}}'.encode()
DELIVERY = Delivery(id="t.e", task="t", endpoint="e", body=BODY, since=0.0, due_at=0.0)


class Receiver:
    """Answers every request on a port of its own with `answer`."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        self.port = 0
        self.heads: list[dict[str, str]] = []
        self.bodies: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            if not (some := await stream.receive_some()):
                return
            received += some
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(body) < int(fields["content-length"]):
            body += await stream.receive_some()
        self.heads.append({"": first, **fields})
        self.bodies.append(body)
        await stream.send_all(self.answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))


@pytest.fixture
async def receiver(nursery: trio.Nursery) -> AsyncIterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver()
    listener, *_ = await nursery.start(partial(trio.serve_tcp, receiver.serve, 0, host="127.0.0.1"))
    receiver.port = listener.socket.getsockname()[1]
    yield receiver
    nursery.cancel_scope.cancel()


@pytest.fixture
async def send() -> AsyncIterator[HttpSender]:
    """A sender over the transport to providers."""
    upstream = Upstream()
    yield HttpSender(upstream, time.time)
    await upstream.aclose()


def endpoint(receiver: Receiver, *, public_only: bool = False, host: str = "127.0.0.1") -> Endpoint:
    url = f"http://{host}:{receiver.port}/hook?k=1"
    return Endpoint(name="e", url=url, keys=(read_key(SECRET),), public_only=public_only)


async def test_the_receiver_gets_the_exact_bytes_signed(receiver: Receiver, send: HttpSender) -> None:
    """The official library says so."""
    assert await send(endpoint(receiver), [DELIVERY]) == (204, "", None)
    assert receiver.heads[0][""] == "POST /hook?k=1 HTTP/1.1"
    assert receiver.heads[0]["content-type"] == "application/json"
    assert receiver.bodies == [BODY]
    assert Webhook(SECRET).verify(receiver.bodies[0], receiver.heads[0])["type"] == "task.succeeded"


async def test_each_answer_has_its_meaning(receiver: Receiver, send: HttpSender) -> None:
    """A status is told as it is; a redirect is not followed, Retry-After is read."""
    receiver.answer = b"HTTP/1.1 503 x\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n"
    assert await send(endpoint(receiver), [DELIVERY]) == (503, "", 120.0)
    receiver.answer = b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"
    sent = await send(endpoint(receiver), [DELIVERY])
    assert (sent.status, "redirects are not followed" in sent.error) == (302, True)
    assert len(receiver.heads) == 2


async def test_one_that_is_away_is_told_in_words(receiver: Receiver, send: HttpSender) -> None:
    """Without the path and query, which may hold a secret."""
    gone = Endpoint(name="e", url="http://127.0.0.1:1/hook?k=geheim", keys=(read_key(SECRET),), public_only=False)
    sent = await send(gone, [DELIVERY])
    assert sent.status is None
    assert sent.error.startswith("http://127.0.0.1:1: ")
    assert "geheim" not in sent.error


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "10.0.0.1"])  # noqa: S104
async def test_no_address_of_ours_is_asked(receiver: Receiver, send: HttpSender, host: str) -> None:
    """Neither by number nor by name, unless the configuration allows it."""
    sent = await send(endpoint(receiver, public_only=True, host=host), [DELIVERY])
    assert sent.status is None
    assert sent.error
    assert receiver.heads == []
