"""Frames on a line whose kernel takes what the test says: whole, one after the other, whoever sends them."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from creche.edges.stream_sending import SEND_BYTES, SEND_S, Paced, framed
from tests.edges.stream.conftest import frames_of

PING, CLOSE = b"\x89\x01p", b"\x88\x02\x03\xe8"


class Kernel:
    """A connection that takes as many bytes as there is `room` for; `taken` is what it took."""

    def __init__(self, room: int = 0) -> None:
        self.taken = bytearray()
        self.room = room
        self.is_closed = False
        self._more = trio.Event()

    def make_room(self, size: int) -> None:
        self.room += size
        self._more.set()

    def send_now(self, data: bytes | memoryview) -> int:
        if self.is_closed:
            raise trio.ClosedResourceError
        some = data[: self.room]
        self.taken += some
        self.room -= len(some)
        return len(some)

    async def wait_send_all_might_not_block(self) -> None:
        while not self.room:
            self._more = trio.Event()
            await self._more.wait()

    async def receive_some(self, _: int | None = None) -> bytes:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        self.is_closed = True
        await trio.lowlevel.checkpoint()

    def frames(self) -> list[tuple[int, bytes]]:
        return frames_of(bytes(self.taken))


@pytest.mark.parametrize("size", [0, 125, 126, (1 << 16) - 1, 1 << 16, SEND_BYTES, SEND_BYTES + 1])
async def test_a_client_understands_a_message_of_any_length(size: int) -> None:
    """Offered or told, it is one text frame."""
    kernel = Kernel(room=4 * (SEND_BYTES + 99))
    line = Paced(kernel)
    assert line.offer(framed([b"x" * size, b"y"]))
    await line.tell([b"x" * size, b"z"])
    x = b"x" * size
    assert [payload for _, payload in kernel.frames()] == [x, b"y", x, b"z"]


async def test_what_begins_is_finished_first() -> None:
    """Of an offer that the kernel cut in the midst of a frame the rest goes before a ping, and before messages."""
    kernel = Kernel(room=5)
    line = Paced(kernel)
    assert line.offer(framed([b"one", b"two"]))
    assert line.is_behind
    kernel.room = 99
    assert not line.offer(framed([b"later"]))
    kernel.room = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send_all, PING)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(line.tell, [b"three"])
        await trio.testing.wait_all_tasks_blocked()
        assert not line.offer(framed([b"later"]))
        for _ in range(20):
            kernel.make_room(1)
            await trio.testing.wait_all_tasks_blocked()
    assert [payload for _, payload in kernel.frames()] == [b"one", b"two", b"p", b"three"]
    assert not line.is_behind


async def test_an_offer_that_does_not_go_leaves_nothing() -> None:
    """A full kernel, or somebody who is sending: the line owes nothing."""
    kernel = Kernel()
    line = Paced(kernel)
    assert not line.offer(framed([b"one"]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send_all, PING)
        await trio.testing.wait_all_tasks_blocked()
        kernel.room = 99  # nobody is told: the ping still waits
        assert not line.offer(framed([b"two"]))
        kernel.make_room(0)
    assert bytes(kernel.taken) == PING


@pytest.mark.parametrize("size", [100, 2 * SEND_BYTES])
@pytest.mark.parametrize("room", [1, 3, 50, SEND_BYTES])
async def test_a_frame_whose_sender_is_cancelled_is_finished_by_the_next(size: int, room: int) -> None:
    """Half of it is out already: without the rest nothing that follows could be understood."""
    kernel = Kernel(room)
    line = Paced(kernel)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.tell, [b"x" * size])
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    kernel.make_room(3 * SEND_BYTES)
    await line.send_all(PING)
    assert [payload for _, payload in kernel.frames()] == [b"x" * size, b"p"]


async def test_nothing_follows_a_close_frame() -> None:
    """Neither what is offered nor what is told."""
    kernel = Kernel(room=99)
    line = Paced(kernel)
    await line.send_all(CLOSE)
    assert not line.offer(framed([b"one"]))
    with pytest.raises(trio.ClosedResourceError):
        await line.tell([b"two"])
    assert bytes(kernel.taken) == CLOSE


async def test_sending_may_take_its_time_as_long_as_it_goes_on(autojump_clock: object) -> None:
    """Each part has its own time; one for which it is over raises."""
    kernel = Kernel()
    line = Paced(kernel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.tell, [b"x" * (3 * SEND_BYTES)])
        for _ in range(4):
            await trio.sleep(SEND_S - 1)
            kernel.make_room(SEND_BYTES)
    began = trio.current_time()
    kernel.room = SEND_BYTES - 1
    with pytest.raises(trio.TooSlowError):
        await line.tell([b"x" * SEND_BYTES])
    assert trio.current_time() - began == SEND_S


async def test_who_waits_for_an_answer_is_patient_while_something_is_taken(autojump_clock: object) -> None:
    """Whether it was offered or told; and no longer than the time of an answer after the last of it."""
    kernel = Kernel(room=1 << 20)
    line = Paced(kernel)
    began = trio.current_time()
    with trio.move_on_after(20) as line.patience:
        await trio.sleep(15)
        await line.tell([b"one"])
        await trio.sleep(15)
        assert line.offer(framed([b"two"]))
        await trio.sleep_forever()
    assert trio.current_time() - began == 50


async def test_an_offer_to_one_who_is_gone_does_not_go() -> None:
    """Who tells next hears why."""
    kernel = Kernel(room=99)
    line = Paced(kernel)
    await line.aclose()
    assert not line.offer(framed([b"one"]))
    with pytest.raises(trio.ClosedResourceError):
        await line.tell([b"one"])
