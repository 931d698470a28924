"""Three tasks' lives, cut off at every single step that Trio takes: afterwards the books balance.

Cut off is the daemon as by SIGKILL, the daemon as by SIGTERM (all its tasks are cancelled, whatever they await), or
the client who waits for an answer. The lives have everything in them: a submit, a create that is refused for now, one
whose answer is lost, polls, a result that comes at the second attempt, a cancel, a slot to wait for.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest
import trio
from trio.testing import MockClock

from creche.core.analytics import Collector
from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Job, Succeeded, Task
from creche.core.webhooks import Delivery, Endpoint
from creche.engine.outbox import CLAIM_S, Outbox, Sent
from creche.engine.supervisor import Supervisor
from creche.errors import CreateUncertain, Draining, Outage, Throttled, WrongStatus
from creche.testing import FakeProvider
from tests.engine.conftest import Engine

DAY_S = 86400.0
TASKS = ("first", "second", "endless")
RUNNING = Reading(status=JobStatus.PROCESSING)


class Careful(FakeProvider):
    """Knows tokens, and makes one job of each; every call takes its time, and the first ones go wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, list[str]] = {}
        self.cancelled: set[str] = set()
        self._seen: Counter[str] = Counter()

    def _first(self, what: str) -> bool:
        self._seen[what] += 1
        return self._seen[what] == 1

    async def create(self, task: Task) -> Reading:
        await trio.sleep(0.3)
        if self._first(f"busy {task.id}"):
            raise Throttled("429")
        tokens = self.made.setdefault(task.id, [])
        if task.token not in tokens:
            tokens.append(task.token)
            await trio.sleep(0.3)
            raise CreateUncertain("lost")
        await trio.sleep(0.3)
        return Reading(status=JobStatus.WAITING, job=f"job-{task.id}")

    async def poll(self, job: Job) -> Reading:
        await trio.sleep(0.3)
        self._seen[job.id] += 1
        if job.id in self.cancelled:
            return Reading(status=JobStatus.CANCELLED)
        if self._seen[job.id] < 4 or job.id == "job-endless":
            return RUNNING
        return Reading(status=JobStatus.SUCCEEDED, to_fetch=True)

    async def fetch(self, job: Job, reading: Reading) -> Reading:
        await trio.sleep(0.3)
        if self._first(f"fetch {job.id}"):
            raise Outage("away")
        return msgspec.structs.replace(reading, to_fetch=False, result=msgspec.Raw(b"7"))

    async def cancel(self, job: Job) -> bool:
        await trio.sleep(0.3)
        if self._first(f"cancel {job.id}"):
            raise Outage("away")
        self.cancelled.add(job.id)
        return True


class Hook:
    """A receiver of webhooks that refuses the first attempt of each message."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.got: set[str] = set()

    async def __call__(self, endpoint: Endpoint | Collector, deliveries: Sequence[Delivery]) -> Sent:
        [delivery] = deliveries
        assert endpoint.name == delivery.endpoint
        await trio.sleep(0.3)
        self.tried[delivery.id] += 1
        if self.tried[delivery.id] == 1:
            return Sent(500)
        self.got.add(delivery.id)
        return Sent(200)


async def use(engine: Engine) -> None:
    """What clients do, and do again until it is answered: submit, cancel, wait for the ends."""
    for task_id in TASKS:
        with contextlib.suppress(Draining):
            await engine.submit(task_id)
    with trio.move_on_after(25):
        await engine.supervisor.wait("endless", 25)
    with contextlib.suppress(WrongStatus):
        await engine.supervisor.cancel("endless")
    for task_id in TASKS:
        await engine.at_rest(task_id)


class Steps(trio.abc.Instrument):
    """Does something right before Trio's step of a number, once."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.count = 0
        self.acted = False
        self._number = number
        self._act = act

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's signature
        """Trio is about to run a task up to its next await."""
        self.count += 1
        if self.count == self._number:
            self._act()
            self.acted = True


def check_books(engine: Engine, provider: Careful, hook: Hook) -> None:
    """One job and one end for each task, of which the receiver has heard, and nothing is held any more."""
    assert (hook.got, engine.store.outbox.count()) == ({f"{task_id}.e" for task_id in TASKS}, (0, 0))
    assert Counter(engine.feed_ids()) == Counter(TASKS)
    ends = [engine.stored(task_id).outcome for task_id in TASKS]
    assert ends == [Succeeded(msgspec.Raw(b"7"))] * 2 + [Cancelled("client")]
    assert {task_id: len(tokens) for task_id, tokens in provider.made.items() if len(tokens) != 1} == {}
    supervisor = engine.supervisor
    assert (supervisor.roster.lives, supervisor._arriving) == ({}, 0)
    gate = supervisor.roster.gate("draw")
    assert (set(gate.slots.holders), gate.slots.waiting, gate.held) == (set(), 0, {})
    assert len(engine.pulse) == 0
    assert (list(engine.journal._queue), engine.journal._notes) == ([], {})


def live_through(number: int, how: str) -> tuple[bool, int]:
    """One run, cut off at a step. Whether that step came, and how many there were before clients had what they want."""
    seen = False, 0

    async def run() -> None:
        nonlocal seen
        async with trio.open_nursery() as nursery:
            engine, provider, clients, hook = Engine(nursery), Careful(), trio.CancelScope(), Hook()
            told = {"e": Endpoint(name="e", url="https://u", keys=())}
            engine.messages = lambda: Outbox(
                engine.journal, hook, told, wall=engine.wall, dice=lambda: 0.5, max_inline=100, keep_s=DAY_S
            )

            def cut() -> None:
                if how != "client":
                    engine.cut_off() if how == "crash" else engine.supervisor.stop()
                clients.cancel()

            steps = Steps(number, cut)
            algorithm = engine.algorithm(provider, in_flight=2, rhythm=Rhythm(every_s=1.0))
            trio.lowlevel.add_instrument(steps)
            with clients:
                await engine.start(algorithm)
                await use(engine)
            trio.lowlevel.remove_instrument(steps)
            seen = steps.acted, steps.count
            if steps.acted and how != "client":
                await (engine.crash() if how == "crash" else engine.stop())
                await engine.start(algorithm)
            await use(engine)
            await trio.sleep(CLAIM_S + 20)  # what was being sent as it was cut off is sent again only then
            check_books(engine, provider, hook)
            await engine.stop()
            nursery.cancel_scope.cancel()

    trio.run(run, clock=MockClock(autojump_threshold=0))
    return seen


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["crash", "stop", "client"])
def test_cut_off_at_every_step(how: str) -> None:
    """Whatever was awaited just then."""
    number = 0
    acted = True
    while acted:
        number += 1
        try:
            acted, _ = live_through(number, how)
        except BaseExceptionGroup as group:
            raise AssertionError(f"{how} at step {number}") from group
    assert number > 200


def test_a_leak_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The books do not balance by themselves."""
    settled = Supervisor._settled

    def forget(self: Supervisor, live: object, written: object) -> None:
        settled(self, live, written)  # type: ignore[arg-type]
        self.roster.gate("draw").slots.hold("leak")

    monkeypatch.setattr(Supervisor, "_settled", forget)
    with pytest.raises(BaseExceptionGroup, match="Exceptions from Trio nursery"):
        live_through(0, "client")
