"""Answers that come in parts, for as long as there are some."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import trio

from creche.core.exchange import Request, Response
from creche.edges.front import Limits
from tests.edges.front.conftest import GET, Serve

HEAD = GET.replace(b"GET", b"HEAD", 1)


class Parts:
    """Gives what is sent to it, and remembers that it was closed."""

    def __init__(self) -> None:
        self.give, self._taken = trio.open_memory_channel[bytes](10)
        self.closed = trio.Event()

    async def handle(self, _: Request) -> Response:
        return Response(status=200, body=b"first ", parts=self._all(), content_type="text/plain")

    async def _all(self) -> AsyncGenerator[bytes, None]:
        try:
            async for part in self._taken:
                yield part
        finally:
            self.closed.set()


async def test_each_part_is_sent_as_it_comes(serve: Serve, kind: str) -> None:
    """In chunks; the connection goes on when there are no more."""
    parts = Parts()
    client = await (await serve(parts.handle)).client(kind)
    await client.send(GET)
    received = b""
    for part in (b"one", b"two"):
        await parts.give.send(part)
        while part not in received:
            received += await client.stream.receive_some()
    assert b"content-length" not in received.lower()
    assert b"first " in received
    parts.give.close()
    while not received.endswith(b"0\r\n\r\n"):
        received += await client.stream.receive_some()
    await client.send(GET)
    assert (await client.answer()).body == b"first "


async def test_a_client_of_http_1_0_reads_until_the_end(serve: Serve) -> None:
    """It knows no chunks."""
    parts = Parts()
    client = await (await serve(parts.handle)).client()
    await client.send(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
    await parts.give.send(b"one")
    parts.give.close()
    assert (await client.answer()).body == b"first one"
    assert await client.closed()


async def test_a_head_has_no_parts(serve: Serve) -> None:
    """They are not even begun."""
    client = await (await serve(Parts().handle)).client()
    await client.send(HEAD)
    answer = await client.answer("HEAD")
    assert (answer.status, answer.body) == (200, b"")
    await client.send(HEAD)
    assert (await client.answer("HEAD")).status == 200


async def test_parts_end_with_the_client(serve: Serve) -> None:
    """As soon as it closes its socket, though nothing is to be sent."""
    parts = Parts()
    client = await (await serve(parts.handle)).client()
    await client.send(GET)
    await client.stream.receive_some()
    await client.stream.aclose()
    await parts.closed.wait()


async def test_parts_that_nobody_takes_are_given_up(serve: Serve) -> None:
    """A client that does not read holds nothing for longer than its time."""
    parts = Parts()
    served = await serve(parts.handle, Limits(write_s=0.2))
    client = await served.client()
    await client.send(GET)
    await parts.give.send(b"x" * (8 << 20))
    await parts.closed.wait()


async def test_a_stop_waits_for_the_last_part(serve: Serve) -> None:
    """Whoever gives them ends them."""
    parts = Parts()
    served = await serve(parts.handle)
    client = await served.client()
    await client.send(GET)
    await client.stream.receive_some()
    served.front.stop()
    await parts.give.send(b"last")
    parts.give.close()
    received = b""
    while some := await client.stream.receive_some():
        received += some
    assert received.endswith(b"last\r\n0\r\n\r\n")
    await served.ended.wait()
