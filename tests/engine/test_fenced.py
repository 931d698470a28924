"""A node whose tasks others may have, or have: what it still does, and what not."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
import trio

from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Status, Succeeded
from creche.engine.lease import Lease
from creche.engine.ports import Accept, Write, Written
from creche.errors import NotOwner
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, Lasting

RUNNING = Reading(status=JobStatus.PROCESSING)
DONE = Reading(status=JobStatus.SUCCEEDED)


@pytest.fixture
def lease(engine: Engine) -> Lease:
    """The node's lease; it has just been renewed."""
    engine.lease = Lease(trio.current_time)
    engine.lease.renewed_at = trio.current_time()
    return engine.lease


async def test_a_lease_holds_for_ten_seconds(engine: Engine, lease: Lease, autojump_clock: object) -> None:
    """From when its renewal was begun."""
    assert (lease.holds(), lease.left_s) == (True, 10)
    await trio.sleep(9.9)
    assert lease.holds()
    await trio.sleep(0.1)
    assert (lease.holds(), lease.left_s) == (False, 0)


async def test_a_fenced_node_creates_nothing(engine: Engine, lease: Lease, autojump_clock: object) -> None:
    """The task waits, and nothing was sent; it goes on once the lease is renewed."""
    provider = Lasting(1)
    await trio.sleep(11)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep(20)
    assert provider.created == []
    assert engine.condition() == "unreachable"
    assert engine.stored().status is Status.ACCEPTED
    lease.renewed_at = trio.current_time() + 1000
    assert await engine.result() == Succeeded(msgspec.Raw(b"7"))
    assert provider.created == ["t"]


async def test_a_fenced_node_polls_on(engine: Engine, lease: Lease, autojump_clock: object) -> None:
    """What it learns is kept, and may be written if it has its tasks still."""
    provider = FakeProvider(poll=[RUNNING] * 5 + [DONE])
    await engine.start(engine.algorithm(provider))
    await trio.sleep(11)
    await engine.submit(job="j")
    assert isinstance(await engine.result(), Succeeded)


async def test_what_is_told_once_is_not_asked_for(engine: Engine, lease: Lease, autojump_clock: object) -> None:
    """Another node may be minding the job, and would not hear of its end."""
    provider = FakeProvider(poll=[DONE], told_once=True)
    await trio.sleep(11)
    await engine.start(engine.algorithm(provider))
    await engine.submit(job="j")
    await trio.sleep(30)
    assert provider.calls == []
    lease.renewed_at = trio.current_time() + 1000
    assert isinstance(await engine.result(), Succeeded)


async def test_what_is_given_once_is_not_fetched(engine: Engine, lease: Lease, autojump_clock: object) -> None:
    """A result neither: the end is known, and it is fetched when the lease is there again."""
    end = Reading(status=JobStatus.SUCCEEDED, to_fetch=True)
    provider = FakeProvider(poll=[end], fetch=[DONE], given_once=True)
    await trio.sleep(11)
    await engine.start(engine.algorithm(provider))
    await engine.submit(job="j")
    await trio.sleep(30)
    assert {call.method for call in provider.calls} == {"poll"}
    lease.renewed_at = trio.current_time() + 1000
    assert isinstance(await engine.result(within_s=120), Succeeded)


async def test_a_lost_task_is_left_alone(engine: Engine, autojump_clock: object) -> None:
    """It is not polled any more, its slot is free, and it is not settled here; the store is as it was."""
    provider = Lasting(50)
    await engine.start(engine.algorithm(provider, in_flight=1))
    await engine.submit("a")
    await trio.sleep(5)
    await engine.submit("b")
    before = engine.stored("a")
    engine.supervisor.drop(["a"])
    asked = len(provider.calls)
    assert engine.supervisor.roster.live_task("a") is None
    await trio.sleep(100)
    assert (await engine.at_rest("b")).status is Status.SUCCEEDED
    assert engine.stored("a") == before
    assert not [call for call in provider.calls[asked:] if "job-a" in str(call)]


async def test_a_task_may_come_back_at_once(engine: Engine, autojump_clock: object) -> None:
    """While what was done about it before is still ending; it holds one slot, beats, and settles once."""
    provider = Lasting(50)
    await engine.start(engine.algorithm(provider, in_flight=1))
    await engine.submit("a")
    await trio.sleep(5)
    engine.supervisor.drop(["a"])
    await engine.supervisor.take_in([engine.stored("a")])
    await trio.sleep(3)
    assert engine.supervisor.roster.slots("draw").holders == {"a"}
    assert engine.pulse.last_beat("a") is not None
    assert (await engine.at_rest("a")).status is Status.SUCCEEDED
    assert engine.feed_ids() == ["a"]
    assert provider.created == ["a"]


async def test_a_request_that_must_not_be_cut_is_not(engine: Engine, autojump_clock: object) -> None:
    """A create ends as it ends."""
    provider = FakeProvider()
    ended = []

    async def slow(_: object) -> Reading:
        await trio.sleep(5)
        ended.append(trio.current_time())
        return Reading(status=JobStatus.PROCESSING, job="j")

    provider._create.append(slow)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep(1)
    engine.supervisor.drop(["t"])
    await trio.sleep(20)
    assert len(ended) == 1
    assert engine.supervisor.roster.lives == {}


async def test_who_hears_that_a_task_is_not_its_own_drops_it(engine: Engine, autojump_clock: object) -> None:
    """From the store, in the middle of whatever it writes: no defect, no outcome, no second try."""
    commit = engine.store.commit

    def refuse(writes: Sequence[Write]) -> list[Written]:
        return [commit([write])[0] if isinstance(write, Accept) else NotOwner("another's") for write in writes]

    await engine.start(engine.algorithm(Lasting(5), in_flight=1))
    engine.store.commit = refuse  # type: ignore[method-assign]
    await engine.submit("a")
    await engine.submit("b")
    await trio.sleep(30)
    assert engine.supervisor.roster.lives == {}
    assert engine.supervisor.roster.slots("draw").holders == set()


async def test_jobs_that_exist_are_taken_over(engine: Engine, autojump_clock: object) -> None:
    """With the time that they have left."""
    provider = Lasting(50)
    await engine.start(engine.algorithm(provider))
    await engine.submit("a")
    await trio.sleep(5)
    stored = engine.stored("a")
    engine.supervisor.drop(["a"])
    await engine.supervisor.take_in([stored, stored])
    assert (await engine.at_rest("a")).deadline_at == stored.deadline_at
    assert isinstance(stored.job, Job)
