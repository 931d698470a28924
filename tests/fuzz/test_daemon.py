"""Bytes of all kinds for the running daemon: it answers, or hangs up, and is as it was before."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import fuzz
from tests.process.running import Daemon, daemons, simulator_url

MAX_GROWTH_BYTES = 30 << 20
PATIENCE_S = 20.0

target = st.sampled_from([b"/v1/tasks", b"/v1/tasks/x", b"/v1/results", b"/v1/stream", b"/metrics", b"/%zz", b"*", b""])
line = st.sampled_from(
    b"Host: localhost/Content-Length: 5/Content-Length: 99999999999/Transfer-Encoding: chunked/Connection: Upgrade/"
    b"Upgrade: websocket/Expect: 100-continue/Authorization: Bearer x".split(b"/")
) | st.binary(max_size=40)
method = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"get", b""])
request = st.builds(
    lambda method, target, lines, body: b"%s %s HTTP/1.1\r\n%s\r\n\r\n%s" % (method, target, b"\r\n".join(lines), body),
    method,
    target,
    st.lists(line, max_size=5),
    st.binary(max_size=60),
)
frame = st.builds(
    lambda first, second, rest: bytes([first, second]) + rest,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=140),
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One for all; it must be there at the end, no larger than it was, with no connection left."""
    with simulator_url() as url, daemons(url) as start:
        daemon = start()
        process = psutil.Process(daemon.process.pid)
        speak(daemon, b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        files, size = process.num_fds(), process.memory_info().rss
        yield daemon
        assert daemon.running
        assert daemon.client.status()["ready"]
        assert process.num_fds() <= files + 2
        assert process.memory_info().rss <= size + MAX_GROWTH_BYTES


def speak(daemon: Daemon, *parts: bytes, tcp: bool = False, upgrade: bytes = b"") -> bytes:
    """Say something, and no more; everything that is answered. Raises when the daemon does not hang up. After an
    `upgrade` was answered.
    """
    if tcp:
        where = urlsplit(daemon.tcp_url)
        line = socket.create_connection((where.hostname, where.port), timeout=PATIENCE_S)
    else:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(PATIENCE_S)
        line.connect(str(daemon.socket))
    answer = b""
    with line:
        try:
            if upgrade:
                line.sendall(upgrade)
                answer = line.recv(1 << 16)
            for part in parts:
                line.sendall(part)
            line.shutdown(socket.SHUT_WR)
            while some := line.recv(1 << 16):
                answer += some
        except (BrokenPipeError, ConnectionResetError):
            pass
    return answer


def test_bytes(daemon: Daemon) -> None:
    """Any at all, and requests with mistakes, in one piece or in several."""

    @fuzz
    @given(st.lists(request | st.binary(max_size=200), min_size=1, max_size=3), st.booleans())
    def try_some(parts: list[bytes], tcp: bool) -> None:  # noqa: FBT001 - drawn
        answer = speak(daemon, *parts, tcp=tcp)
        assert not answer or answer.startswith(b"HTTP/1.1 ")
        assert not answer.startswith(b"HTTP/1.1 500")

    try_some()


def test_what_listeners_say(daemon: Daemon) -> None:
    """After the upgrade: frames with mistakes, and no frames."""
    key = base64.b64encode(bytes(16))
    upgrade = (
        b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )

    @fuzz
    @given(st.lists(frame | st.binary(max_size=100), max_size=4))
    def try_some(parts: list[bytes]) -> None:
        assert speak(daemon, *parts, upgrade=upgrade).startswith(b"HTTP/1.1 101 ")

    try_some()
