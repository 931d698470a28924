"""What is put on the wire, and what is refused: the same by every transport."""

from __future__ import annotations

import httpx2
import msgspec
import pytest
import trio

from creche.core.exchange import Call
from tests.edges.transports.conftest import WHOLE, Way, outcome
from tests.edges.transports.peers import Peer

CALLS: dict[str, tuple[Call, str]] = {
    "get": (
        Call(method="GET", url="/v1/jobs/1?x=%20y#part", headers=(("X-Key", "k"),)),
        "GET /v1/jobs/1?x=%20y HTTP/1.1\r\nHost: {}\r\nX-Key: k\r\nAccept-Encoding: identity",
    ),
    "post": (
        Call(method="POST", url="?a=/b", headers=(("accept-encoding", "gzip"),), body=b"{}"),
        "POST /?a=/b HTTP/1.1\r\nHost: {}\r\naccept-encoding: gzip\r\nContent-Length: 2",
    ),
    "post-without-body": (
        Call(method="POST", url=""),
        "POST / HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity\r\nContent-Length: 0",
    ),
    "post-with-empty-body": (
        Call(method="POST", url="/", body=b""),
        "POST / HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity\r\nContent-Length: 0",
    ),
    "put": (
        Call(method="PUT", url="//double", headers=(("X-Kind", "a/b"), ("x", "")), body=b"12345"),
        "PUT //double HTTP/1.1\r\nHost: {}\r\nX-Kind: a/b\r\nx: \r\nAccept-Encoding: identity\r\nContent-Length: 5",
    ),
    "delete": (
        Call(method="DELETE", url="/a", headers=(("Accept-Encoding", "identity"), ("X", "\xe4"))),
        "DELETE /a HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity\r\nX: \xe4",
    ),
    "head": (Call(method="HEAD", url="/"), "HEAD / HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity"),
    "same-header-twice": (
        Call(method="GET", url="/", headers=(("A", "1"), ("A", "2"), ("Accept-Encoding", "identity"))),
        "GET / HTTP/1.1\r\nHost: {}\r\nA: 1\r\nA: 2\r\nAccept-Encoding: identity",
    ),
}


