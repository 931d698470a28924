"""Calls to places that an answer named: no address of this machine or of the networks around it is asked."""

from __future__ import annotations

import socket

import httpx2
import pytest
import trio

from creche.core.exchange import Call
from creche.edges.upstream_addresses import LOOKUPS, Addresses
from tests.edges.transports.conftest import Way, outcome
from tests.edges.transports.peers import Counting
from tests.edges.transports.test_connecting import Names

NAME = "provider.test"


@pytest.fixture(params=["upstream", "httpx2"])
def kind(request: pytest.FixtureRequest) -> str:
    """Those that look up names themselves; a proxy does it by its own rules."""
    return str(request.param)


def addresses_of(host: str) -> Addresses:
    return Addresses(host, 80, trio.CapacityLimiter(LOOKUPS), public_only=True)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.1",
        "::1",
        "fe80::1",
    ],
)
async def test_an_address_around_here_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is named itself or found behind a name."""
    Names(monkeypatch, [address])
    for host in (address, NAME):
        with pytest.raises(OSError, match="it has no public address, and an answer of the provider named it"):
            await addresses_of(host).get()


async def test_of_mixed_addresses_the_public_ones_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order."""
    Names(monkeypatch, ["127.0.0.1", "8.8.8.8", "::1", "10.0.0.1", "1.1.1.1"])
    found = await addresses_of(NAME).get()
    assert [where[0] for _, where in found] == ["8.8.8.8", "1.1.1.1"]


async def test_a_name_that_moves_home_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """What was public a minute ago is no promise."""
    where = ["8.8.8.8"]
    Names(monkeypatch, where)
    addresses = addresses_of(NAME)
    assert [family for family, _ in await addresses.get()] == [socket.AF_INET]
    where[:] = ["127.0.0.1"]
    await trio.sleep(61)
    with pytest.raises(OSError, match="no public address"):
        await addresses.get()


@pytest.mark.parametrize("host", ["127.0.0.1", NAME])
async def test_a_call_is_not_sent_over_a_connection_that_trust_has_made(
    way: Way, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A connection to the same host and port is kept, and is none of this call's."""
    Names(monkeypatch, ["127.0.0.1"])
    server = Counting()
    context = way.server_context(host)
    async with way.serving(server, context=context) as origin, way.transport() as transport:
        url = origin.replace("127.0.0.1", host)
        trusted, stranger = Call(method="GET", url=url), Call(method="GET", url=url, public_only=True)
        assert await outcome(transport, trusted) == (200, b"1")
        assert await outcome(transport, stranger) is httpx2.ConnectError
        assert await outcome(transport, trusted) == (200, b"1")
        assert not transport.prepare(stranger, timeout_s=20).begin(lambda _: None, 1.0)
    assert (server.connections, server.requests) == (1, 2)
