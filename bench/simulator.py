"""How many polls per second the simulator answers on one core, and what one costs it.

    PYTHONPATH=daemon python bench/simulator.py [--connections 100] [--seconds 5]

The simulator runs in a process of its own; this one polls one job over kept-alive connections, each asking again when
it was answered, and reads the CPU time of the other from /proc.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import selectors
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import trio

from creche import simulator


def _serve(pipe: Connection) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pipe.send(await nursery.start(simulator.serve))

    trio.run(main)


def _connect(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)))


def _make_job(url: str) -> str:
    body = b'{"simulate": {"queue": "0s", "run": "1h"}}'
    with _connect(url) as client:
        client.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        return str(msgspec.json.decode(client.recv(65536).partition(b"\r\n\r\n")[2])["id"])


def _poll(url: str, job: str, *, connections: int, seconds: float) -> int:
    """Polls answered; every answer fits one segment and so one `recv`."""
    request = (
        f"GET /v1/jobs/{job} HTTP/1.1\r\nHost: {url.removeprefix('http://')}\r\n"
        "Accept: application/json\r\nUser-Agent: creche\r\nAuthorization: Bearer key\r\n\r\n"
    ).encode()
    answered = 0
    with selectors.DefaultSelector() as selector:
        clients = [_connect(url) for _ in range(connections)]
        for index, client in enumerate(clients):
            selector.register(client, selectors.EVENT_READ, index)
            client.sendall(request)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for event, _ in selector.select(1.0):
                client = clients[event.data]
                if not client.recv(65536).startswith(b"HTTP/1.1 200 "):
                    raise SystemExit("the simulator answered with an error")
                client.sendall(request)
                answered += 1
        for client in clients:
            client.close()
    return answered


def _cpu_s(pid: int | None) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    try:
        url = ours.recv()
        job = _make_job(url)
        before_s, began = _cpu_s(server.pid), time.perf_counter()
        polls = _poll(url, job, connections=options.connections, seconds=options.seconds)
        cpu_s, took_s = _cpu_s(server.pid) - before_s, time.perf_counter() - began
    finally:
        server.terminate()
        server.join()
    print(
        f"{options.connections} connections: {polls / took_s:,.0f} polls/s, {cpu_s / polls * 1e6:.1f} µs CPU per poll, "
        f"{cpu_s / took_s:.2f} cores, {polls:,} polls in {took_s:.1f} s"
    )


if __name__ == "__main__":
    main()
