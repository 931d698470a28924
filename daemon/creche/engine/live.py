"""What a task under minding consists of: its algorithm, the engine's tools, and its place in memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
import trio
from loguru import logger

from creche.core import task as rules
from creche.core.histogram import LONG_SECONDS, Histogram
from creche.core.polling import CONDITIONS, Decision, End, Rhythm
from creche.core.reading import Reading
from creche.core.reconcile import Doubt, Policy, Step, next_step
from creche.core.task import MAX_SAID, Answered, Outcome, Succeeded, Task, remember
from creche.core.webhooks import Delivery
from creche.core.wire import Live
from creche.engine.clock import Clock
from creche.engine.feed import Updates
from creche.engine.gate import Gate
from creche.engine.journal import Journal
from creche.engine.lease import UNLIMITED, Lease
from creche.engine.ports import AssetSaver, Provider, Save, Settle
from creche.engine.pulse import Pulse
from creche.engine.timetable import Alarm, Timetable
from creche.errors import ProviderError

if TYPE_CHECKING:
    from loguru import Logger

T = TypeVar("T")

MAX_TOLD = 1000
"""Things said once that are remembered; a provider that invents a word for every answer shall not fill the memory."""


CUT_OFF = "this node is cut off from its fleet: other nodes may take its tasks"


def log_about(task: Task) -> Logger:
    """The log, with what is to be told of a task in each line about it."""
    job = task.job.id if task.job is not None else None
    return logger.bind(task=task.id, algorithm=task.algorithm, user=task.user, job=job, trace=task.trace_id)


class Messages(Protocol):
    """Whoever tells other servers of tasks: webhooks, and collectors of events."""

    @property
    def callbacks(self) -> bool:
        """Whether tasks may name a server of their own."""

    def about(self, task: Task) -> tuple[Delivery, ...]:
        """The messages to be written together with a task's outcome, or with its job."""

    def look(self) -> None:
        """Some may have been written."""


class Traces(Protocol):
    """Whoever sends traces."""

    def tell(self, task: Task) -> None:
        """A task has ended."""


class _NoMessages:
    callbacks = False

    def about(self, _: Task) -> tuple[Delivery, ...]:
        return ()

    def look(self) -> None:
        return


NO_MESSAGES: Messages = _NoMessages()


class CutOff(Exception):
    """A request that must not be cut off was, because the daemon ends now."""


