"""A restart, orderly or not: every unfinished task goes on with what it had, and what happened meanwhile is found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Failed, Job, Status, Succeeded, Task, TimedOut
from creche.engine.ports import Accept
from creche.errors import JobNotFound, Outage, StoreUnavailable
from creche.testing import FakeProvider, make_task

if TYPE_CHECKING:
    from tests.engine.conftest import Engine

RUNNING = Reading(status=JobStatus.PROCESSING)
QUEUED = Reading(status=JobStatus.WAITING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))
STOPPED = Reading(status=JobStatus.CANCELLED)

HOUR_S = 3600.0
MINUTE_S = 60.0


def times(provider: FakeProvider, method: str = "poll") -> list[float]:
    """When a method was called, in seconds since the start."""
    return [round(call.at, 1) for call in provider.calls if call.method == method]


def stored_task(engine: Engine, task_id: str, status: Status, **changes: object) -> None:
    """Put a task into the store as an earlier run left it."""
    task = make_task(task_id, status=status, **changes)
    if status not in {Status.ACCEPTED, Status.CREATING}:
        now = engine.wall()
        task = msgspec.structs.replace(task, job=Job(f"job-{task_id}", {}, now), deadline_at=now + task.deadline_s)
    engine.store.commit([Accept(task)])


async def test_the_story_of_a_task_survives_a_crash(engine: Engine, autojump_clock: object) -> None:
    """Every status with its time and the provider's word for it, in the order in which they came."""
    queued = Reading(status=JobStatus.WAITING, provider_status="queued")
    running = Reading(status=JobStatus.PROCESSING, provider_status="running")
    provider = FakeProvider(poll=[queued, queued, running, running, running, DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(10)
    await engine.crash()
    await engine.start()
    await engine.result(within_s=30)
    [entry] = engine.store.feed_after(0, 10)
    epoch = engine.wall() - trio.current_time()
    assert [(moment.status, moment.provider_status, round(moment.at - epoch)) for moment in entry.task.story] == [
        (Status.CREATING, None, 0),
        (Status.WAITING, None, 0),
        (Status.WAITING, "queued", 0),
        (Status.PROCESSING, "running", 6),
        (Status.PROCESSING, None, 15),
    ]


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_restart_goes_on_where_it_was(
    engine: Engine,
    autojump_clock: object,
    orderly: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The same job, polled on; nothing is created again."""
    provider = FakeProvider(poll=[*[RUNNING] * 5, DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(10)
    await (engine.stop() if orderly else engine.crash())
    await trio.sleep_until(100)
    assert len(provider.calls) == 5
    await engine.start()
    assert isinstance(await engine.result(within_s=10), Succeeded)
    assert [call.method for call in provider.calls] == ["create", *["poll"] * 6]


async def test_a_restart_after_forty_minutes_leaves_twenty(engine: Engine, autojump_clock: object) -> None:
    """The deadline is a moment, and it stays; the outcome tells the whole hour."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    await engine.submit()
    await trio.sleep_until(40 * MINUTE_S)
    await engine.crash()
    await engine.start()
    assert await engine.result() == TimedOut(after_s=HOUR_S)
    assert trio.current_time() == pytest.approx(HOUR_S, abs=0.1)


async def test_time_runs_on_while_the_daemon_is_down(engine: Engine, autojump_clock: object) -> None:
    """Half an hour of downtime is half an hour of the deadline."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    await engine.submit()
    await trio.sleep_until(10 * MINUTE_S)
    await engine.crash()
    await trio.sleep_until(40 * MINUTE_S)
    await engine.start()
    await engine.result()
    assert trio.current_time() == pytest.approx(HOUR_S, abs=0.1)


@pytest.mark.parametrize(("said", "outcome"), [(RUNNING, TimedOut(after_s=HOUR_S)), (DONE, Succeeded(DONE.result))])
async def test_a_deadline_that_passed_meanwhile_gets_its_last_poll(
    engine: Engine, autojump_clock: object, said: Reading, outcome: object
) -> None:
    """One, and only one; a job that had ended in time has ended so."""
    provider = FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(10)
    await engine.crash()
    await trio.sleep_until(2 * HOUR_S)
    later = FakeProvider(poll=[said])
    await engine.start(engine.algorithm(later))
    assert await engine.result(within_s=10) == outcome
    assert [call.method for call in later.calls] == ["poll"]


async def test_a_deadline_that_passed_meanwhile_is_obeyed(engine: Engine, autojump_clock: object) -> None:
    """`on_timeout` applies as if the daemon had been there."""
    provider = FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider, on_timeout="cancel"))
    await engine.submit()
    await trio.sleep_until(10)
    await engine.crash()
    await trio.sleep_until(2 * HOUR_S)
    await engine.start()
    assert await engine.result(within_s=10) == TimedOut(after_s=HOUR_S, cancelled=True)
    assert len(times(provider, "cancel")) == 1


async def test_recovery_is_spread_over_the_first_interval(engine: Engine, autojump_clock: object) -> None:
    """Thousands of tasks do not ask at the same moment."""
    rolls = iter([0.0, 0.25, 0.5, 1.0])
    engine.dice = lambda: next(rolls, 0.5)
    for task_id in "abcd":
        stored_task(engine, task_id, Status.PROCESSING)
    provider = FakeProvider(poll=[DONE])
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(every_s=20)))
    for task_id in "abcd":
        await engine.at_rest(task_id)
    assert times(provider) == [0, 5, 10, 20]


async def test_an_accepted_task_is_created_after_a_restart(engine: Engine, autojump_clock: object) -> None:
    """Once; its client was promised so."""
    provider = FakeProvider()
    stored_task(engine, "t", Status.ACCEPTED)
    await engine.start(engine.algorithm(provider))
    assert isinstance(await engine.result(), Succeeded)
    assert len(times(provider, "create")) == 1


@pytest.mark.parametrize(("repeatable", "status"), [(True, Status.SUCCEEDED), (False, Status.UNKNOWN)])
async def test_a_create_that_was_on_the_wire(
    engine: Engine,
    autojump_clock: object,
    repeatable: bool,  # noqa: FBT001 - a parameter of the test
    status: Status,
) -> None:
    """Is repeated with its token where the provider knows tokens; else a person must look."""
    tokens: list[str] = []

    async def create(task: Task) -> Reading:
        tokens.append(task.token)
        return QUEUED

    stored_task(engine, "t", Status.CREATING)
    await engine.start(engine.algorithm(FakeProvider(create=[create], repeat="token" if repeatable else "none")))
    task = await engine.at_rest()
    assert task.status is status
    assert tokens == (["token-t"] if repeatable else [])
    assert repeatable or "on the wire" in task.note


async def test_what_was_put_back_is_certain_after_a_restart(engine: Engine, autojump_clock: object) -> None:
    """A provider that was away made no job: also one that cannot be repeated is tried again."""
    provider = FakeProvider(create=[Outage("away"), Outage("away"), QUEUED], repeat="none")
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.crash()
    await engine.start()
    assert isinstance(await engine.result(), Succeeded)


async def test_a_cancel_is_sent_on_after_a_restart(engine: Engine, autojump_clock: object) -> None:
    """It was promised; the provider had not agreed yet."""
    provider = FakeProvider(poll=[RUNNING], cancel=[Outage("away")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.supervisor.cancel("t")
    await engine.crash()
    later = FakeProvider(poll=[STOPPED])
    await engine.start(engine.algorithm(later))
    assert (await engine.supervisor.get("t")).status is Status.CANCELLING
    assert await engine.result() == Cancelled(reason="client")
    assert [call.method for call in later.calls] == ["cancel", "poll"]


async def test_a_cancel_in_the_queue_ends_after_a_restart(engine: Engine, autojump_clock: object) -> None:
    """It needs no provider then either."""
    stored_task(engine, "t", Status.ACCEPTED, cancel_reason="client")
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    assert await engine.result() == Cancelled(reason="client")
    assert provider.calls == []


async def test_a_time_to_start_holds_across_a_restart(engine: Engine, autojump_clock: object) -> None:
    """Neither earlier nor later."""
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    await engine.submit(start_at=datetime.fromtimestamp(engine.wall() + 500, UTC))
    await trio.sleep_until(100)
    await engine.crash()
    await engine.start()
    await engine.result()
    assert times(provider, "create") == [500]


async def test_a_job_that_vanished_meanwhile_is_lost(engine: Engine, autojump_clock: object) -> None:
    """The grace belongs to new jobs, not to new daemons."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    await engine.submit()
    await trio.sleep_until(100)
    await engine.crash()
    await engine.start(engine.algorithm(FakeProvider(poll=[JobNotFound("HTTP 404")])))
    assert await engine.result(within_s=5) == Failed(reason="job_lost", message="HTTP 404")


async def test_jobs_hold_their_slots_after_a_restart(engine: Engine, autojump_clock: object) -> None:
    """Those in flight count before anybody new may go, in whatever order they were accepted."""
    for number in range(3):
        stored_task(engine, f"new-{number}", Status.ACCEPTED)
    for number in range(2):
        stored_task(engine, f"old-{number}", Status.PROCESSING)
    provider = FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider, in_flight=2))
    await trio.sleep(100)
    assert times(provider, "create") == []
    assert engine.supervisor.roster.slots("draw").holders == {"old-0", "old-1"}


async def test_jobs_hold_their_slots_after_a_large_recovery(engine: Engine, autojump_clock: object) -> None:
    """Also when it takes a while: hundreds that waited were accepted before those in flight (which had priority)."""
    engine.dice = lambda: 0.0
    for number in range(500):
        stored_task(engine, f"new-{number}", Status.ACCEPTED)
    for number in range(2):
        stored_task(engine, f"old-{number}", Status.PROCESSING, priority=10)
    provider = FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider, in_flight=2))
    await trio.sleep(100)
    assert times(provider, "create") == []


