"""WebSocket upgrades that the front hands on."""

from __future__ import annotations

import pytest
import trio
import trio_websocket

from creche.core.exchange import Request
from tests.edges.front.conftest import GET, UPGRADE, Serve, echo


async def test_a_websocket_client_is_handed_on(serve: Serve, kind: str) -> None:
    """A real client and a real server speak through the front, after a plain request on the same connection."""
    client = await (await serve(upgrade=echo)).client(kind)
    await client.send(GET)
    assert (await client.answer()).status == 200
    async with trio.open_nursery() as nursery:
        connection = await trio_websocket.wrap_client_stream(nursery, client.stream, "localhost", "/v1/stream?since=1")
        async with connection:
            await connection.send_message("hello")
            assert await connection.get_message() == "/v1/stream?since=1 hello"


async def test_the_stream_begins_with_the_request_as_it_came(serve: Serve) -> None:
    """Byte by byte, with the data that followed; in pieces as small as the reader wants them."""
    got: list[tuple[Request, bytes]] = []

    async def collect(request: Request, stream: trio.abc.Stream) -> None:
        received = bytearray()
        while some := await stream.receive_some(7):
            received += some
        got.append((request, bytes(received)))
        await stream.send_all(b"bye")

    client = await (await serve(upgrade=collect)).client()
    await client.send(GET + UPGRADE + b"early")
    await client.answer()
    await client.send(b" late")
    await client.stream.send_eof()
    assert await client.stream.receive_some() == b"bye"
    ((request, received),) = got
    assert received == UPGRADE + b"early late"
    assert (request.path, request.query) == ("/v1/stream", (("since", "1"),))
    assert await client.closed()


@pytest.mark.parametrize(
    "data",
    [
        UPGRADE.replace(b"/v1/stream", b"/v1/other"),
        UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        UPGRADE.replace(b"keep-alive, Upgrade", b"keep-alive"),
        UPGRADE.replace(b"GET", b"POST"),
    ],
)
async def test_other_upgrades_are_plain_requests(serve: Serve, data: bytes) -> None:
    """The handler answers them, and the connection goes on."""
    client = await (await serve(upgrade=echo)).client()
    for _ in range(2):
        await client.send(data)
        assert (await client.answer()).json["path"].startswith("/v1/")


async def test_without_an_upgrade_the_stream_is_a_plain_request(serve: Serve) -> None:
    """Then the handler says what it thinks of it."""
    assert (await (await serve()).ask(UPGRADE)).json["path"] == "/v1/stream"


async def test_upgrades_are_checked_like_requests(serve: Serve) -> None:
    """Neither a foreign host nor a foreign user gets a stream."""
    served = await serve(upgrade=echo, hosts=frozenset({"creche"}), allowed_uids=frozenset())
    assert (await served.ask(UPGRADE, "tcp")).problem == (421, "misdirected")
    assert (await served.ask(UPGRADE, "unix")).problem == (403, "forbidden")


async def test_an_upgrade_that_fails_ends_its_connection_only(serve: Serve, errors_logged: list[str]) -> None:
    """It is logged once, and the server goes on."""

    async def fail(_: Request, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.aclose)
            raise ValueError

    served = await serve(upgrade=fail)
    client = await served.client()
    await client.send(UPGRADE)
    assert await client.closed()
    assert await served.is_well()
    await served.stop()
    assert errors_logged == ["GET /v1/stream failed"]
