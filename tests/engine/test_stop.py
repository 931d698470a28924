"""The orderly end: what a stop waits for, and what it leaves to the next start."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
import trio
import trio.testing

from creche.core.reading import JobStatus, Reading
from creche.core.task import Status, Succeeded, Task
from creche.engine.supervisor import ON_WIRE_GRACE_S
from creche.errors import Draining
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, Lasting, settle_all, submit_all, until

RUNNING = Reading(status=JobStatus.PROCESSING)
QUEUED = Reading(status=JobStatus.WAITING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))


async def test_a_stop_leaves_jobs_as_they_are(engine: Engine, autojump_clock: object) -> None:
    """At once: nothing is settled, cancelled or waited for; the next start goes on."""
    provider = Lasting(100)
    await engine.start(engine.algorithm(provider, in_flight=2))
    await submit_all(engine, "abc")
    await trio.sleep_until(10)
    await engine.stop()
    assert trio.current_time() == pytest.approx(10)
    assert [engine.stored(task_id).status for task_id in "abc"] == [
        Status.PROCESSING,
        Status.PROCESSING,
        Status.ACCEPTED,
    ]
    assert engine.feed_ids() == []
    assert len(engine.pulse) == 0
    await engine.start()
    assert all(task.ended for task in await settle_all(engine, "abc"))
    assert provider.created == ["a", "b", "c"]
    assert not [call for call in provider.calls if call.method == "cancel"]


async def test_after_a_stop_nothing_is_accepted(engine: Engine, autojump_clock: object) -> None:
    """The answer says that it will pass."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    engine.supervisor.stop()
    with pytest.raises(Draining):
        await engine.submit()
    assert engine.store.unfinished() == []


async def test_a_stop_lets_creates_on_the_wire_finish(engine: Engine, autojump_clock: object) -> None:
    """Their jobs are on disk, so the next start needs not guess."""

    async def create(_: Task) -> Reading:
        await trio.sleep(3)
        return QUEUED

    provider = FakeProvider(create=[create], repeat="none")
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(1)
    await engine.stop()
    assert trio.current_time() == pytest.approx(3)
    assert engine.stored().job is not None
    await engine.start()
    assert isinstance(await engine.result(), Succeeded)
    assert [call.method for call in provider.calls] == ["create", "poll"]


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_stop_waits_for_creates_only_so_long(
    engine: Engine,
    autojump_clock: object,
    repeatable: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Five seconds; then the create is uncertain: repeated by the next start, or left to a person."""

    async def create(_: Task) -> Reading:
        if trio.current_time() < 100:
            await trio.sleep_forever()
        return QUEUED

    provider = FakeProvider(create=[create], repeat="token" if repeatable else "none")
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(1)
    await engine.stop()
    assert trio.current_time() == pytest.approx(1 + ON_WIRE_GRACE_S)
    assert engine.stored().status is (Status.CREATING if repeatable else Status.UNKNOWN)
    assert engine.feed_ids() == []
    await trio.sleep_until(100)
    await engine.start()
    task = await engine.at_rest()
    assert task.status is (Status.SUCCEEDED if repeatable else Status.UNKNOWN)
    assert len([call for call in provider.calls if call.method == "create"]) == 1 + repeatable


async def test_a_stop_is_not_held_up_by_a_create_that_begins_with_it(engine: Engine, autojump_clock: object) -> None:
    """Its intent was just being written when the stop came: it gets no more time than those on the wire."""

    async def create(_: Task) -> Reading:
        await trio.sleep(1000)
        return QUEUED

    commit = engine.store.commit

    def commit_and_stop(writes: Sequence[object]) -> object:
        if any(write.task.status is Status.CREATING for write in writes):  # type: ignore[attr-defined]
            engine.supervisor.stop()
        return commit(writes)  # type: ignore[arg-type]

    engine.store.commit = commit_and_stop  # type: ignore[assignment, method-assign]
    engine.around_io = no_checkpoint
    provider = FakeProvider(create=[create])
    for number in range(8):  # whose turn it is in that moment is up to the scheduler
        await engine.start(engine.algorithm(provider))
        began = trio.current_time()
        with trio.move_on_after(1):
            await engine.submit(f"t{number}")
        await engine.stop()
        assert trio.current_time() - began < 10


async def no_checkpoint() -> None:
    """A store that answers at once."""


async def test_an_outcome_that_is_in_hand_is_written_before_the_end(engine: Engine, autojump_clock: object) -> None:
    """A stop while a task is being settled loses nothing: it is in the feed, once."""
    answer = trio.Event()
    await engine.start(engine.algorithm(until(5, RUNNING, DONE)))
    await engine.submit()
    await trio.sleep_until(5)
    before, engine.around_io = engine.around_io, answer.wait
    await trio.sleep_until(7)
    engine.supervisor.stop()
    await trio.testing.wait_all_tasks_blocked()
    engine.around_io = before
    answer.set()
    await engine.stop()
    assert engine.feed_ids() == ["t"]


async def test_a_stop_with_many_tasks_lets_others_have_their_turns(engine: Engine, autojump_clock: object) -> None:
    """It lets go of some at a time, so that listeners are still served: with thousands of tasks it takes a while."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    await submit_all(engine, [f"t{number}" for number in range(1000)])
    await trio.sleep(10)
    minded = [len(engine.pulse)]

    async def look_on() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            minded.append(len(engine.pulse))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_on)
        await engine.stop()
        nursery.cancel_scope.cancel()
    assert (minded[0], minded[-1]) == (1000, 0)
    assert max(before - after for before, after in pairwise(minded)) <= 200
    assert all(engine.stored(f"t{number}").status is Status.PROCESSING for number in range(1000))