class Algorithm(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine knows of an algorithm. `on_unknown`: "ask" a person, or "retry" the create; `on_timeout`:
    "leave" the job, or "cancel" it. `saver` saves the files of results, where that is wanted.
    """

    name: str
    provider: Provider
    rhythm: Rhythm
    in_flight: int | None = None
    creates_per_s: float | None = None
    polls_per_s: float | None = None
    deadline_s: float = 3600.0
    saver: AssetSaver | None = None
    on_timeout: str = "leave"
    on_unknown: str = "ask"

    @property
    def policy(self) -> Policy:
        """How doubt about a create is dealt with."""
        retry = self.on_unknown == "retry"
        return Policy(way=self.provider.way, retry=retry, max_failures=self.rhythm.max_failures)


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What every task needs of the engine.

    `dice` gives a number from 0 to 1. `lease` tells whether the tasks are surely this node's. `counts` is what has
    happened so far, by event, algorithm and result; `lateness` by how many seconds polls began after they were due;
    `latency` how long answers took that were waited for, by algorithm and request; `durations` how long tasks took,
    from acceptance to end, by algorithm.
    """

    journal: Journal
    pulse: Pulse
    timetable: Timetable
    updates: Updates
    clock: Clock
    dice: Callable[[], float] = random.random
    counts: Counter[tuple[str, str, str]] = msgspec.field(default_factory=Counter)
    told: set[str] = msgspec.field(default_factory=set)
    lease: Lease = UNLIMITED
    messages: Messages = NO_MESSAGES
    traces: Traces | None = None
    lateness: Histogram = msgspec.field(default_factory=Histogram)
    latency: dict[tuple[str, str], Histogram] = {}
    durations: dict[str, Histogram] = {}

    def wall(self) -> float:
        """Unix seconds."""
        return self.clock.now()

    def is_news(self, what: str) -> bool:
        """Whether this is said for the first time; for what would otherwise be said once for every task."""
        if what in self.told or len(self.told) >= MAX_TOLD:
            return False
        self.told.add(what)
        return True

    def count(self, event: str, algorithm: str, result: str) -> None:
        """One more."""
        self.counts[event, algorithm, result] += 1

    def begin(self, task: Task) -> Save:
        """The write of a task that may have its job now, and of the messages about it."""
        return Save(task, self.messages.about(task))

    def settle(self, task: Task) -> Settle:
        """The write of a task with its outcome, and of the messages about it."""
        return Settle(task, self.messages.about(task))

    def note_settled(self, task: Task) -> None:
        """One more has ended, after so long; its messages are there, and its trace is whole."""
        self.messages.look()
        if self.traces is not None:
            self.traces.tell(task)
        self.count("settled", task.algorithm, task.status)
        durations = self.durations.get(task.algorithm)
        if durations is None:
            durations = self.durations[task.algorithm] = Histogram(LONG_SECONDS)
        durations.observe((task.settled_at or 0.0) - task.accepted_at)


class LiveTask:
    """A task in memory while it is minded; what the API shows beyond the record lives here."""

    __slots__ = (
        "_rested",
        "_tools",
        "_trouble",
        "alarm",
        "algorithm",
        "answered",
        "at_rest",
        "cancel_kept",
        "condition",
        "delay_s",
        "failures",
        "gate",
        "last_error",
        "leaving",
        "left_result",
        "lost",
        "on_wire",
        "outcome",
        "patience",
        "queued",
        "scope",
        "task",
    )

    def __init__(self, task: Task, algorithm: Algorithm, gate: Gate, tools: Tools, *, delay_s: float = 0.0) -> None:
        self.task = task
        self.algorithm = algorithm
        self.gate = gate
        self.delay_s = delay_s
        self.alarm: Alarm = tools.timetable.alarm()
        self.at_rest = False
        # Whether the wish to cancel is on disk, before which the provider must not hear of it; None: it is on its way.
        self.cancel_kept: bool | None = True if task.cancel_reason is not None else None
        self._rested: trio.Event | None = None
        self.patience: trio.CancelScope | None = None
        self.scope = trio.CancelScope()  # around all that the child does
        self.leaving = False
        self.lost = False  # to another node: nothing more is done or written here
        self.left_result = False  # in a file, by a process that ended before it could write the outcome
        self.queued = False  # for a slot, without a child
        self.on_wire: trio.CancelScope | None = None
        self.outcome: Outcome | None = None
        self.condition: str | None = None
        self.failures = 0
        self.last_error = ""
        self.answered = False
        self._trouble: str | None = None
        self._tools = tools

    def next_step(self, doubt: Doubt | None = None) -> Step:
        """What is to be done next about the task."""
        return next_step(self.task, self.algorithm.policy, self._tools.wall(), doubt)

    def saves(self, decision: Decision) -> bool:
        """Whether this is a success whose files are to be saved."""
        ends_well = isinstance(decision, End) and isinstance(decision.outcome, Succeeded)
        return ends_well and self.algorithm.saver is not None

    async def uncut(self, request: Callable[[], Awaitable[T]], lease: Lease = UNLIMITED) -> T:
        """One request to the provider, shielded: cut in the middle, what it did or brought would be lost.

        The provider bounds its own requests. When the daemon stops, the supervisor shortens the shield; then this
        raises `CutOff`. So it does without a request when the lease has run out.
        """
        if not lease.holds():
            raise CutOff(CUT_OFF)
        with trio.CancelScope(shield=True) as shield:
            self.on_wire = shield
            try:
                return await request()
            finally:
                self.on_wire = None
        raise CutOff("the daemon stopped while the request was on the wire")

    async def timed(self, request: str, ask: Callable[[], Awaitable[Reading]]) -> Reading:
        """What `ask` returns; how long that took is kept, also when it raises, and what the provider said."""
        began = trio.current_time()
        said = ""
        try:
            reading = await ask()
            said = reading.provider_status or reading.status
        except ProviderError as exc:
            said = str(exc)
            raise
        else:
            return reading
        finally:
            if said:
                self.hear(request, said, round(trio.current_time() - began, 3))
            latency = self._tools.latency.get((self.algorithm.name, request))
            if latency is None:
                latency = self._tools.latency[self.algorithm.name, request] = Histogram()
            latency.observe(trio.current_time() - began)

    def hear(self, request: str, said: str, seconds: float | None = None) -> None:
        """The provider has said something: it is kept with the record, and reaches the disk with it."""
        self.task = rules.hear(self.task, Answered(self._tools.wall(), request, said[:MAX_SAID], seconds))

    def let_go(self) -> None:
        """The daemon stops: what the children do ends here, and the job goes on without them."""
        self.leaving = True
        if self.patience is not None:
            self.patience.cancel()

    def lose(self) -> None:
        """Another node minds the task: what is done here ends, but for a request that must not be cut off."""
        self.lost = self.leaving = True
        self.scope.cancel()

    def come_to_rest(self) -> None:
        """No child works on the task any more; whoever waits for that hears of it."""
        self.at_rest = True
        rested, self._rested = self._rested, None
        if rested is not None:
            rested.set()

    async def wait_for_rest(self) -> None:
        """Returns when the task is at rest."""
        await trio.lowlevel.checkpoint()
        while not self.at_rest:
            if self._rested is None:
                self._rested = trio.Event()  # made only now: few tasks are ever waited for
            await self._rested.wait()

    def change(self, task: Task) -> None:
        """The record moved on: keep it, and tell watchers."""
        before = self.task
        if task is not before:
            self.task = remember(task, before, self._tools.wall())
            self._tools.updates.changed(self.task)
            if task.status is not before.status:
                log_about(task).debug("{}: {}, before {}", task.id, task.status, before.status)

    def failed(self, error: ProviderError) -> None:
        """A request brought this error: its provider may be away, unless the daemon is leaving it."""
        if not self.leaving:
            self.gate.failed(error)

    def stumble(self, error: ProviderError, failures: int) -> None:
        """An answer was an error; loud once per kind, not once per poll."""
        if self.leaving:
            return
        condition = error.code if error.code in CONDITIONS else None
        if error.code != self._trouble:
            log = log_about(self.task)
            log.warning("{}: {} ({})", self.task.id, error, error.code)
        self._trouble = error.code
        self.condition, self.failures, self.last_error = condition, failures, str(error)
        self._tools.updates.changed(self.task)

    async def wait_out(self, pause_s: float) -> None:
        """The provider is away, as others found out, who said so in the log: show it, and wait out the pause.

        And a little longer, by chance, so that not all come in one crowd once the provider is back.
        """
        trouble = self.gate.trouble
        if trouble is not None and trouble.code != self._trouble:
            self._trouble = self.condition = trouble.code
            self.last_error = str(trouble)
            self._tools.updates.changed(self.task)
        spread_s = self.algorithm.rhythm.every_s * self._tools.dice()
        await self.sleep_until_back(pause_s + spread_s, spread_s)

    async def sleep_until_back(self, seconds: float, spread_s: float) -> None:
        """Sleep, but no longer than `spread_s` after others have found that the provider is back."""
        self.gate.held[self.alarm] = spread_s
        try:
            await self.alarm.sleep(seconds)
        finally:
            del self.gate.held[self.alarm]

    def recover(self) -> None:
        """A good answer: whatever was wrong is over."""
        self.answered = True
        if self._trouble is not None:
            self._trouble = None
            self.condition, self.failures, self.last_error = None, 0, ""
            self._tools.updates.changed(self.task)

    def seen(self) -> Live:
        """What only this node knows of the task."""
        return Live(
            condition=self.condition,
            failures=self.failures,
            last_error=self.last_error,
            heartbeat_at=self._tools.pulse.last_beat(self.task.id),
        )
