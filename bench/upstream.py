"""What one GET costs the processor: `Upstream` against `httpx2.AsyncClient`, both over kept-alive loopback connections.

    PYTHONPATH=daemon python bench/upstream.py [--seconds 3] [--loops 100] [--tls]

A child process answers; only the processor time of this process counts, the client's. Each loop sends its next request
when it has the answer to the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

import httpx2
import trio
import trustme

from creche.core.exchange import Call
from creche.edges.upstream import Upstream

BODY = b'{"id":"job-0123456789","status":"processing","progress":0.42,"created_at":"2026-11-23T12:00:00Z","error":null}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Server: bench\r\nX-Request-Id: 0123456789abcdef\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
HEADERS = (("Authorization", "Bearer 0123456789abcdef0123456789abcdef"), ("Accept", "application/json"))
WARM_UP_S = 0.5


class Server(asyncio.Protocol):
    """Answers whatever ends in an empty line, which is every GET."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER * data.count(b"\r\n\r\n"))


def serve(report: Connection, authority: trustme.CA | None) -> None:
    """Run in the child process: listen on a free port, report it, answer until killed."""

    async def main() -> None:
        context = None
        if authority is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert("127.0.0.1").configure_cert(context)
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, ssl=context, backlog=1024)
        report.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def measure(get: Callable[[], Awaitable[bytes]], *, loops: int, seconds: float) -> tuple[float, float]:
    """Microseconds of processor time per GET, and GETs per second, of `loops` loops at once, once they are warm."""
    done = 0

    async def loop() -> None:
        nonlocal done
        while True:
            assert await get() == BODY  # noqa: S101 - a bench of wrong answers is worth nothing
            done += 1

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            for _ in range(loops):
                nursery.start_soon(loop)
            await trio.sleep(WARM_UP_S)
            begun, cpu_s, wall_s = done, time.process_time(), time.perf_counter()
            await trio.sleep(seconds)
            count, cpu_s, wall_s = done - begun, time.process_time() - cpu_s, time.perf_counter() - wall_s
            scope.cancel()
    return cpu_s / count * 1e6, count / wall_s


async def compare(url: str, context: ssl.SSLContext | None, *, loops: int, seconds: float) -> None:
    """Measure both clients and print."""
    upstream = Upstream(connections_per_origin=loops, ssl_context=context)
    call = Call(method="GET", url=url, headers=HEADERS)

    async def by_upstream() -> bytes:
        return (await upstream.send(call, timeout_s=30)).body

    ours_us, ours_per_s = await measure(by_upstream, loops=loops, seconds=seconds)
    await upstream.aclose()
    print(f"Upstream            {ours_us:8.1f} us CPU per GET  {ours_per_s:9,.0f} GET/s")

    limits = httpx2.Limits(max_connections=loops, max_keepalive_connections=loops, keepalive_expiry=60)
    async with httpx2.AsyncClient(limits=limits, timeout=30, verify=context or True, trust_env=False) as client:

        async def by_httpx2() -> bytes:
            return (await client.get(url, headers=list(HEADERS))).content

        theirs_us, theirs_per_s = await measure(by_httpx2, loops=loops, seconds=seconds)
    print(f"httpx2.AsyncClient  {theirs_us:8.1f} us CPU per GET  {theirs_per_s:9,.0f} GET/s")
    print(f"ratio               {theirs_us / ours_us:8.1f}")


def main() -> None:
    """Start the server, compare, stop the server."""
    parser = argparse.ArgumentParser(description="Processor time per GET: Upstream against httpx2.AsyncClient.")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to measure each client")
    parser.add_argument("--loops", type=int, default=100, help="requests at once")
    parser.add_argument("--tls", action="store_true", help="over TLS, with a certificate made for the occasion")
    arguments = parser.parse_args()

    authority = trustme.CA() if arguments.tls else None
    context = None
    if authority is not None:
        context = ssl.create_default_context()
        authority.configure_trust(context)
    ours, theirs = multiprocessing.Pipe()
    with contextlib.closing(ours):
        server = multiprocessing.get_context("fork").Process(target=serve, args=(theirs, authority), daemon=True)
        server.start()
        # On a core of its own the server does not disturb what is measured.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(server.pid or 0, {cores[-1]})
        os.sched_setaffinity(0, {cores[0]})
        try:
            scheme = "http" if authority is None else "https"
            url = f"{scheme}://127.0.0.1:{ours.recv()}/v1/jobs/job-0123456789"
            trio.run(lambda: compare(url, context, loops=arguments.loops, seconds=arguments.seconds))
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
