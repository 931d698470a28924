"""How the property tests run; an engine on a simulated clock which can be stopped, crashed and started again;
and providers for it, with what they were asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import settings
from loguru import logger
from trio._core import _run as trio_run

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Status, Task
from creche.core.wire import TaskIn
from creche.engine.clock import Clock
from creche.engine.feed import Feed, Updates
from creche.engine.journal import Journal
from creche.engine.lease import UNLIMITED, Lease
from creche.engine.live import NO_MESSAGES, Algorithm, Messages, Tools
from creche.engine.outbox import Outbox
from creche.engine.ports import Heartbeats, Provider
from creche.engine.pulse import Pulse
from creche.engine.supervisor import Supervisor
from creche.engine.timetable import Timetable
from creche.errors import ProviderError
from creche.testing import FakeProvider, MemoryStore

# The same examples every time, and no deadline that a busy machine could miss.
settings.register_profile("creche", deadline=None, derandomize=True, max_examples=60, stateful_step_count=30)
settings.load_profile("creche")

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0
"""Unix seconds at which the simulated clock reads 0."""

TOO_LONG_S = 200_000.0
"""A test that has not ended by then, simulated, never will: the pulse would go on beating for ever."""


class Engine:
    """The engine of a daemon, as the composition root puts it together, over a store that outlives it.

    The store runs in place, between two checkpoints. `crash` cuts everything off where it stands, and from then on
    nothing is written; `stop` is the orderly end. After either, `start` is a restart.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.store = MemoryStore()
        self.heartbeats: Heartbeats | None = None
        self.algorithms: dict[str, Algorithm] = {}
        self.max_tasks = 10_000
        self.lease: Lease = UNLIMITED
        self.dice: Callable[[], float] = lambda: 0.5
        self.messages: Callable[[], Messages] = lambda: NO_MESSAGES
        self.slept_s = 0.0
        """For how long the machine has slept; Trio's clock stood still then."""
        self.clock_set_by_s = 0.0
        """By how much the machine's clock was set."""
        self.around_io: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        """Awaited before and after each call of the store."""
        self._nursery = nursery
        self._ended: trio.Event | None = None
        self._cut_off = False

    async def start(self, *algorithms: Algorithm) -> None:
        """Returns when recovered (or crashed meanwhile)."""
        if algorithms:
            self.algorithms = {algorithm.name: algorithm for algorithm in algorithms}
        self._cut_off = False
        self.journal = Journal(self.store, run_write=self._run_in_place, run_read=self._run_in_place)
        floor, head = self.store.feed_bounds()
        self.feed = Feed(self.journal, identity=self.store.identity, floor=floor, head=head)
        self.pulse = Pulse(self.heartbeats, wall=self.wall)
        self.tools = Tools(
            journal=self.journal,
            pulse=self.pulse,
            timetable=Timetable(),
            updates=Updates(),
            clock=Clock(wall=lambda: self.wall() + self.clock_set_by_s, uptime=self._uptime),
            dice=self.dice,
            lease=self.lease,
            messages=self.messages(),
        )
        self.supervisor = Supervisor(self.tools, self.feed, self.algorithms, max_tasks=self.max_tasks)
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        up = trio.Event()
        self._nursery.start_soon(self._serve, up, self._ended)
        await up.wait()

    async def _serve(self, up: trio.Event, ended: trio.Event) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as ground:
                    ground.start_soon(self.tools.timetable.run)
                    ground.start_soon(self.pulse.run)
                    if isinstance(self.tools.messages, Outbox):
                        ground.start_soon(self.tools.messages.run)
                    async with trio.open_nursery() as writing:
                        writing.start_soon(self.journal.run)
                        async with trio.open_nursery() as minding:
                            await minding.start(self.supervisor.run)
                            up.set()
                        self.feed.close()
                        self.journal.close()
                    await self.pulse.beat()
                    ground.cancel_scope.cancel()
        finally:
            up.set()
            ended.set()

    async def stop(self) -> None:
        """As SIGTERM."""
        assert self._ended is not None
        self.supervisor.stop()
        await self._ended.wait()

    async def crash(self) -> None:
        """As SIGKILL: nothing more is written, no request goes on, nobody is told."""
        if self._ended is None:
            return
        self.cut_off()
        while not self._ended.is_set():
            for live in list(self.supervisor.roster.lives.values()):
                if live.on_wire is not None:
                    live.on_wire.cancel()
            with trio.move_on_after(0.001):
                await self._ended.wait()

    def cut_off(self) -> None:
        """The beginning of a crash, for use from within the engine."""
        self._cut_off = True
        self._scope.cancel()

    @property
    def is_cut_off(self) -> bool:
        """Whether it has crashed."""
        return self._cut_off

    async def _run_in_place(self, function: Callable[[], T], /) -> T:
        await self.around_io()
        if self._cut_off:
            await trio.sleep_forever()
        answer = function()
        await self.around_io()
        return answer

    # -- what tests ask for ------------------------------------------------------------------------------

    def wall(self) -> float:
        """Unix seconds, simulated; a clock that was set is not seen here."""
        return EPOCH_S + self._uptime()

    def _uptime(self) -> float:
        return trio.current_time() + self.slept_s

    @staticmethod
    def algorithm(provider: Provider, name: str = "draw", *, rhythm: Rhythm | None = None, **more: Any) -> Algorithm:  # noqa: ANN401 - any field of an algorithm
        """An algorithm as the configuration would give it."""
        return Algorithm(name=name, provider=provider, rhythm=rhythm or Rhythm(), **more)

    async def submit(self, task_id: str = "t", algorithm: str = "draw", **fields: Any) -> Task:  # noqa: ANN401 - any field of a TaskIn
        """Submit a task, with an input unless it has a job."""
        if "job" not in fields:
            fields.setdefault("input", msgspec.Raw(b"{}"))
        accepted = await self.supervisor.submit(TaskIn(algorithm=algorithm, id=task_id, **fields))
        return accepted.task

    async def at_rest(self, task_id: str = "t", within_s: float = 10_000.0) -> Task:
        """The task when it has ended or is unknown; that it comes to rest is part of the assertion."""
        task = await self.supervisor.wait(task_id, within_s)
        assert task.ended or task.status is Status.UNKNOWN, f"{task_id} is {task.status} after {within_s} s"
        return task

    async def result(self, task_id: str = "t", within_s: float = 10_000.0) -> object:
        """The outcome of a task that comes to one."""
        return (await self.at_rest(task_id, within_s)).outcome

    def stored(self, task_id: str = "t") -> Task:
        """The task as a restart would find it."""
        return self.store._tasks[task_id]

    def feed_ids(self) -> list[str]:
        """The ids of the settled tasks, in the order of the feed."""
        return [entry.task.id for entry in self.store.feed_after(0, 100_000)]

    def condition(self, task_id: str = "t") -> str | None:
        """What the API would show as the task's condition."""
        found = self.supervisor.roster.live_task(task_id)
        assert found is not None, f"{task_id} is not live"
        return found[1].condition


