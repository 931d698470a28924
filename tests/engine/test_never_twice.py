"""Never pay twice: what is on disk before what is on the wire, and crashes at every point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Status, Succeeded, Task
from creche.core.way import Way
from creche.engine.feed import OLDEST
from creche.engine.ports import Poll
from creche.errors import Outage
from creche.testing import FakeProvider, Standing
from tests.engine.conftest import Engine, count

RUNNING = Reading(status=JobStatus.PROCESSING)
MADE = Reading(status=JobStatus.WAITING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))


# -- disk before wire ----------------------------------------------------------------------------------


async def test_the_intent_is_on_disk_before_the_first_byte_leaves(engine: Engine, autojump_clock: object) -> None:
    """With the token that identifies the create."""
    found: list[tuple[Status, str]] = []
    sent: list[str] = []

    async def create(task: Task) -> Reading:
        found.append((engine.stored().status, engine.stored().token))
        sent.append(task.token)
        return MADE

    await engine.start(engine.algorithm(FakeProvider(create=[create])))
    await engine.submit()
    await engine.at_rest()
    assert found == [(Status.CREATING, sent[0])]


async def test_the_job_is_on_disk_before_it_is_polled(engine: Engine, autojump_clock: object) -> None:
    """So no crash can lose it any more."""
    found: list[Job | None] = []

    async def poll(job: Job) -> Reading:
        found.append(engine.stored().job)
        return DONE

    await engine.start(engine.algorithm(FakeProvider(poll=[poll])))
    await engine.submit()
    task = await engine.at_rest()
    assert found == [task.job]


async def test_nothing_is_sent_while_the_intent_cannot_be_written(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """The create waits for the store, not the other way round."""
    provider = FakeProvider(create=[Outage("away"), MADE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(1)
    engine.store.failing = True
    await trio.sleep_until(30)
    assert count(provider, "create") == 1
    engine.store.failing = False
    assert isinstance(await engine.result(), Succeeded)
    assert len(errors_logged) == 1


async def test_a_job_is_not_polled_while_its_id_cannot_be_written(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """It is held in memory, and created once only."""

    async def create(_: Task) -> Reading:
        engine.store.failing = True
        return MADE

    provider = FakeProvider(create=[create])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(30)
    assert count(provider, "poll") == 0
    engine.store.failing = False
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "create") == 1
    assert len(errors_logged) == 1


# -- crashes at every point ----------------------------------------------------------------------------


TASKS = ("a", "b", "c")


class Ledger:
    """A provider that keeps its jobs across our crashes. Each job runs for five seconds and needs its result fetched.

    `around_io` is awaited before and after whatever it does: that is where a crash may come.
    """

    def __init__(self, around_io: Callable[[], Awaitable[None]], *, repeatable: bool) -> None:
        self.repeatable = repeatable
        self.way = Way(repeat="token" if repeatable else "none")
        self.told_once = self.given_once = self.cancel_deletes = False
        self.cancel_ends: frozenset[JobStatus] = frozenset()
        self.batch, self.account = 1, ""
        self.jobs: dict[str, float] = {}
        self.owners: Counter[str] = Counter()
        self._io = around_io

    async def create(self, task: Task) -> Reading:
        await self._io()
        job = f"job-{task.token}" if self.repeatable else f"job-{len(self.jobs)}"
        if job not in self.jobs:
            self.jobs[job] = trio.current_time()
            self.owners[task.id] += 1
        await self._io()
        return msgspec.structs.replace(MADE, job=job)

    async def find(self, _: Task) -> Reading | None:
        raise AssertionError("nothing is looked up")

    def poll_of(self, job: Job) -> Poll:
        """Each question is the next `poll`."""
        return Standing(partial(self.poll, job))

    async def poll(self, job: Job) -> Reading:
        await self._io()
        ended = trio.current_time() >= self.jobs[job.id] + 5
        return msgspec.structs.replace(DONE, to_fetch=True) if ended else RUNNING

    async def poll_many(self, jobs: Sequence[Job]) -> dict[str, Reading]:
        return {job.id: await self.poll(job) for job in jobs}

    async def fetch(self, job: Job, reading: Reading) -> Reading:
        await self._io()
        return msgspec.structs.replace(reading, to_fetch=False, result=msgspec.Raw(f'"{job.id}"'.encode()))

    def assets_of(self, _job: Job, _reading: Reading) -> list[Call]:
        return []

    async def cancel(self, job: Job) -> bool:
        await self._io()
        return job.id in self.jobs


class Fuse:
    """Counts what is done with the outside world, and lets the engine crash at one of these points."""

    def __init__(self, blow_at: int, engine: Engine) -> None:
        self.clients = trio.CancelScope()
        self._count = 0
        self._blow_at = blow_at
        self._engine = engine

    @property
    def blown(self) -> bool:
        return self._count >= self._blow_at

    async def step(self) -> None:
        await trio.lowlevel.checkpoint()
        self._count += 1
        if self._count == self._blow_at:
            self._engine.cut_off()
            self.clients.cancel()
        if self._engine.is_cut_off:
            await trio.sleep_forever()


async def live_through_a_crash(new_engine: type[Engine], blow_at: int, *, repeatable: bool) -> bool:
    """Three tasks, a crash at one point, a restart. Whether that point was reached."""
    async with trio.open_nursery() as nursery:
        engine = new_engine(nursery)
        fuse = Fuse(blow_at, engine)
        engine.around_io = fuse.step
        ledger = Ledger(fuse.step, repeatable=repeatable)
        accepted: set[str] = set()

        async def client(task_id: str) -> None:
            await engine.submit(task_id)
            accepted.add(task_id)
            await engine.at_rest(task_id)

        await engine.start(engine.algorithm(ledger, rhythm=Rhythm(every_s=2), in_flight=2))
        with fuse.clients:
            async with trio.open_nursery() as clients:
                for task_id in TASKS:
                    clients.start_soon(client, task_id)
        await engine.crash()
        if not fuse.blown:
            return False
        await trio.sleep(7)
        await engine.start()
        for task_id in engine.store._tasks:
            await engine.at_rest(task_id)
        # What was accepted is there, and each end is told once.
        assert accepted <= engine.store._tasks.keys()
        settled = [task for task in engine.store._tasks.values() if task.ended]
        unknowns = [task for task in engine.store._tasks.values() if not task.ended]
        assert sorted(engine.feed_ids()) == sorted(task.id for task in settled)
        assert all(isinstance(task.outcome, Succeeded) for task in settled)
        reader = engine.feed.reader(OLDEST, lambda _: True)
        assert [item.task.id for item in await reader.next_nowait()] == engine.feed_ids()
        # One job per task, whatever happened; where that cannot be promised, the task says so.
        assert all(number == 1 for number in ledger.owners.values()), ledger.owners
        assert repeatable or len(unknowns) <= 2
        assert not (repeatable and unknowns)
        assert engine.supervisor.roster.slots("draw").holders == set()
        assert len(engine.pulse) == 0
        await engine.crash()
    return True


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_crash_at_any_point_makes_no_second_job(
    new_engine: type[Engine],
    repeatable: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Before and after every call of the store and the provider: all settle once, or are unknown where they must."""
    points = 0
    reached = True
    while reached:
        points += 1

        async def run(blow_at: int) -> bool:
            return await live_through_a_crash(new_engine, blow_at, repeatable=repeatable)

        reached = trio.run(run, points, clock=trio.testing.MockClock(autojump_threshold=0))
    assert points > 30