async def test_a_limit_holds_while_its_algorithm_is_away_at_the_start(engine: Engine, autojump_clock: object) -> None:
    """A start with a configuration that lacks the algorithm, then a better one: no more jobs than slots."""
    for number in range(5):
        stored_task(engine, f"t{number}", Status.ACCEPTED)
    provider = FakeProvider(poll=[RUNNING])
    engine.algorithms = {}
    await engine.start()
    await trio.sleep(100)
    engine.supervisor.reload({"draw": engine.algorithm(provider, in_flight=2)})
    await trio.sleep(100)
    assert len(times(provider, "create")) == 2


async def test_settled_tasks_are_left_alone(engine: Engine, autojump_clock: object) -> None:
    """They are read from the store, and nobody is told again."""
    await engine.start(engine.algorithm(FakeProvider()))
    await engine.submit()
    settled = await engine.at_rest()
    await engine.crash()
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    reader = engine.feed.reader(None, lambda _: True)
    await trio.sleep(100)
    assert await engine.supervisor.get("t") == settled
    assert await engine.supervisor.wait("t", 100) == settled
    assert provider.calls == []
    assert await reader.next_nowait() == []


async def test_hearts_beat_again_after_a_restart(engine: Engine, autojump_clock: object) -> None:
    """And stop with the task."""
    stored_task(engine, "t", Status.PROCESSING)
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING]), deadline_s=60))
    await trio.sleep_until(10)
    found = engine.supervisor.roster.live_task("t")
    assert found is not None
    assert found[1].heartbeat_at == pytest.approx(engine.wall(), abs=2.1)
    await engine.result()
    assert len(engine.pulse) == 0


