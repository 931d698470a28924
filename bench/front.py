"""What one request costs the front: POSTs of 50 bytes over kept-alive Unix connections.

    PYTHONPATH=daemon python bench/front.py [--connections 4] [--requests 20000]

Prints the CPU time per request of the serving process alone (the clients are a process of their own), and the
latencies that the clients saw.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import trio
from loguru import logger

from creche.core.exchange import Request, Response
from creche.edges.front import Front, Limits
from creche.edges.front_listening import open_unix

BODY = b'{"algorithm":"upscale","input":{"image":"a.png"}}\n'
POST = b"POST /v1/tasks HTTP/1.1\r\nHost: creche\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n" + BODY


def client(path: str, requests: int, latencies_ms: list[float]) -> None:
    """Send `requests` POSTs one after the other."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        for _ in range(requests):
            began = time.perf_counter()
            sock.sendall(POST)
            answer = sock.recv(65536)
            latencies_ms.append((time.perf_counter() - began) * 1000)
            if not answer.startswith(b"HTTP/1.1 202"):
                sys.exit(f"unexpected answer: {answer[:100]!r}")


def clients(path: str, connections: int, requests: int, report: multiprocessing.connection.Connection) -> None:
    """Load the front from `connections` threads and report all latencies."""
    latencies_ms: list[float] = []
    threads = [
        threading.Thread(target=client, args=(path, requests // connections, latencies_ms)) for _ in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.send(latencies_ms)


async def handle(request: Request) -> Response:
    """Answer as a submit is answered."""
    return Response(status=202, body=request.body)


async def main(connections: int, requests: int) -> None:
    """Serve, be loaded, report."""
    logger.remove()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "front.sock"
        front = Front(handle=handle, upgrade=None, limits=Limits())
        here, there = multiprocessing.Pipe(duplex=False)
        async with trio.open_nursery() as nursery:
            await nursery.start(front.serve, [open_unix(path)])
            spawn = multiprocessing.get_context("spawn")
            load = spawn.Process(target=clients, args=(str(path), connections, requests, there))
            load.start()
            before = resource.getrusage(resource.RUSAGE_SELF)
            await trio.lowlevel.wait_readable(here.fileno())
            after = resource.getrusage(resource.RUSAGE_SELF)
            latencies_ms = sorted(here.recv())
            load.join()
            front.stop()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    p50, p99 = statistics.median(latencies_ms), latencies_ms[int(len(latencies_ms) * 0.99)]
    cpu_us = cpu_s / len(latencies_ms) * 1e6
    print(f"{len(latencies_ms)} requests over {connections} connections: {cpu_us:.0f} us CPU each")
    print(f"latency p50 {p50:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--requests", type=int, default=20_000)
    args = parser.parse_args()
    trio.run(main, args.connections, args.requests)
