"""How frames leave for one listener: each whole, one after the other, at once where the kernel takes them.

Two write here: trio-websocket its pings, pongs and closes, and we our messages, because framing each of them anew for
every listener costs more than sending it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import trio

SEND_BYTES = 256 << 10
SEND_S = 20.0
"""A listener that takes longer than this for so many bytes is cut; its kernel buffers were full all the time."""

PING_EVERY_S = 20.0
"""Also how long an answer may take, counted from when the listener last took something."""

FIN_TEXT = 0x81
FIN_CLOSE = b"\x88"


class Upgraded(Protocol):
    """What a listener's connection must know. After `aclose` the others raise `trio.ClosedResourceError`."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    def send_now(self, data: bytes | memoryview) -> int:
        """Send what the kernel takes at once; how many bytes that were. Raises `trio.BrokenResourceError`."""

    async def wait_send_all_might_not_block(self) -> None: ...

    async def aclose(self) -> None: ...


class Paced(trio.abc.Stream):
    """A stream on which a send may take its time as long as it goes on; else it raises `trio.TooSlowError`.

    A frame that was begun is finished before anything else goes, whoever was cancelled in the midst of it.
    `patience` is the scope of one who waits for an answer to what is sent; it is renewed as sending goes on.
    `violation` gives the close code for what the other side did wrong, of which trio-websocket closes without a word.
    """

    def __init__(self, stream: Upgraded) -> None:
        self._stream = stream
        self._turn = trio.StrictFIFOLock()
        self._rest: list[memoryview] = []
        self._closing = False
        self.patience: trio.CancelScope | None = None
        self.violation: Callable[[], int | None] = lambda: None

    def offer(self, frames: bytes) -> bool:
        """Send whole frames without waiting; False when none of it went, for whatever reason.

        What the kernel did not take is sent before anything else: see `is_behind`, `flush`.
        """
        if self._rest or self._closing:
            return False
        try:
            sent = self._stream.send_now(frames)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        if sent < len(frames):
            if not sent:
                return False
            self._rest = [memoryview(frames)[sent:]]
        self._renew_patience()
        return True

    @property
    def is_behind(self) -> bool:
        """Whether something is left that must be sent before anything else."""
        return bool(self._rest)

    async def flush(self) -> None:
        """Send what is left of an `offer`."""
        async with self._turn:
            await self._send_rest()

    async def tell(self, messages: Iterable[bytes]) -> None:
        """Send text messages. Many small ones go in one piece; large ones are not copied for every listener.

        They are asked for as they are sent. Raises `trio.ClosedResourceError` behind a close frame, after which nothing
        may be sent.
        """
        async with self._turn:
            for frames in _pieces(messages):
                if self._closing:
                    raise trio.ClosedResourceError
                await self._send(frames)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._turn:
            self._closing = self._closing or bytes(data[:1]) == FIN_CLOSE
            await self._send([data])

    async def _send(self, frames: Sequence[bytes | bytearray | memoryview]) -> None:
        await self._send_rest()
        self._rest = [memoryview(part) for part in frames]
        await self._send_rest()

    async def _send_rest(self) -> None:
        while self._rest:
            piece = self._rest[0][:SEND_BYTES]
            with trio.fail_after(SEND_S):
                while piece:
                    if sent := self._stream.send_now(piece):
                        piece, self._rest[0] = piece[sent:], self._rest[0][sent:]
                    else:
                        await self._stream.wait_send_all_might_not_block()
            if not self._rest[0]:
                self._rest.pop(0)
            self._renew_patience()
            await trio.lowlevel.checkpoint()

    def _renew_patience(self) -> None:
        if self.patience is not None:
            self.patience.deadline = trio.current_time() + PING_EVERY_S

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close at once. The code of a violation is said before (RFC 6455 §7.1.7), if that can be without waiting."""
        code = self.violation()
        if code is not None:
            self.offer(struct.pack("!BBH", FIN_CLOSE[0], 2, code))
            self._closing = True
        await self._stream.aclose()


def framed(messages: Iterable[bytes]) -> bytes:
    """Text messages as they go to any listener."""
    return b"".join([part for message in messages for part in (_frame_head(len(message)), message)])


def _pieces(messages: Iterable[bytes]) -> Iterator[list[bytes | bytearray]]:
    """Whole frames in pieces of some `SEND_BYTES`; a large message is a part of its own, of its piece the last."""
    small = bytearray()
    for message in messages:
        small += _frame_head(len(message))
        is_large = len(message) >= SEND_BYTES
        if not is_large:
            small += message
        if is_large or len(small) >= SEND_BYTES:
            yield [small, message] if is_large else [small]
            small = bytearray()
    yield [small]


def _frame_head(size: int) -> bytes:
    """What goes before a text message of so many bytes, as one unmasked WebSocket frame (RFC 6455 §5.2).

    We accept no extensions, so a server's frames depend on nothing but their payload.
    """
    if size < 126:  # noqa: PLR2004 - the frame's own three forms of a length
        return struct.pack("!BB", FIN_TEXT, size)
    if size < 1 << 16:
        return struct.pack("!BBH", FIN_TEXT, 126, size)
    return struct.pack("!BBQ", FIN_TEXT, 127, size)
