"""RFC 6455 from the client's side, frame by frame: what the stream takes, answers, and closes with which code.

The cases follow the chapters of the Autobahn test suite as far as they concern a server that reads and drops what it
gets: framing, pings, reserved bits and opcodes, fragmentation, UTF-8, closing, limits.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.process.running import Daemon, StartDaemon

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
MASK = b"\x11\x22\x33\x44"
PROTOCOL_ERROR, BAD_DATA, TOO_BIG = 1002, 1007, 1009
SNOWMAN = "☃".encode()

GO_ON = b"\x00"
"""Instead of a close code: the connection lives."""


class Frame(NamedTuple):
    """What the server sent."""

    first: int
    payload: bytes


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """A frame of a client."""
    first = (FIN if fin else 0) | reserved | opcode
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(MASK), strict=False))


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


class Line:
    """One connection, upgraded; its `hello` has been heard."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=20)
        self._received = b""
        key = base64.b64encode(bytes(16)).decode()
        self.send(
            f"GET /v1/stream HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._received:
            self._received += self._socket.recv(1 << 16)
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        hello = self.frame()
        assert hello is not None
        assert json.loads(hello.payload)["type"] == "hello"

    def send(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what follows a violation may meet nobody
            self._socket.sendall(data)

    def frame(self) -> Frame | None:
        """The next frame; None at the end of the connection."""
        if (head := self._take(2)) is None:
            return None
        size = head[1] & 0x7F
        if size > 125:
            wide = self._take(2 if size == 126 else 8)
            assert wide is not None
            size = int.from_bytes(wide)
        payload = self._take(size)
        assert payload is not None
        return Frame(head[0], payload)

    def close_code(self) -> int | None:
        """The code of the close frame, which is the last that comes; None where the connection just ends."""
        found = None
        while (got := self.frame()) is not None:
            if got.first == FIN | CLOSE:
                assert found is None, "one close frame is enough"
                found = int.from_bytes(got.payload[:2]) if got.payload else 1005
        return found

    def pings(self) -> bool:
        """Whether it lives: a ping is answered."""
        self.send(frame(PING, b"are you there"))
        return self.frame() == Frame(FIN | PONG, b"are you there")

    def end(self) -> None:
        self._socket.close()

    def _take(self, count: int) -> bytes | None:
        while len(self._received) < count:
            try:
                some = self._socket.recv(1 << 16)
            except ConnectionResetError:
                some = b""
            if not some:
                return None
            self._received += some
        taken, self._received = self._received[:count], self._received[count:]
        return taken


@pytest.fixture(scope="module")
def daemon(start_shared_daemon: StartDaemon) -> Daemon:
    return start_shared_daemon()


@pytest.fixture
def line(daemon: Daemon) -> Iterator[Line]:
    host, _, port = daemon.tcp_url.removeprefix("http://").partition(":")
    line = Line(host, int(port))
    yield line
    line.end()


@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_ping_is_answered_with_its_payload(line: Line, size: int) -> None:
    """§5.5.2, any bytes."""
    payload = bytes(range(size))
    line.send(frame(PING, payload))
    assert line.frame() == Frame(FIN | PONG, payload)


def test_ten_pings_are_answered_in_order(line: Line) -> None:
    """Sent in one piece, and byte by byte."""
    data = b"".join(frame(PING, b"%d" % number) for number in range(10))
    line.send(data)
    for byte in data:
        line.send(bytes([byte]))
    answers = [line.frame() for _ in range(20)]
    assert answers == [Frame(FIN | PONG, b"%d" % number) for number in range(10)] * 2


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"hello"),
        frame(TEXT),
        frame(BINARY, bytes(range(256))),
        frame(PONG, b"nobody asked"),
        frame(TEXT, b"hel", fin=False) + frame(CONTINUATION, b"lo"),
        frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION),
        frame(TEXT, SNOWMAN[:1], fin=False) + frame(CONTINUATION, SNOWMAN[1:]),
        frame(BINARY, b"\xff\xfe", fin=False) + frame(PONG) + frame(CONTINUATION, b"\xfd"),
        frame(TEXT, b"x" * 4096),
    ],
    ids=["text", "empty", "binary", "pong", "fragments", "empty fragments", "split letter", "between", "largest"],
)
def test_what_is_in_order_is_read_and_dropped(line: Line, data: bytes) -> None:
    """Nothing of it is answered, and the connection lives."""
    line.send(data)
    assert line.pings()


def test_a_ping_between_fragments_is_answered_at_once(line: Line) -> None:
    """§5.4: control frames may come in the middle of a message."""
    line.send(frame(TEXT, b"hel", fin=False) + frame(PING, b"p"))
    assert line.frame() == Frame(FIN | PONG, b"p")
    line.send(frame(CONTINUATION, b"lo"))
    assert line.pings()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(PING, bytes(126)), PROTOCOL_ERROR),
        (frame(PING, b"", fin=False), PROTOCOL_ERROR),
        (frame(CLOSE, b"", fin=False), PROTOCOL_ERROR),
        *((frame(TEXT, b"x", reserved=bit), PROTOCOL_ERROR) for bit in (0x10, 0x20, 0x40)),
        *((frame(opcode, b"x"), PROTOCOL_ERROR) for opcode in (0x3, 0x7, 0xB, 0xF)),
        (frame(CONTINUATION, b"of what"), PROTOCOL_ERROR),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), PROTOCOL_ERROR),
        (frame(TEXT, b"unmasked", masked=False), PROTOCOL_ERROR),
        (frame(TEXT, b"\xff"), BAD_DATA),
        (frame(TEXT, SNOWMAN[:2]), BAD_DATA),
        (frame(TEXT, b"\xed\xa0\x80"), BAD_DATA),
        (frame(TEXT, b"good", fin=False) + frame(CONTINUATION, b"\xc0\xaf"), BAD_DATA),
        (frame(TEXT, b"x" * 4097), TOO_BIG),
        (frame(TEXT, b"x" * 4000, fin=False) + frame(CONTINUATION, b"x" * 97), TOO_BIG),
        (frame(BINARY, b"x" * 100_000), TOO_BIG),
    ],
)
def test_what_is_out_of_order_closes_the_connection(line: Line, data: bytes, code: int) -> None:
    """With the code that RFC 6455 §7.4.1 has for it, once."""
    line.send(data)
    assert line.close_code() == code


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999])
def test_a_close_is_answered_with_its_code(line: Line, code: int) -> None:
    """§5.5.1; then the connection ends."""
    line.send(close(code, b"bye"))
    assert line.close_code() == code


def test_a_close_without_a_code_is_answered(line: Line) -> None:
    """With one without a code, which libraries show as 1005."""
    line.send(frame(CLOSE))
    assert line.close_code() in {1000, 1005}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
        *((close(code), PROTOCOL_ERROR) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999)),
        (close(1000, b"\xff"), BAD_DATA),
        (frame(CLOSE, struct.pack("!H", 1000) + b"x" * 124), PROTOCOL_ERROR),
    ],
)
def test_a_close_that_says_nonsense(line: Line, data: bytes, code: int) -> None:
    """A code that nobody may send, a reason that is no text, one that is too long."""
    line.send(data)
    assert line.close_code() == code


def test_what_follows_a_close_is_not_read(line: Line) -> None:
    """§5.5.1: no ping behind it is answered."""
    line.send(close(1000) + frame(PING, b"late"))
    frames = []
    while (got := line.frame()) is not None:
        frames.append(got.first)
    assert frames == [FIN | CLOSE]