class Lasting(FakeProvider):
    """Its jobs run for a while each; `running` are those that exist now, `most` how many there ever were at once."""

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.ends: dict[str, float] = {}
        self.created: list[str] = []
        self.most = 0

    async def create(self, task: Task) -> Reading:
        """Make a job that ends by itself."""
        self.ends[f"job-{task.id}"] = trio.current_time() + self.seconds
        self.created.append(task.id)
        self.most = max(self.most, len(self.running))
        return await super().create(task)

    async def poll(self, job: Job) -> Reading:
        """Running, until it ends."""
        await super().poll(job)
        if job.id in self.running:
            return Reading(status=JobStatus.PROCESSING)
        return Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))

    async def cancel(self, job: Job) -> bool:
        """End it now."""
        self.ends[job.id] = trio.current_time()
        return await super().cancel(job)

    @property
    def running(self) -> list[str]:
        """The jobs that run now."""
        return [job for job, ends in self.ends.items() if trio.current_time() < ends]


async def submit_all(engine: Engine, task_ids: Sequence[str], priority: int = 0) -> None:
    """Submit one after the other."""
    for task_id in task_ids:
        await engine.submit(task_id, priority=priority)


async def settle_all(engine: Engine, task_ids: Sequence[str]) -> list[Task]:
    """Wait for all."""
    return [await engine.at_rest(task_id) for task_id in task_ids]


def until(at_s: float, before: Reading | ProviderError, then: Reading) -> FakeProvider:
    """A provider that says one thing before a time and another from then on."""

    async def answer(_: Job) -> Reading:
        said = before if trio.current_time() < at_s else then
        if isinstance(said, ProviderError):
            raise said
        return said

    return FakeProvider(poll=[answer])


def count(provider: FakeProvider, method: str) -> int:
    """How often a method was called."""
    return sum(call.method == method for call in provider.calls)


def times(provider: FakeProvider, method: str = "poll") -> list[float]:
    """When a method was called, in seconds since the start, to the tick."""
    return [round(call.at, 1) for call in provider.calls if call.method == method]


def waits(provider: FakeProvider, method: str = "poll") -> list[float]:
    """The seconds between two calls of a method."""
    at = times(provider, method)
    return [round(after - before, 1) for before, after in pairwise(at)]


@pytest.fixture
def new_engine() -> type[Engine]:
    """The class, for tests that bring their own clock and nursery."""
    return Engine


@pytest.fixture
async def engine(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> AsyncIterator[Engine]:
    """An engine that is to be started, on a clock that jumps whenever all wait.

    pytest-trio takes a clock only from a test's own arguments, hence each test asks for `autojump_clock` as well.
    """
    assert trio.current_time() == 0, "ask for autojump_clock too"
    engine = Engine(nursery)

    async def watch() -> None:
        await trio.sleep(TOO_LONG_S)
        raise trio.TooSlowError(f"not over after {TOO_LONG_S:.0f} simulated seconds")

    nursery.start_soon(watch)
    yield engine
    await engine.crash()


@pytest.fixture(autouse=True)
def _same_order_every_time() -> None:
    """Trio shuffles who runs first; the shuffle is the same in every run."""
    trio_run._r.seed(0)


@pytest.fixture
def warnings_logged() -> Iterator[list[str]]:
    """The messages that were logged at WARNING so far."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    yield messages
    logger.remove(sink)