@pytest.mark.parametrize("case", CALLS)
async def test_requests_on_the_wire(way: Way, case: str) -> None:
    """A request has what the call says, the host, its length, and asks for a body as it is. Byte for byte."""
    call, expected = CALLS[case]
    seen = []

    async def handler(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.say(WHOLE.removesuffix(b"ok") if call.method == "HEAD" else WHOLE)

    async with way.serving(handler) as origin, way.transport() as transport:
        await transport.send(msgspec.structs.replace(call, url=origin + call.url), timeout_s=20)
    assert seen == [(expected.format(origin.partition("://")[2]).encode("latin-1"), call.body or b"")]


async def test_spaces_around_a_value_are_none_of_it(way: Way) -> None:
    """They are sent or left out, and are no reason to refuse the call."""
    seen = []

    async def handler(peer: Peer) -> None:
        seen.append(await peer.head())
        await peer.say(WHOLE)

    async with way.serving(handler) as origin, way.transport() as transport:
        call = Call(method="GET", url=origin, headers=(("X-Key", " a b\t "),))
        assert await outcome(transport, call) == (200, b"ok")
    (head,) = seen
    assert head is not None
    assert [line.partition(b":")[2].strip() for line in head.split(b"\r\n") if line.startswith(b"X-Key")] == [b"a b"]


REFUSED: dict[str, tuple[Call, type[Exception]]] = {
    "no-scheme": (Call(method="GET", url="127.0.0.1/"), httpx2.UnsupportedProtocol),
    "ftp": (Call(method="GET", url="ftp://127.0.0.1/"), httpx2.UnsupportedProtocol),
    "empty": (Call(method="GET", url=""), httpx2.UnsupportedProtocol),
    "no-host": (Call(method="GET", url="http:///a"), httpx2.InvalidURL),
    "user": (Call(method="GET", url="http://me:pw@127.0.0.1/"), httpx2.InvalidURL),
    "port": (Call(method="GET", url="http://127.0.0.1:65536/"), httpx2.InvalidURL),
    "port-0": (Call(method="GET", url="http://127.0.0.1:0/"), httpx2.InvalidURL),
    "port-letters": (Call(method="GET", url="http://127.0.0.1:x/"), httpx2.InvalidURL),
    "ipv6": (Call(method="GET", url="http://[::g]/"), httpx2.InvalidURL),
    "ipv6-no-address": (Call(method="GET", url="http://[:::]/"), httpx2.InvalidURL),
    "host-letters": (Call(method="GET", url="http://b\xfccher.test/"), httpx2.InvalidURL),
    "host-space": (Call(method="GET", url="http://a b/"), httpx2.InvalidURL),
    "target-space": (Call(method="GET", url="http://127.0.0.1/a b"), httpx2.InvalidURL),
    "target-line": (Call(method="GET", url="http://127.0.0.1/a\r\nX:y"), httpx2.InvalidURL),
    "target-letters": (Call(method="GET", url="http://127.0.0.1/\xe4"), httpx2.InvalidURL),
    "method": (Call(method="GET / HTTP/1.1\r\nX: y\r\n\r\nGET", url="http://127.0.0.1/"), httpx2.LocalProtocolError),
    "no-method": (Call(method="", url="http://127.0.0.1/"), httpx2.LocalProtocolError),
    **{
        name: (Call(method="GET", url="http://127.0.0.1/", headers=(header,)), httpx2.LocalProtocolError)
        for name, header in {
            "value-line": ("X", "a\r\nY: b"),
            "value-lf": ("X", "a\nY: b"),
            "value-nul": ("X", "a\x00"),
            "value-letters": ("X", "\u20ac"),
            "name-line": ("X\r\nY", "b"),
            "name-colon": ("X:Y", "b"),
            "name-space": ("X Y", "b"),
            "no-name": ("", "b"),
            "host": ("Host", "other.test"),
            "length": ("content-length", "7"),
            "encoding": ("Transfer-Encoding", "chunked"),
            "connection": ("Connection", "close"),
            "upgrade": ("Upgrade", "h2c"),
        }.items()
    },
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_sent_as_it_is_is_refused(plain: Way, case: str) -> None:
    """Before anything is sent; the message repeats no more of the call than the name of a header."""
    call, error = REFUSED[case]
    call = msgspec.structs.replace(call, headers=(*call.headers, ("X-Key", "geheim")), body=b"geheim")
    async with plain.proxied(), plain.transport() as transport:
        with pytest.raises(error) as caught:
            await transport.send(call, timeout_s=20)
        assert transport.statistics().origins == {}
    assert "geheim" not in str(caught.value)
    assert "pw" not in str(caught.value)


BIG = bytes(16 << 20)
"""More than the buffers of all sockets hold."""
REFUSAL = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("then", ["stays", "reads-on", "closes", "half-closes", "resets"])
@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["at-once", "after-100"])
async def test_answer_may_come_before_the_request_is_through(way: Way, then: str, first: bytes) -> None:
    """A provider that refuses a large body early is heard, whatever it does next."""

    async def handler(peer: Peer) -> None:
        await peer.head()
        await peer.say(first + REFUSAL)
        if then == "reads-on":
            await peer.until_end()
        elif then == "half-closes":
            await peer.end_sending()
            await peer.until_end()
        elif then == "resets":
            await answered.wait()
            peer.reset()
        elif then == "stays":
            await answered.wait()

    answered = trio.Event()
    async with way.serving(handler) as origin, way.transport() as transport:
        got = await outcome(transport, Call(method="POST", url=origin, body=BIG))
        answered.set()
        assert got == way.expected(f"early-{then}", (413, b"no"))
        assert transport.statistics().origins == {}


async def test_a_large_request_goes_on_after_100(way: Way) -> None:
    """An informational answer in the middle of a large body stops nothing."""

    async def handler(peer: Peer) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        count = len(peer._data)
        while count < len(BIG):
            count += len(await peer.stream.receive_some(1 << 20))
        await peer.say(WHOLE)

    async with way.serving(handler) as origin, way.transport() as transport:
        assert await outcome(transport, Call(method="POST", url=origin, body=BIG)) == (200, b"ok")


async def test_reset_while_sending_leaves_open_what_arrived(way: Way) -> None:
    """A provider that hangs up in the middle of the request."""

    async def handler(peer: Peer) -> None:
        await peer.head()
        peer.reset()

    async with way.serving(handler) as origin, way.transport() as transport:
        got = await outcome(transport, Call(method="POST", url=origin, body=BIG))
    assert got in {httpx2.WriteError, httpx2.ReadError}


async def test_no_message_shows_the_call(way: Way) -> None:
    """Paths, queries, values and bodies may be secret."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with way.serving(handler) as origin, way.transport() as transport:
        headers = (("Authorization", "Bearer geheim"),)
        call = Call(method="POST", url=f"{origin}/geheim?key=geheim", headers=headers, body=b"geheim")
        with pytest.raises(httpx2.ReadError) as caught:
            await transport.send(call, timeout_s=20)
    assert "geheim" not in str(caught.value)
