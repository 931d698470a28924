"""A person's decision about a task that is unknown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import pytest
import trio
import trio.testing

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Status, Succeeded, Task
from creche.core.wire import ResolveIn
from creche.errors import CreateUncertain, InvalidRequest, StoreUnavailable, WrongStatus
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, count

RUNNING = Reading(status=JobStatus.PROCESSING)
MADE = Reading(status=JobStatus.WAITING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))
STOPPED = Reading(status=JobStatus.CANCELLED)
LOST = CreateUncertain("reset by peer")


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


async def unknown(engine: Engine, provider: FakeProvider) -> None:
    """A task that is unknown."""
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert (await engine.at_rest()).status is Status.UNKNOWN


async def test_resolve_attach(engine: Engine, autojump_clock: object) -> None:
    """A person found the job: it is minded, for its whole deadline."""
    provider = FakeProvider(create=[LOST], poll=[RUNNING, DONE], repeat="none")
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

    provider = FakeProvider(create=[create], repeat="none")
    await unknown(engine, provider)
    answered = await engine.supervisor.resolve("t", ResolveIn(action="create"))
    assert answered.status is Status.ACCEPTED
    assert isinstance(await engine.result(), Succeeded)
    assert len(set(tokens)) == 2


async def test_resolve_drop(engine: Engine, autojump_clock: object) -> None:
    """A person gave it up: that is its outcome, and the feed tells it."""
    provider = FakeProvider(create=[LOST], repeat="none")
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
    provider = FakeProvider(create=[LOST, MADE], poll=[RUNNING], repeat="none")
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
    provider = FakeProvider(create=[LOST, MADE], repeat="none")
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
    assert sum(engine.supervisor.roster.counts().values()) == 0


async def test_a_cancel_that_meets_a_decision_is_not_lost(engine: Engine, autojump_clock: object) -> None:
    """A cancel that comes while an attach is being written is passed on to the job."""
    provider = FakeProvider(create=[LOST], poll=[RUNNING, RUNNING, STOPPED], repeat="none")
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
    provider = FakeProvider(create=[LOST, MADE], repeat="none")
    await unknown(engine, provider)
    engine.store.failing = True
    with pytest.raises(StoreUnavailable):
        await engine.supervisor.resolve("t", decision)
    assert (await engine.supervisor.get("t")).status is Status.UNKNOWN
    assert engine.supervisor.roster.slots("draw").holders == set()
    assert (await engine.supervisor.wait("t", 100)).status is Status.UNKNOWN
    engine.store.failing = False
    await engine.supervisor.resolve("t", decision)
    assert (await engine.at_rest()).ended
    assert len(errors_logged) == 1


async def test_a_drop_is_durable_before_anybody_hears_of_it(engine: Engine, autojump_clock: object) -> None:
    """While it is being written, the task has no outcome for those who ask."""
    await unknown(engine, FakeProvider(create=[LOST], repeat="none"))
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
    await unknown(engine, FakeProvider(create=[LOST], repeat="none"))
    with pytest.raises(InvalidRequest):
        await engine.supervisor.resolve("t", decision)
    assert (await engine.supervisor.get("t")).status is Status.UNKNOWN


async def test_an_unknown_task_cannot_be_cancelled(engine: Engine, autojump_clock: object) -> None:
    """The answer says what can be done instead."""
    await unknown(engine, FakeProvider(create=[LOST], repeat="none"))
    with pytest.raises(WrongStatus, match="drop"):
        await engine.supervisor.cancel("t")


async def test_a_decision_is_taken_only_when_the_task_is_at_rest(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """While `unknown` cannot be written, a person's decision neither starts a second child nor is overwritten."""

    async def create(_: Task) -> Reading:
        engine.store.failing = True
        raise LOST

    provider = FakeProvider(create=[create], poll=[*[MADE] * 10, DONE], repeat="none")
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
