"""What all clients of the front may hold together, over real sockets: connections, and bodies."""

from __future__ import annotations

from trio.testing import wait_all_tasks_blocked

from creche.core.exchange import Request, Response
from creche.core.wire import problem_response
from creche.edges.front import Limits
from tests.edges.front.conftest import GET, Client, Serve, Served, Waiting

POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def other(kind: str) -> str:
    """The other kind of listener."""
    return "tcp" if kind == "unix" else "unix"


async def busy(served: Served, kind: str) -> Client:
    """A client in the midst of a request."""
    client = await served.client(kind)
    await client.send(GET[:-2])
    await wait_all_tasks_blocked()
    return client


async def test_connections_beyond_the_limit_are_refused(serve: Serve, kind: str) -> None:
    """One too many gets 503 and the end, if all others are busy; when one leaves, the next is welcome."""
    served = await serve(limits=Limits(connections=2))
    first, _ = await busy(served, kind), await busy(served, kind)
    third = await served.client(kind)
    await third.send(GET)
    answer = await third.answer()
    assert answer.problem == (503, "too_many_connections")
    assert answer.headers["retry-after"] == "1"
    assert await third.closed()
    await first.stream.aclose()
    while (await served.ask(GET, kind)).status != 200:
        await wait_all_tasks_blocked()


async def test_one_kind_of_listener_cannot_lock_out_the_other(serve: Serve, kind: str) -> None:
    """Each has its own share of connections."""
    served = await serve(limits=Limits(connections=1))
    await busy(served, kind)
    assert (await served.ask(GET, kind)).problem == (503, "too_many_connections")
    assert (await served.ask(GET, other(kind))).status == 200


async def test_the_longest_silent_connection_makes_room(serve: Serve, kind: str) -> None:
    """Kept alive or never heard of, but not one in the midst of a request."""
    served = await serve(limits=Limits(connections=3))
    working = await busy(served, kind)
    silent, kept = await served.client(kind), await served.client(kind)
    await wait_all_tasks_blocked()
    await kept.send(GET)
    assert (await kept.answer()).status == 200
    newcomers = [await served.client(kind), await served.client(kind)]
    for client in newcomers:
        await client.send(GET[:-2])
    assert await silent.closed()
    assert await kept.closed()
    for client in (working, *newcomers):
        await client.send(GET[-2:])
        assert (await client.answer()).status == 200


async def test_a_refusal_does_not_wait_for_the_body(serve: Serve, kind: str) -> None:
    """Whoever may not write is told so by the head alone, and asked to go on only if the body is wanted."""

    def refuse(request: Request) -> Response | None:
        return problem_response(403, "read_only", "no") if request.path == "/no" else None

    served = await serve(refuse=refuse)
    for field in (b"Content-Length: 10", b"Content-Length: 10\r\nExpect: 100-continue", b"Transfer-Encoding: chunked"):
        client = await served.client(kind)
        await client.send(b"POST /no HTTP/1.1\r\nHost: localhost\r\n" + field + b"\r\n\r\n")
        answer = await client.answer("POST")
        assert answer.problem == (403, "read_only")
        assert answer.headers["connection"] == "close"
        assert await client.closed()
    assert (await served.ask(POST % 2 + b"ok", kind)).status == 200


async def test_a_request_without_a_body_is_left_to_the_handler(serve: Serve) -> None:
    """Its connection goes on."""
    served = await serve(refuse=lambda _: problem_response(403, "read_only", "no"))
    client = await served.client()
    for data in (GET, POST % 0):
        await client.send(data)
        assert (await client.answer()).status == 200


async def test_bodies_are_bounded_together(serve: Serve, kind: str) -> None:
    """What passes the share of its kind is refused; the others of its kind go on, and the other kind has its own."""
    waiting = Waiting()
    served = await serve(waiting, Limits(body_bytes=10, bodies_bytes=15))
    handled, arriving = await served.client(kind), await served.client(kind)
    await handled.send(POST % 10 + bytes(10))
    await waiting.began.wait()
    await arriving.send(POST % 5 + bytes(3))
    await wait_all_tasks_blocked()
    answer = await served.ask(POST % 5 + bytes(5), kind)
    assert answer.problem == (503, "too_busy")
    assert answer.headers["retry-after"] == "1"
    waiting.released.set()
    assert (await served.ask(POST % 10 + bytes(10), other(kind))).status == 200
    await arriving.send(bytes(2))
    for client in (arriving, handled):
        assert (await client.answer()).status == 200
    assert served.front._unix.bodies_bytes == served.front._tcp.bodies_bytes == 0


async def test_bodies_that_are_given_up_are_not_counted_on(serve: Serve, kind: str) -> None:
    """Cut off, too late, too large or refused: the room is free again."""
    served = await serve(limits=Limits(body_bytes=10, bodies_bytes=12, body_s=0.2))
    chunked = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await served.ask(chunked + b"b\r\n01234567890\r\n", kind)).problem == (413, "too_large")
    assert (await served.ask(POST % 10 + bytes(9), kind)).problem == (408, "request_timeout")
    gone = await served.client(kind)
    await gone.send(POST % 10 + bytes(9))
    await gone.stream.aclose()
    while served.front._unix.connections or served.front._tcp.connections:
        await wait_all_tasks_blocked()
    assert (await served.ask(POST % 10 + bytes(10), kind)).status == 200
