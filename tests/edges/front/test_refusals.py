"""What the front refuses, over real sockets: bad requests, too much, other hosts, other users."""

from __future__ import annotations

import os

import pytest
import trio

from creche.edges.front import Limits
from creche.edges.front_connection import MAX_HEADERS, MAX_QUERY_FIELDS
from tests.edges.front.conftest import GET, Serve, send_as_far_as_it_goes, with_target

TOO_MANY_FIELDS = b"/?" + b"&".join(b"a=1" for _ in range(MAX_QUERY_FIELDS + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"\x00" * 100 + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        with_target(b"/%ff"),
        with_target(b"/?a=%ff"),
        with_target(b"/a%00b"),
        with_target(b"*"),
        with_target(b"http://localhost/"),
        with_target(TOO_MANY_FIELDS),
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_what_is_no_proper_request_is_refused(serve: Serve, kind: str, data: bytes) -> None:
    """TLS, binary garbage, bad heads and bad targets: a problem, the end, and the server goes on."""
    served = await serve()
    client = await served.client(kind)
    await client.send(data)
    answer = await client.answer()
    assert answer.problem == (400, "malformed_request")
    assert answer.headers["connection"] == "close"
    assert await client.closed()
    assert await served.is_well()


async def test_half_a_request_and_the_end_is_malformed(serve: Serve, kind: str) -> None:
    """A client that shuts down its writing half too early is told."""
    client = await (await serve()).client(kind)
    await client.send(GET[:-2])
    await client.stream.send_eof()
    assert (await client.answer()).problem == (400, "malformed_request")


async def test_the_most_query_fields_are_allowed(serve: Serve) -> None:
    """The limit itself is still fine."""
    target = TOO_MANY_FIELDS.replace(b"?a=1&", b"?")
    assert len((await (await serve()).ask(with_target(target))).json["query"]) == MAX_QUERY_FIELDS


@pytest.mark.parametrize(
    "fields",
    [
        b"X: " + b"x" * (64 << 10) + b"\r\n\r\n",
        b"X: " + b"x" * (10 << 20),
        b"".join(b"X-%d: %s\r\n" % (n, b"x" * 700) for n in range(95)) + b"\r\n",
        b"X: 1\r\n" * MAX_HEADERS + b"\r\n",
    ],
)
async def test_a_head_beyond_the_limit_is_refused(serve: Serve, kind: str, fields: bytes) -> None:
    """One long field, an endless one, many fields: 431, while the client may still be sending."""
    served = await serve()
    client = await served.client(kind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_as_far_as_it_goes, client, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + fields)
        assert (await client.answer()).problem == (431, "header_too_large")
    assert await served.is_well()


async def test_a_head_at_the_limit_is_served(serve: Serve) -> None:
    """64 KiB to the byte is fine, one more is not."""
    served = await serve()
    start = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "
    fits = start + b"x" * ((64 << 10) - len(start) - 4) + b"\r\n\r\n"
    assert (await served.ask(fits)).status == 200
    assert (await served.ask(fits.replace(b"X: ", b"X: x"))).problem == (431, "header_too_large")


async def test_a_declared_100_mb_body_is_refused_at_once(serve: Serve, kind: str) -> None:
    """Before any of it is sent; a client that sends on anyway reads its answer, and is cut off."""
    served = await serve()
    client = await served.client(kind)
    await client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
    answer = await client.answer()
    assert answer.problem == (413, "too_large")
    assert answer.headers["connection"] == "close"
    await send_as_far_as_it_goes(client, *[bytes(1_000_000)] * 100)
    assert await client.closed()
    assert await served.is_well()


async def test_a_chunked_100_mb_body_is_refused_when_it_passes_the_limit(serve: Serve, kind: str) -> None:
    """A body of undeclared length is counted as it comes."""
    served = await serve()
    client = await served.client(kind)
    chunk = b"%x\r\n%s\r\n" % (1_000_000, bytes(1_000_000))
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_as_far_as_it_goes, client, head, *[chunk] * 100)
        assert (await client.answer()).problem == (413, "too_large")
    assert await client.closed()
    assert await served.is_well()


async def test_a_body_at_the_limit_is_served(serve: Serve) -> None:
    """The limit itself is still fine, declared and chunked."""
    served = await serve(limits=Limits(body_bytes=10))
    declared = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    assert (await served.ask(declared % 10 + bytes(10))).status == 200
    assert (await served.ask(declared % 11)).problem == (413, "too_large")
    chunked = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await served.ask(chunked + b"a\r\n0123456789\r\n0\r\n\r\n")).status == 200
    assert (await served.ask(chunked + b"b\r\n01234567890\r\n0\r\n\r\n")).problem == (413, "too_large")


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:8787", b"127.0.0.1:1", b"[::1]:8787"])
async def test_our_hosts_are_served(serve: Serve, host: bytes) -> None:
    """Case and port do not matter."""
    served = await serve(hosts=frozenset({"localhost", "127.0.0.1", "::1"}))
    assert (await served.ask(GET.replace(b"localhost", host), "tcp")).status == 200


@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil.example:8787", b"", b"[::2]", b"evil@localhost"])
async def test_other_hosts_are_misdirected(serve: Serve, host: bytes) -> None:
    """A page that rebinds its name to our address does not get through. The Unix socket has no such danger."""
    served = await serve(hosts=frozenset({"localhost"}))
    request = GET.replace(b"localhost", host)
    assert (await served.ask(request, "tcp")).problem == (421, "misdirected")
    assert (await served.ask(request, "unix")).status == 200


async def test_without_a_host_only_the_old_protocol_comes_through_where_hosts_are_not_checked(serve: Serve) -> None:
    """HTTP/1.0 needs no Host, unless hosts are checked."""
    old = b"GET / HTTP/1.0\r\n\r\n"
    assert (await (await serve()).ask(old, "tcp")).status == 200
    assert (await (await serve(hosts=frozenset({"x"}))).ask(old, "tcp")).problem == (421, "misdirected")


async def test_only_allowed_users_are_served(serve: Serve) -> None:
    """The kernel's word decides on the Unix socket; TCP has no user."""
    others = await serve(allowed_uids=frozenset({os.getuid() + 1}))
    assert (await others.ask(GET)).problem == (403, "forbidden")
    assert (await others.ask(GET, "tcp")).status == 200
    assert (await (await serve(allowed_uids=frozenset({os.getuid()}))).ask(GET)).status == 200