async def test_a_daemon_that_dies_again_and_again_gets_there(engine: Engine, autojump_clock: object) -> None:
    """Every twenty seconds, while five tasks of a minute are minded: each settles once, with one job."""
    ends: dict[str, float] = {}

    async def create(task: Task) -> Reading:
        await trio.sleep(1)
        ends.setdefault(f"job-{task.token}", trio.current_time() + MINUTE_S)
        return msgspec.structs.replace(QUEUED, job=f"job-{task.token}")

    async def poll(job: Job) -> Reading:
        return RUNNING if trio.current_time() < ends[job.id] else DONE

    provider = FakeProvider(create=[create], poll=[poll])
    await engine.start(engine.algorithm(provider, in_flight=2))
    for number in range(5):
        await engine.submit(f"t{number}")
    while len(engine.feed_ids()) < 5:
        await trio.sleep(20)
        await engine.crash()
        await trio.sleep(5)
        await engine.start()
        assert trio.current_time() < HOUR_S
    assert sorted(engine.feed_ids()) == [f"t{number}" for number in range(5)]
    assert len(ends) == 5


async def test_a_store_that_cannot_be_read_stops_the_start(engine: Engine, autojump_clock: object) -> None:
    """Better no daemon than one that forgets its tasks."""
    stored_task(engine, "t", Status.PROCESSING)
    await engine.start(engine.algorithm(FakeProvider()))
    await engine.stop()
    engine.store.failing = True
    with pytest.RaisesGroup(StoreUnavailable, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.supervisor.run)
