"""Clients that cost little: raw HTTP/1.1 and WebSocket over the Unix socket, one thread, one selector."""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from machine import BenchError

READ_BYTES = 64 << 10

_LENGTH = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
_SETTLED = re.compile(rb'"settled_at":"([^"]+)"')
_UPGRADE = (
    b"GET /v1/stream?since=%s HTTP/1.1\r\nHost: creche\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Load(NamedTuple):
    """What came of it. Latencies in milliseconds, sorted."""

    took_s: float
    latencies_ms: list[float]


def post(path: str, *lines: dict[str, object]) -> bytes:
    """One request; more than one line is NDJSON."""
    body = b"\n".join(json.dumps(line).encode() for line in lines) + b"\n"
    kind = b"application/json" if len(lines) == 1 else b"application/x-ndjson"
    head = b"POST %s HTTP/1.1\r\nHost: creche\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (path.encode(), kind, len(body)) + body


class _Talk:
    """One kept connection: one request at a time."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self._received = bytearray()
        self._began = 0.0

    def ask(self, request: bytes) -> None:
        self._began = time.perf_counter()
        self._received.clear()
        self.socket.sendall(request)

    def latency_ms(self) -> float | None:
        """Read what there is; how long the answer took, once it is whole. Raises `BenchError` for a refusal."""
        data = self.socket.recv(READ_BYTES)
        self._received += data
        head_end = self._received.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(self._received, 0, head_end) if head_end > len(b"\r\n\r\n") - 1 else None
        if not data or (length is not None and not self._received.startswith((b"HTTP/1.1 20",))):
            raise BenchError(f"creche refused: {bytes(self._received[:300])!r}")
        if length is None or len(self._received) < head_end + int(length[1]):
            return None
        return (time.perf_counter() - self._began) * 1000


def load(path: Path, requests: Sequence[bytes], *, connections: int) -> Load:
    """Send all requests over so many kept connections, each its next one when the last was answered."""
    latencies_ms: list[float] = []
    left: Iterator[bytes] = iter(requests)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        talks = [_Talk(path) for _ in range(connections)]
        for talk in talks:
            stack.enter_context(talk.socket)
            selector.register(talk.socket, selectors.EVENT_READ, talk)
        began = time.perf_counter()
        for talk, request in zip(talks, left, strict=False):
            talk.ask(request)
        while len(latencies_ms) < len(requests):
            events = selector.select(30.0)
            if not events:
                raise BenchError("creche is silent")
            for key, _ in events:
                if (latency_ms := key.data.latency_ms()) is not None:
                    latencies_ms.append(latency_ms)
                    if (request := next(left, None)) is not None:
                        key.data.ask(request)
        took_s = time.perf_counter() - began
    return Load(took_s, sorted(latencies_ms))


class Listeners:
    """WebSocket listeners of the whole stream, from now on or behind a cursor. Until `hear` they read nothing.

    `busy` is the part of a core that hearing took.
    """

    def __init__(self, path: Path, count: int, *, since: str = "") -> None:
        self.busy = 0.0
        self._selector = selectors.DefaultSelector()
        for _ in range(count):
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(30)
            one.connect(str(path))
            one.sendall(_UPGRADE % since.encode())
            received = b""
            while b'"hello"' not in received:
                if not (data := one.recv(65536)):
                    raise BenchError(f"a listener was refused: {received[:300]!r}")
                received += data
            one.setblocking(False)
            _, _, early = received.partition(b'"hello"')
            self._selector.register(one, selectors.EVENT_READ, bytearray(early))

    def hear(self, outcomes: int, *, within_s: float) -> list[float]:
        """Milliseconds from each outcome's `settled_at` to each listener who heard it, sorted, until all did."""
        count = len(self._selector.get_map())
        latencies_ms: list[float] = []
        began, cpu_s = time.monotonic(), time.thread_time()
        until = began + within_s
        while len(latencies_ms) < outcomes * count and time.monotonic() < until:
            for key, _ in self._selector.select(0.5):
                one, pending = key.fileobj, key.data
                assert isinstance(one, socket.socket)  # noqa: S101 - for the type checker
                data = one.recv(READ_BYTES)
                now = time.time()
                if not data:
                    raise BenchError("a listener was cut off")
                pending += data
                end = 0
                for found in _SETTLED.finditer(pending):
                    latencies_ms.append((now - datetime.fromisoformat(found[1].decode()).timestamp()) * 1000)
                    end = found.end()
                # What was counted goes; of the rest only as much stays as a split field can have.
                del pending[: max(end, len(pending) - 200)]
        self.busy = (time.thread_time() - cpu_s) / (time.monotonic() - began)
        return sorted(latencies_ms)

    def close(self) -> None:
        """Hang up."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)  # noqa: S101 - as above
            key.fileobj.close()
        self._selector.close()


def part(latencies: Sequence[float], quantile: float) -> float:
    """A quantile of sorted values."""
    return latencies[min(len(latencies) - 1, int(len(latencies) * quantile))]
