"""Never pay twice: what is on disk before what is on the wire, answers that were lost, and crashes at every point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Failed, Job, Status, Succeeded, Task
from creche.core.wire import ResolveIn
from creche.engine.feed import OLDEST
from creche.errors import (
    AnswerError,
    CreateRefused,
    CreateUncertain,
    CredentialsRefused,
    InvalidRequest,
    Outage,
    ProviderError,
    StoreUnavailable,
    Throttled,
    WrongStatus,
)
from creche.testing import FakeProvider

if TYPE_CHECKING:
    from tests.engine.conftest import Engine

RUNNING = Reading(status=JobStatus.PROCESSING)
MADE = Reading(status=JobStatus.WAITING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))
STOPPED = Reading(status=JobStatus.CANCELLED)
LOST = CreateUncertain("reset by peer")


def count(provider: FakeProvider, method: str) -> int:
    """How often a method was called."""
    return sum(call.method == method for call in provider.calls)


def times(provider: FakeProvider, method: str) -> list[float]:
    """When a method was called, in seconds since the start."""
    return [round(call.at, 1) for call in provider.calls if call.method == method]


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


# -- creates that made no job --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "condition"),
    [
        (Outage("no connection"), "unreachable"),
        (Throttled("HTTP 429"), "throttled"),
        (CredentialsRefused("HTTP 401"), "unauthorized"),
    ],
)
@pytest.mark.parametrize("repeatable", [True, False])
async def test_busy_is_no_failure(
    engine: Engine,
    autojump_clock: object,
    error: ProviderError,
    condition: str,
    repeatable: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The task is put back to wait, visibly, and tried again, whatever the provider's class."""
    provider = FakeProvider(create=[*[error] * 4, MADE], repeatable=repeatable)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(20)
    assert engine.stored().status is Status.ACCEPTED
    assert engine.stored().note == str(error)
    assert engine.condition() == condition
    assert isinstance(await engine.result(), Succeeded)
    assert times(provider, "create") == [0, 3, 9, 21, 45]
    assert engine.stored().note == ""


