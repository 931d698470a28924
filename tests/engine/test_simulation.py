"""The engine in a world that goes wrong at random: outages, lost replies, odd answers, cancels, crashes, a store that
is away. One seed is one history, and a failing seed replays. What must hold in every history is in `check_*`.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest
import trio
from trio._core import _run as trio_run
from trio.testing import MockClock

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Failed, Job, ServerFailed, Status, Succeeded, Task, TimedOut
from creche.core.way import Way
from creche.core.wire import ResolveIn, TaskIn
from creche.engine.feed import OLDEST
from creche.engine.ports import Poll
from creche.engine.task_run import LAST_CANCEL_S, LAST_FETCH_S
from creche.errors import (
    AnswerError,
    CreateRefused,
    CreateUncertain,
    CredentialsRefused,
    Draining,
    JobNotFound,
    Outage,
    StoreUnavailable,
    Throttled,
    UnknownAlgorithm,
    WrongStatus,
)
from creche.testing import Standing

if TYPE_CHECKING:
    from tests.engine.conftest import Engine

T = TypeVar("T")

TASKS = 14
TROUBLE_S = 1500.0
"""How long things go wrong; afterwards the world behaves and everything must come to rest."""

AT_PROVIDER = frozenset({Status.CREATING, Status.WAITING, Status.PROCESSING, Status.PAUSED, Status.CANCELLING})


class WorldJob:
    """A job as the provider knows it: when it ends, and how."""

    def __init__(self, token: str, ends_at: float, end: JobStatus) -> None:
        self.token = token
        self.born_at = trio.current_time()
        self.ends_at = ends_at
        self.end = end

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return trio.current_time() >= self.ends_at


class World:
    """A provider with a memory of its own, whose line is bad. Where it knows tokens, it makes one job of each."""

    def __init__(self, chance: random.Random, *, repeatable: bool, batch: int = 1) -> None:
        self.repeatable = repeatable
        self.way = Way(repeat="token" if repeatable else "none")
        self.told_once = self.given_once = False
        self.batch, self.account = batch, "one"
        self.jobs: dict[str, WorldJob] = {}
        self.tasks: dict[str, str] = {}
        self.well = False
        self.made = trio.Event()
        """Set when a job has just been made and its answer is on the way: a bad moment for a crash."""
        self._chance = chance
        self._away: list[tuple[float, float]] = [
            (start, start + chance.uniform(5, 200)) for start in (chance.uniform(0, TROUBLE_S) for _ in range(4))
        ]

    def jobs_of(self, task_id: str) -> list[WorldJob]:
        """Every job that was made for a task."""
        return [job for job in self.jobs.values() if self.tasks[job.token] == task_id]

    def _happens(self, probability: float) -> bool:
        return not self.well and self._chance.random() < probability

    async def _line(self) -> None:
        """The way there: slow, and at times closed."""
        await trio.sleep(self._chance.uniform(0.01, 1.5))
        if self._happens(0.02):
            await trio.sleep(30)
        now = trio.current_time()
        if not self.well and any(start <= now < end for start, end in self._away):
            raise self._chance.choice([Outage("away"), Throttled("429"), CredentialsRefused("401"), Outage("")])

    def _stumble(self) -> None:
        if self._happens(0.08):
            raise self._chance.choice([AnswerError("500"), Outage("503"), Throttled("429", retry_after_s=7.0)])

    async def create(self, task: Task) -> Reading:
        """Make a job; the answer may be lost behind it."""
        await self._line()
        if self._happens(0.1):
            raise Outage("no connection")
        known = next((name for name, job in self.jobs.items() if job.token == task.token), None)
        if known is None and self._happens(0.05):
            raise CreateRefused("422")
        if known is None or not self.repeatable:
            known = f"job-{len(self.jobs)}-{task.id}"
            end = self._chance.choice([*[JobStatus.SUCCEEDED] * 4, JobStatus.FAILED, JobStatus.CANCELLED])
            self.made.set()
            self.tasks[task.token] = task.id
            self.jobs[known] = WorldJob(task.token, trio.current_time() + self._chance.uniform(0, 120), end)
        if self._happens(0.25):
            raise self._chance.choice([CreateUncertain("lost"), AnswerError("500")])
        await trio.sleep(self._chance.uniform(0.01, 1.0))
        return msgspec.structs.replace(self._reading(known), job=known)

    async def find(self, _: Task) -> Reading | None:
        """Nobody may look here."""
        raise AssertionError

    def poll_of(self, job: Job) -> Poll:
        """Each question is the next `poll`."""
        return Standing(partial(self.poll, job))

    async def poll(self, job: Job) -> Reading:
        """How the job is."""
        await self._line()
        self._stumble()
        if self._happens(0.3) and trio.current_time() < self.jobs[job.id].born_at + 4:
            raise JobNotFound("not yet")
        return self._reading(job.id)

    async def poll_many(self, jobs: Sequence[Job]) -> dict[str, Reading]:
        """How the jobs are, but for some that are left out."""
        await self._line()
        self._stumble()
        return {job.id: self._reading(job.id) for job in jobs if not self._happens(0.2)}

    async def fetch(self, job: Job, reading: Reading) -> Reading:
        """Its result."""
        await self._line()
        self._stumble()
        return msgspec.structs.replace(reading, to_fetch=False, result=msgspec.json.encode(job.id))

    async def cancel(self, job: Job) -> bool:
        """End it, where that is possible."""
        await self._line()
        self._stumble()
        known = self.jobs[job.id]
        if known.ended:
            return True
        if self._happens(0.3):
            return False
        known.ends_at, known.end = trio.current_time() + self._chance.uniform(0, 5), JobStatus.CANCELLED
        return True

    def _reading(self, name: str) -> Reading:
        job = self.jobs[name]
        if job.ended:
            return Reading(status=job.end, to_fetch=job.end is JobStatus.SUCCEEDED)
        if self._happens(0.1):
            return Reading(status=JobStatus.PROCESSING, provider_status="odd", known=False)
        status = self._chance.choice([JobStatus.WAITING, JobStatus.PROCESSING, JobStatus.PAUSED])
        return Reading(status=status, progress=self._chance.random())


class Hearts:
    """What outside monitors see; `wrong` are ids that beat though their task had ended."""

    def __init__(self, engine: Engine) -> None:
        self.seen: dict[str, float] = {}
        self.wrong: list[str] = []
        self._engine = engine

    async def beat(self, *, alive: Sequence[str], ended: Sequence[str], active: Mapping[str, int], now: float) -> None:
        """Take it over."""
        await trio.lowlevel.checkpoint()
        assert sum(active.values()) == len(alive)
        self.wrong += [task_id for task_id in alive if self._engine.stored(task_id).ended]
        self.seen.update(dict.fromkeys(alive, now))
        for task_id in ended:
            self.seen.pop(task_id, None)

    async def aclose(self) -> None:
        """Nothing to close."""


class History:
    """One seed's history."""

    def __init__(self, seed: int, engine: Engine) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a repeatable one is wanted
        self.engine = engine
        self.worlds = {
            "token": World(self.chance, repeatable=True, batch=3),
            "once": World(self.chance, repeatable=False),
            "gamble": World(self.chance, repeatable=False),
        }
        self.hearts = engine.heartbeats = Hearts(engine)
        engine.dice = self.chance.random
        engine.around_io = self._around_io
        self.accepted: set[str] = set()
        self.cancelled: set[str] = set()
        self.resolved: set[str] = set()
        self.heard: list[str] = []
        self.disturbed_until: list[float] = []
        self._calls: set[trio.CancelScope] = set()
        self._up = trio.Event()

    async def _around_io(self) -> None:
        await trio.sleep(self.chance.uniform(0, 0.02))

    # -- the daemon's fate -------------------------------------------------------------------------------

    def _configuration(self) -> dict[str, Any]:
        every_s = self.chance.choice([1.0, 3.0])
        more: dict[str, dict[str, Any]] = {
            "token": {"in_flight": self.chance.choice([2, 3])},
            "once": {"in_flight": 3, "on_timeout": "cancel"},
            "gamble": {"on_unknown": "retry", "creates_per_s": 0.5, "polls_per_s": self.chance.choice([None, 1.0])},
        }
        return {
            name: self.engine.algorithm(world, name, rhythm=Rhythm(every_s=every_s), **more[name])
            for name, world in self.worlds.items()
        }

    async def _start(self) -> None:
        self.engine.algorithms = self._configuration()
        await self.engine.start()
        self._up.set()
        self.disturbed_until.append(trio.current_time())

    async def _restart(self, end: Callable[[], Awaitable[None]]) -> None:
        self._up = trio.Event()
        await end()
        for scope in self._calls:
            scope.cancel()
        self.engine.store.failing = False
        await trio.sleep(self.chance.uniform(0, 100))
        await self._start()

    async def go_wrong(self) -> None:
        """Things happen to the daemon and its store, until they do not any more."""
        while trio.current_time() < TROUBLE_S:
            await trio.sleep(self.chance.uniform(5, 150))
            match self.chance.choice(["crash", "stop", "store", "reload", "vanish"]):
                case "crash":
                    await self._wait_for_a_bad_moment()
                    await self._restart(self.engine.crash)
                case "stop":
                    await self._wait_for_a_bad_moment()
                    await self._restart(self.engine.stop)
                case "store":
                    self.engine.store.failing = True
                    await trio.sleep(self.chance.uniform(0.1, 60))
                    if self.chance.random() < 0.3:
                        await self._restart(self.engine.crash)
                    self.engine.store.failing = False
                    self.disturbed_until.append(trio.current_time() + 2)
                case "reload":
                    self.engine.supervisor.reload(self._configuration())
                case "vanish":
                    self.engine.supervisor.reload({})
                    await trio.sleep(self.chance.uniform(1, 100))
                    self.engine.supervisor.reload(self._configuration())
        for world in self.worlds.values():
            world.well = True

    async def _wait_for_a_bad_moment(self) -> None:
        world = self.chance.choice(list(self.worlds.values()))
        world.made = trio.Event()
        with trio.move_on_after(self.chance.uniform(0, 60)):
            await world.made.wait()

    # -- those who ask it --------------------------------------------------------------------------------

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer: while the daemon is away, or cannot write, ask again."""
        while True:
            await self._up.wait()
            with trio.CancelScope() as scope:
                self._calls.add(scope)
                try:
                    return await call()
                except (StoreUnavailable, Draining, UnknownAlgorithm):
                    await trio.sleep(1)
                finally:
                    self._calls.remove(scope)
            # Cut off: the daemon crashed, and whether it was done is not known.
            await trio.lowlevel.checkpoint()

    async def client(self, number: int) -> None:
        """Submits a task at some time, and may cancel it later."""
        await trio.sleep(self.chance.uniform(0, TROUBLE_S * 0.7))
        task_id = f"t{number}"
        starts = self.chance.random() < 0.2
        task_in = TaskIn(
            algorithm=self.chance.choice(list(self.worlds)),
            id=task_id,
            input=msgspec.Raw(b"{}"),
            priority=self.chance.randint(-1, 1),
            deadline=self.chance.choice([40, 300, 3600]),
            start_at=datetime.fromtimestamp(self.engine.wall() + 60, UTC) if starts else None,
        )
        await self._ask(lambda: self._submit(task_in))
        if self.chance.random() < 0.4:
            await trio.sleep(self.chance.uniform(0, 60))
            await self._ask(lambda: self._cancel(task_id))

    async def _submit(self, task_in: TaskIn) -> None:
        accepted = await self.engine.supervisor.submit(task_in)
        self.accepted.add(accepted.task.id)

    async def _cancel(self, task_id: str) -> None:
        try:
            task = await self.engine.supervisor.cancel(task_id)
        except WrongStatus:
            return
        if not task.ended:
            self.cancelled.add(task_id)

    async def operator(self) -> None:
        """Looks now and then for what is unknown, and decides."""
        while True:
            await trio.sleep(self.chance.uniform(20, 200))
            for task in [task for task in self.engine.store._tasks.values() if task.status is Status.UNKNOWN]:
                await self._ask(lambda task=task: self._resolve(task.id))  # type: ignore[misc]

    async def _resolve(self, task_id: str) -> None:
        jobs = [
            name for name, job in self.worlds["once"].jobs.items() if self.worlds["once"].tasks[job.token] == task_id
        ]
        action = self.chance.choice(["attach", "create", "drop"] if jobs else ["create", "drop"])
        decision = ResolveIn(action, jobs[-1]) if action == "attach" else ResolveIn(action)
        try:
            await self.engine.supervisor.resolve(task_id, decision)
        except WrongStatus:
            return
        self.resolved.add(task_id)

    async def listener(self) -> None:
        """Follows the feed across restarts, each time from the cursor it has."""
        cursor = OLDEST
        while True:
            await self._up.wait()
            with trio.CancelScope() as scope:
                self._calls.add(scope)
                reader = self.engine.feed.reader(cursor, lambda _: True)
                try:
                    while items := await reader.next(limit=3):
                        self.heard += [item.task.id for item in items]
                        cursor = reader.cursor
                except StoreUnavailable:
                    pass
                finally:
                    self._calls.remove(scope)
            await trio.sleep(0.5)

    async def auditor(self) -> None:
        """Slots and heartbeats are those of the live tasks, at every moment."""
        while True:
            await trio.sleep(self.chance.uniform(1, 10))
            supervisor = self.engine.supervisor
            if not self._up.is_set():
                continue
            live = {task_id: one.task for task_id, one in supervisor._live.items()}
            at_provider = {task_id for task_id, task in live.items() if task.status in AT_PROVIDER}
            holders = {task_id for name in self.worlds for task_id in supervisor.slots(name).holders}
            assert at_provider <= holders <= live.keys()
            assert self.engine.pulse._entered.keys() <= live.keys()
            assert not any(task.ended for task in live.values())

    # -- the whole of it ---------------------------------------------------------------------------------

    async def happen(self) -> None:
        """Live through it, then check."""
        await self._start()
        async with trio.open_nursery() as watching:
            watching.start_soon(self.listener)
            watching.start_soon(self.auditor)
            watching.start_soon(self.operator)
            async with trio.open_nursery() as doing:
                doing.start_soon(self.go_wrong)
                for number in range(TASKS):
                    doing.start_soon(self.client, number)
            with trio.fail_after(5000):
                while self.engine.supervisor.counts():  # noqa: ASYNC110 - seen from outside, as everything here
                    await trio.sleep(10)
            await trio.sleep(10)
            watching.cancel_scope.cancel()
        self.check_ends()
        self.check_jobs()
        self.check_truth()
        self.check_time()

    def check_ends(self) -> None:
        """Everything accepted has one end, told once and in order; nothing is held or beats any more."""
        stored = self.engine.store._tasks
        assert len(self.accepted) == TASKS
        assert self.accepted == stored.keys()
        assert all(task.ended for task in stored.values())
        assert Counter(self.engine.feed_ids()) == Counter(stored.keys())
        assert self.heard == self.engine.feed_ids()
        assert all(not self.engine.supervisor.slots(name).holders for name in self.worlds)
        assert len(self.engine.pulse) == 0
        assert self.hearts.wrong == []
        # A key whose removal a crash prevented stays until it expires, but its time stands still.
        assert all(self.engine.wall() - beat > 8 for beat in self.hearts.seen.values())

    def check_jobs(self) -> None:
        """One token, one job; only who accepts a second one by configuration may get it."""
        for name in ("token", "once"):
            tokens = Counter(job.token for job in self.worlds[name].jobs.values())
            assert not tokens or max(tokens.values()) == 1, f"{name}: {tokens}"

    def check_truth(self) -> None:
        """Each outcome is what happened at the provider."""
        for task in self.engine.store._tasks.values():
            world = self.worlds[task.algorithm]
            made = world.jobs_of(task.id)
            job = world.jobs[task.job.id] if task.job is not None else None
            assert task.id not in self.cancelled or task.cancel_reason == "client", f"{task.id}: its cancel was lost"
            match task.outcome:
                case Succeeded(result):
                    assert job is not None
                    assert job.end is JobStatus.SUCCEEDED
                    assert task.job is not None
                    assert msgspec.json.decode(result) == task.job.id
                case Failed(reason="provider"):
                    assert job is not None
                    assert job.end is JobStatus.FAILED
                case Failed(reason="create_refused"):
                    assert made == [] or task.id in self.resolved or task.algorithm == "gamble"
                case Failed(reason=reason):
                    assert reason == "result_refused"
                case Cancelled(reason="dropped"):
                    assert task.id in self.resolved
                case Cancelled(reason=reason):
                    assert reason == (task.cancel_reason or "provider")
                    over = job is not None and job.end is JobStatus.CANCELLED
                    assert over or (reason == "client" and (made == [] or task.id in self.resolved))
                case TimedOut() | ServerFailed():
                    assert job is not None
                case None:
                    pytest.fail(f"{task.id} has no outcome")

    def check_time(self) -> None:
        """Nobody waited beyond the deadline, but for the last poll, the cancel behind it, or a daemon that was away."""
        for task in self.engine.store._tasks.values():
            if task.job is None or task.settled_at is None:
                continue
            settled_at = task.settled_at - self.engine.wall() + trio.current_time()
            deadline_at = task.job.since + task.deadline_s - self.engine.wall() + trio.current_time()
            disturbed = max((at for at in self.disturbed_until if at <= settled_at), default=-math.inf)
            late_s = LAST_FETCH_S + (LAST_CANCEL_S if task.cancel_reason is not None else 0)
            assert settled_at <= max(deadline_at, disturbed) + late_s + 25, task.id


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens(new_engine: type[Engine], errors_logged: list[str], seed: int) -> None:
    """Every accepted task comes to its one true end, in time, without a second job."""

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            engine = new_engine(nursery)
            await History(seed, engine).happen()
            await engine.stop()
            nursery.cancel_scope.cancel()

    trio_run._r.seed(seed)
    trio.run(run, clock=MockClock(autojump_threshold=0))
    assert [line for line in errors_logged if not line.startswith("the store cannot be written")] == []
