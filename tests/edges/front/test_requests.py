"""What the front reads and answers, over real sockets."""

from __future__ import annotations

import os

import pytest
from trio.testing import wait_all_tasks_blocked

from creche.core.exchange import Request, Response
from tests.edges.front.conftest import GET, Serve


async def test_the_handler_gets_the_whole_request(serve: Serve, kind: str) -> None:
    """Method, decoded path and query, joined headers and the body arrive as they were sent."""
    head = b"POST /a%20b/%C3%BC?x=1&x=%2B+&y HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\nx-a: \xe92\r\n"
    got = (await (await serve()).ask(head + b"Content-Length: 4\r\n\r\nbody", kind)).json
    assert (got["method"], got["path"]) == ("POST", "/a b/ü")
    assert got["query"] == [["x", "1"], ["x", "+ "], ["y", ""]]
    assert got["headers"] == {"host": "localhost", "x-a": "1, é2", "content-length": "4"}
    assert got["body"] == "Ym9keQ=="


async def test_the_answer_carries_what_a_client_needs(serve: Serve, kind: str) -> None:
    """Length, date, type, and that it is neither to be sniffed nor kept; not who we are."""
    headers = (await (await serve()).ask(GET, kind)).headers
    assert headers.pop("date").endswith(" GMT")
    assert int(headers.pop("content-length")) > 0
    assert headers == {
        "content-type": "application/json",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }


async def test_the_handler_may_allow_caching(serve: Serve) -> None:
    """Its own Cache-Control stands alone, and its other headers go along."""

    async def handle(_: Request) -> Response:
        return Response(status=200, headers=(("cache-control", "max-age=60"), ("ETag", '"1"')))

    headers = (await (await serve(handle)).ask(GET)).headers
    assert (headers["cache-control"], headers["etag"]) == ("max-age=60", '"1"')


async def test_a_unix_peer_is_named_by_the_kernel(serve: Serve) -> None:
    """Its process and user are those of the client."""
    served = await serve()
    peer = (await served.ask(GET)).json["peer"]
    assert peer == {
        "address": str(served.path),
        "local": True,
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
    }


async def test_a_tcp_peer_is_its_address(serve: Serve) -> None:
    """Of a TCP client only the address is known."""
    client = await (await serve()).client("tcp")
    await client.send(GET)
    peer = (await client.answer()).json["peer"]
    port = client.stream.socket.getsockname()[1]
    assert (peer["address"], peer["local"], peer["pid"]) == (f"127.0.0.1:{port}", False, None)


async def test_a_connection_is_kept_alive(serve: Serve, kind: str) -> None:
    """One request after the other goes over one connection."""
    client = await (await serve()).client(kind)
    for number in range(5):
        await client.send(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
        assert (await client.answer()).json["path"] == f"/{number}"


async def test_pipelined_requests_are_answered_in_order(serve: Serve, kind: str) -> None:
    """Requests that come in one piece, with bodies, are answered one by one."""
    client = await (await serve()).client(kind)
    first = b"POST /1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
    await client.send(first + GET + first.replace(b"/1", b"/3"))
    assert [(await client.answer()).json["path"] for _ in range(3)] == ["/1", "/", "/3"]


async def test_a_request_may_come_byte_by_byte(serve: Serve) -> None:
    """Where the pieces end does not matter."""
    client = await (await serve()).client()
    for byte in b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nok":
        await client.send(bytes([byte]))
        await wait_all_tasks_blocked()
    assert (await client.answer()).json["path"] == "/slow"


async def test_a_chunked_body_is_put_together(serve: Serve, kind: str) -> None:
    """The handler does not see how the body was sent."""
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    got = (await (await serve()).ask(head + b"2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", kind)).json
    assert got["body"] == "Ym9keQ=="


async def test_head_is_get_without_the_body(serve: Serve, kind: str) -> None:
    """The handler sees a GET, the client its headers; the connection goes on."""
    client = await (await serve()).client(kind)
    await client.send(GET.replace(b"GET", b"HEAD") + GET)
    head = await client.answer("HEAD")
    body = await client.answer()
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == body.headers["content-length"]
    assert body.json["method"] == "GET"


async def test_a_refusal_after_head_has_its_body(serve: Serve) -> None:
    """What was asked before does not shape the answer to what comes next."""
    client = await (await serve()).client()
    await client.send(GET.replace(b"GET", b"HEAD"))
    await client.answer("HEAD")
    await client.send(b"garbage\r\n\r\n")
    assert (await client.answer()).problem == (400, "malformed_request")


async def test_an_answer_without_content_has_no_length(serve: Serve) -> None:
    """204 carries neither body nor length nor type, and the connection goes on."""

    async def handle(_: Request) -> Response:
        return Response(status=204)

    client = await (await serve(handle)).client()
    for _ in range(2):
        await client.send(GET)
        answer = await client.answer()
        assert (answer.status, answer.body) == (204, b"")
        assert not answer.headers.keys() & {"content-length", "content-type"}


@pytest.mark.parametrize("request_", [GET.replace(b"1.1", b"1.0"), GET[:-2] + b"Connection: close\r\n\r\n"])
async def test_a_client_may_ask_for_the_end(serve: Serve, request_: bytes) -> None:
    """HTTP/1.0 and `Connection: close` get their answer and the end."""
    client = await (await serve()).client()
    await client.send(request_)
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await client.closed()


async def test_continue_is_sent_for_a_body_within_the_limit(serve: Serve) -> None:
    """A client that waits for leave to send its body gets it."""
    client = await (await serve()).client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert await client.stream.receive_some() == b"HTTP/1.1 100 \r\n\r\n"
    await client.send(b"ok")
    assert (await client.answer()).status == 200


async def test_no_continue_for_a_body_beyond_the_limit(serve: Serve) -> None:
    """A client that asks before it sends is spared the sending."""
    client = await (await serve()).client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.stream.receive_some(12)) == b"HTTP/1.1 413"