async def test_a_busy_provider_says_when(engine: Engine, autojump_clock: object) -> None:
    """Retry-After of a create that was turned away is obeyed."""
    provider = FakeProvider(create=[Throttled("HTTP 429", retry_after_s=100), MADE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.at_rest()
    assert times(provider, "create") == [0, 105]


async def test_a_refused_create_is_a_failure(engine: Engine, autojump_clock: object) -> None:
    """There is no job and there will be none."""
    provider = FakeProvider(create=[CreateRefused("HTTP 422: no such model")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == Failed(reason="create_refused", message="HTTP 422: no such model")
    assert [call.method for call in provider.calls] == ["create"]


async def test_a_create_s_answer_may_already_be_the_end(engine: Engine, autojump_clock: object) -> None:
    """Then nothing is polled; the job's id is kept."""
    provider = FakeProvider(create=[msgspec.structs.replace(DONE, job="quick")])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    task = await engine.at_rest()
    assert task.outcome == Succeeded(result=msgspec.Raw(b"7"))
    assert task.job is not None
    assert task.job.id == "quick"
    assert [call.method for call in provider.calls] == ["create"]


async def test_a_create_s_end_that_must_be_fetched_is_fetched(engine: Engine, autojump_clock: object) -> None:
    """A job is over only when its result is in hand."""
    ended = msgspec.structs.replace(DONE, to_fetch=True)
    provider = FakeProvider(create=[ended], poll=[ended])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "fetch") == 1


# -- creates that may have made a job ------------------------------------------------------------------


def by_token(error: ProviderError, losses: int) -> tuple[FakeProvider, Counter[str]]:
    """A provider that knows its tokens and loses its first answers; and how often each token came."""
    tokens: Counter[str] = Counter()

    async def create(task: Task) -> Reading:
        tokens[task.token] += 1
        if tokens[task.token] <= losses:
            raise error
        return msgspec.structs.replace(MADE, job=f"job-{task.token}")

    return FakeProvider(create=[create]), tokens


@pytest.mark.parametrize("error", [LOST, AnswerError("HTTP 500")])
async def test_a_lost_create_is_repeated_with_the_same_token(
    engine: Engine, autojump_clock: object, error: ProviderError
) -> None:
    """Where the provider makes one job of it; waits grow."""
    provider, tokens = by_token(error, 3)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert list(tokens.values()) == [4]
    assert times(provider, "create") == [0, 3, 9, 21]


async def test_a_create_that_goes_wrong_is_told_in_the_log(
    engine: Engine, autojump_clock: object, warnings_logged: list[str]
) -> None:
    """Once per kind of error, not once per attempt."""
    provider, _ = by_token(AnswerError("HTTP 500"), 3)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.at_rest()
    assert len([line for line in warnings_logged if "HTTP 500" in line]) == 1


@pytest.mark.parametrize("error", [LOST, AnswerError("HTTP 500")])
async def test_a_lost_create_that_cannot_be_repeated_is_unknown(
    engine: Engine, autojump_clock: object, warnings_logged: list[str], error: ProviderError
) -> None:
    """At rest, loudly, with a note; `wait` returns, the feed has no outcome, and nothing is ever sent again."""
    provider = FakeProvider(create=[error], repeatable=False)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    task = await engine.supervisor.wait("t", 3000)
    assert trio.current_time() < 1
    assert task.status is Status.UNKNOWN
    assert str(error) in task.note
    assert engine.stored() == task
    await trio.sleep(10_000)
    assert count(provider, "create") == 1
    assert engine.feed_ids() == []
    assert any("creche resolve" in line for line in warnings_logged)


async def test_an_unknown_task_stays_unknown_after_a_restart(engine: Engine, autojump_clock: object) -> None:
    """And can still be resolved."""
    provider = FakeProvider(create=[LOST], repeatable=False)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.at_rest()
    await engine.crash()
    await engine.start()
    assert (await engine.supervisor.wait("t", 3000)).status is Status.UNKNOWN
    await trio.sleep(10_000)
    assert count(provider, "create") == 1
    await engine.supervisor.resolve("t", ResolveIn(action="attach", job="found"))
    assert isinstance(await engine.result(), Succeeded)


async def test_on_unknown_retry_repeats(engine: Engine, autojump_clock: object) -> None:
    """Where a second job costs less than a person."""
    provider = FakeProvider(create=[LOST, LOST, MADE], repeatable=False)
    await engine.start(engine.algorithm(provider, on_unknown="retry"))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "create") == 3


async def test_an_outage_after_a_loss_proves_nothing(engine: Engine, autojump_clock: object) -> None:
    """The repeated create did not arrive, but the first may have: a cancel waits until the job is known."""
    provider = FakeProvider(create=[LOST, *[Outage("away")] * 5, MADE], poll=[STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(5)
    assert engine.stored().status is Status.CREATING
    await engine.supervisor.cancel("t")
    await trio.sleep_until(10)
    assert (await engine.supervisor.get("t")).status is Status.CREATING
    assert await engine.result() == Cancelled(reason="client")
    assert [call.method for call in provider.calls] == [*["create"] * 7, "cancel", "poll"]


async def while_the_store_is_slow(engine: Engine, *calls: Callable[[], Awaitable[object]]) -> None:
    """Make calls one after another, all before the store has answered the first."""
    answer = trio.Event()
    before, engine.around_io = engine.around_io, answer.wait
    async with trio.open_nursery() as clients:
        for call in calls:
            clients.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
        engine.around_io = before
        answer.set()


# -- resolve -------------------------------------------------------------------------------------------


async def unknown(engine: Engine, provider: FakeProvider) -> None:
    """A task that is unknown."""
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert (await engine.at_rest()).status is Status.UNKNOWN


async def test_resolve_attach(engine: Engine, autojump_clock: object) -> None:
    """A person found the job: it is minded, for its whole deadline."""
    provider = FakeProvider(create=[LOST], poll=[RUNNING, DONE], repeatable=False)
    await unknown(engine, provider)
    await trio.sleep(5000)
    answered = await engine.supervisor.resolve("t", ResolveIn(action="attach", job="found"))
    assert answered.status is Status.WAITING
    assert engine.stored().job == answered.job
    assert isinstance(await engine.result(), Succeeded)
    assert [(call.method, call.id) for call in provider.calls[1:]] == [("poll", "found")] * 2


async def test_resolve_create(engine: Engine, autojump_clock: object) -> None:
    """A person decided that there is no job, or that a second one is all right: hence a new token."""
    tokens: list[str] = []

    async def create(task: Task) -> Reading:
        tokens.append(task.token)
        if len(tokens) == 1:
            raise LOST
        return MADE

    provider = FakeProvider(create=[create], repeatable=False)
    await unknown(engine, provider)
    answered = await engine.supervisor.resolve("t", ResolveIn(action="create"))
    assert answered.status is Status.ACCEPTED
    assert isinstance(await engine.result(), Succeeded)
    assert len(set(tokens)) == 2


async def test_resolve_drop(engine: Engine, autojump_clock: object) -> None:
    """A person gave it up: that is its outcome, and the feed tells it."""
    provider = FakeProvider(create=[LOST], repeatable=False)
    await unknown(engine, provider)
    answered = await engine.supervisor.resolve("t", ResolveIn(action="drop"))
    assert answered.outcome == Cancelled(reason="dropped")
    assert engine.stored().outcome == Cancelled(reason="dropped")
    assert engine.feed_ids() == ["t"]
    assert [call.method for call in provider.calls] == ["create"]


@pytest.mark.parametrize("first", [ResolveIn("attach", "found"), ResolveIn("create"), ResolveIn("drop")])
@pytest.mark.parametrize("second", [ResolveIn("attach", "other"), ResolveIn("create"), ResolveIn("drop")])
async def test_a_second_decision_is_refused(
    engine: Engine, autojump_clock: object, first: ResolveIn, second: ResolveIn
) -> None:
    """The first one stands."""
    provider = FakeProvider(create=[LOST, MADE], poll=[RUNNING], repeatable=False)
    await unknown(engine, provider)
    await engine.supervisor.resolve("t", first)
    with pytest.raises(WrongStatus):
        await engine.supervisor.resolve("t", second)


@pytest.mark.parametrize("first", [ResolveIn("attach", "found"), ResolveIn("create"), ResolveIn("drop")])
@pytest.mark.parametrize("second", [ResolveIn("attach", "other"), ResolveIn("create"), ResolveIn("drop")])
async def test_of_two_decisions_at_once_one_is_refused(
    engine: Engine, autojump_clock: object, first: ResolveIn, second: ResolveIn
) -> None:
    """Also when the second comes while the first is being written; the daemon goes on."""
    provider = FakeProvider(create=[LOST, MADE], repeatable=False)
    await unknown(engine, provider)
    refused: list[ResolveIn] = []

    async def resolve(decision: ResolveIn) -> None:
        try:
            await engine.supervisor.resolve("t", decision)
        except WrongStatus:
            refused.append(decision)

    await while_the_store_is_slow(engine, partial(resolve, first), partial(resolve, second))
    assert refused == [second]
    assert (await engine.at_rest()).ended
    await trio.sleep(100)
    assert engine.feed_ids() == ["t"]
    assert sum(engine.supervisor.counts().values()) == 0


async def test_a_cancel_that_meets_a_decision_is_not_lost(engine: Engine, autojump_clock: object) -> None:
    """A cancel that comes while an attach is being written is passed on to the job."""
    provider = FakeProvider(create=[LOST], poll=[RUNNING, RUNNING, STOPPED], repeatable=False)
    await unknown(engine, provider)
    await while_the_store_is_slow(
        engine,
        partial(engine.supervisor.resolve, "t", ResolveIn("attach", "found")),
        partial(engine.supervisor.cancel, "t"),
    )
    assert await engine.result() == Cancelled(reason="client")
    assert count(provider, "cancel") == 1


@pytest.mark.parametrize("decision", [ResolveIn("attach", "found"), ResolveIn("create"), ResolveIn("drop")])
async def test_a_decision_that_cannot_be_written_changes_nothing(
    engine: Engine, autojump_clock: object, errors_logged: list[str], decision: ResolveIn
) -> None:
    """The task is as unknown as before, holds no slot, and the same decision can be made again."""
    provider = FakeProvider(create=[LOST, MADE], repeatable=False)
    await unknown(engine, provider)
    engine.store.failing = True
    with pytest.raises(StoreUnavailable):
        await engine.supervisor.resolve("t", decision)
    assert (await engine.supervisor.get("t")).status is Status.UNKNOWN
    assert engine.supervisor.slots("draw").holders == set()
    assert (await engine.supervisor.wait("t", 100)).status is Status.UNKNOWN
    engine.store.failing = False
    await engine.supervisor.resolve("t", decision)
    assert (await engine.at_rest()).ended
    assert len(errors_logged) == 1


async def test_a_drop_is_durable_before_anybody_hears_of_it(engine: Engine, autojump_clock: object) -> None:
    """While it is being written, the task has no outcome for those who ask."""
    await unknown(engine, FakeProvider(create=[LOST], repeatable=False))
    heard: list[Task] = []

    async def ask() -> None:
        heard.append(await engine.supervisor.get("t"))

    await while_the_store_is_slow(engine, partial(engine.supervisor.resolve, "t", ResolveIn("drop")), ask)
    assert [task.outcome for task in heard] == [None]
    assert await engine.result() == Cancelled(reason="dropped")


@pytest.mark.parametrize(
    "decision", [ResolveIn("attach"), ResolveIn("create", "job"), ResolveIn("drop", "job"), ResolveIn("guess")]
)
async def test_a_decision_must_make_sense(engine: Engine, autojump_clock: object, decision: ResolveIn) -> None:
    """Otherwise nothing changes."""
    await unknown(engine, FakeProvider(create=[LOST], repeatable=False))
    with pytest.raises(InvalidRequest):
        await engine.supervisor.resolve("t", decision)
    assert (await engine.supervisor.get("t")).status is Status.UNKNOWN


async def test_an_unknown_task_cannot_be_cancelled(engine: Engine, autojump_clock: object) -> None:
    """The answer says what can be done instead."""
    await unknown(engine, FakeProvider(create=[LOST], repeatable=False))
    with pytest.raises(WrongStatus, match="drop"):
        await engine.supervisor.cancel("t")


async def test_a_decision_is_taken_only_when_the_task_is_at_rest(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """While `unknown` cannot be written, a person's decision neither starts a second child nor is overwritten."""

    async def create(_: Task) -> Reading:
        engine.store.failing = True
        raise LOST

    provider = FakeProvider(create=[create], poll=[*[MADE] * 10, DONE], repeatable=False)
    await engine.start(engine.algorithm(provider, rhythm=Rhythm(first_s=10, every_s=10)))
    await engine.submit()
    await trio.sleep_until(1.9)
    engine.store.failing = False
    decided = False
    while not decided:
        try:
            await engine.supervisor.resolve("t", ResolveIn("attach", "found"))
        except WrongStatus:
            await trio.sleep(0.1)
        else:
            decided = True
    await trio.sleep(5)
    assert engine.stored().job is not None
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "poll") == 11
    assert len(errors_logged) == 1


# -- cancel around the create --------------------------------------------------------------------------


async def test_a_cancel_before_the_create_needs_no_provider(engine: Engine, autojump_clock: object) -> None:
    """Nothing was sent, nothing will be."""
    provider = FakeProvider(create=[Throttled("busy", retry_after_s=1000)])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(10)
    await engine.supervisor.cancel("t")
    assert await engine.result(within_s=1) == Cancelled(reason="client")
    assert [call.method for call in provider.calls] == ["create"]


async def test_a_cancel_while_the_create_is_on_the_wire(engine: Engine, autojump_clock: object) -> None:
    """The create is not cut; when the job is known it is cancelled, and its own end is reported."""
    answer = trio.Event()

    async def create(_: Task) -> Reading:
        await answer.wait()
        return MADE

    provider = FakeProvider(create=[create], poll=[STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(5)
    answered = await engine.supervisor.cancel("t")
    assert (answered.status, answered.cancel_reason) == (Status.CREATING, "client")
    assert engine.stored().cancel_reason == "client"
    await trio.sleep_until(10)
    assert count(provider, "cancel") == 0
    answer.set()
    assert await engine.result() == Cancelled(reason="client")
    assert [call.method for call in provider.calls] == ["create", "cancel", "poll"]


async def test_a_cancel_on_the_wire_survives_a_crash(engine: Engine, autojump_clock: object) -> None:
    """The create is repeated to learn the job, which is then cancelled."""

    async def create(_: Task) -> Reading:
        if trio.current_time() < 20:
            await trio.sleep_forever()
        return MADE

    provider = FakeProvider(create=[create], poll=[STOPPED])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(5)
    await engine.supervisor.cancel("t")
    await engine.crash()
    await trio.sleep_until(30)
    await engine.start()
    assert await engine.result() == Cancelled(reason="client")
    assert [call.method for call in provider.calls] == ["create", "create", "cancel", "poll"]


# -- crashes at every point ----------------------------------------------------------------------------

TASKS = ("a", "b", "c")


class Ledger:
    """A provider that keeps its jobs across our crashes. Each job runs for five seconds and needs its result fetched.

    `around_io` is awaited before and after whatever it does: that is where a crash may come.
    """

    def __init__(self, around_io: Callable[[], Awaitable[None]], *, repeatable: bool) -> None:
        self.repeatable = repeatable
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

    async def poll(self, job: Job) -> Reading:
        await self._io()
        ended = trio.current_time() >= self.jobs[job.id] + 5
        return msgspec.structs.replace(DONE, to_fetch=True) if ended else RUNNING

    async def fetch(self, job: Job, reading: Reading) -> Reading:
        await self._io()
        return msgspec.structs.replace(reading, to_fetch=False, result=msgspec.Raw(f'"{job.id}"'.encode()))

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
        assert engine.supervisor.slots("draw").holders == set()
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


# -- where repeating leads nowhere ---------------------------------------------------------------------


@pytest.mark.parametrize("error", [AnswerError("odd"), CreateUncertain("HTTP 500", answered=True)])
async def test_five_error_answers_to_a_create_are_enough(
    engine: Engine, autojump_clock: object, error: ProviderError
) -> None:
    """Whether one of them made a job cannot be told, so a person decides; the create is not repeated for ever."""
    provider = FakeProvider(create=[error], repeatable=True)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    task = await engine.supervisor.wait("t", 3600)
    assert task.status is Status.UNKNOWN
    assert count(provider, "create") == 5


async def test_lost_answers_to_a_create_are_borne_for_as_long_as_a_job_may_take(
    engine: Engine, autojump_clock: object
) -> None:
    """Then a person decides: providers forget tokens, and the slot is kept from others."""
    provider = FakeProvider(create=[LOST])
    await engine.start(engine.algorithm(provider, deadline_s=1800.0))
    await engine.submit()
    await trio.sleep_until(1700)
    assert (await engine.supervisor.get("t")).status is Status.CREATING
    assert (await engine.supervisor.wait("t", 300)).status is Status.UNKNOWN


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_refusal_after_a_lost_answer(engine: Engine, autojump_clock: object, *, repeatable: bool) -> None:
    """It says that there is no second job, and nothing about the first."""
    provider = FakeProvider(create=[LOST, CreateRefused("HTTP 400")], repeatable=repeatable)
    await engine.start(engine.algorithm(provider, on_unknown="retry"))
    await engine.submit()
    assert (await engine.supervisor.wait("t", 3600)).status is Status.UNKNOWN
    assert count(provider, "create") == 2


async def test_a_create_that_is_under_way_is_asked_for_again(engine: Engine, autojump_clock: object) -> None:
    """The answer to the first was lost, and the provider is still working on it: it will tell of the job later."""
    provider = FakeProvider(create=[LOST, CreateRefused("HTTP 409", in_progress=True), MADE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)


async def test_a_cancel_gives_up_a_create_that_is_always_lost(engine: Engine, autojump_clock: object) -> None:
    """With one more attempt to learn of the job; then its slot is free for others."""
    provider = FakeProvider(create=[LOST])
    await engine.start(engine.algorithm(provider, in_flight=1))
    await engine.submit()
    await trio.sleep_until(1)
    await engine.supervisor.cancel("t")
    assert (await engine.supervisor.wait("t", 100)).status is Status.UNKNOWN
    assert count(provider, "create") == 2
    assert engine.supervisor.slots("draw").holders == set()
