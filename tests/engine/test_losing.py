"""A server that loses what it had accepted, as in a failover: who minds the task puts it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec
import pytest
import trio

from creche.core.analytics import Collector, events
from creche.core.fleet import Member
from creche.core.task import Status, Succeeded, Task
from creche.core.webhooks import Delivery
from creche.engine import fleet as fleet_module
from creche.engine.fleet import LOOK_EVERY, MEND_AFTER, Fleet
from creche.engine.journal import RunSync
from creche.engine.lease import Lease
from creche.engine.others import Link, OtherNodes
from creche.engine.ports import Accept, Membership, News, Places, Renewal, Save, Settle, Write, Written
from creche.errors import StoreUnavailable, TaskLost
from creche.testing import FakeProvider
from tests.engine.conftest import Lasting, submit_all
from tests.engine.test_others import in_place

if TYPE_CHECKING:
    from tests.engine.conftest import Engine


T = TypeVar("T")


class Forgetful:
    """The engine's store, as one of a fleet: it may lose tasks, and says so to who writes about them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commit = engine.store.commit
        self.accepts: list[list[str]] = []
        self.away = 0
        """So many commits fail."""
        self.heals = True
        engine.store.commit = self.commit  # type: ignore[method-assign]

    def lose(self, *task_ids: str) -> None:
        """All of them, with their keys."""
        store = self._engine.store
        for task_id in task_ids:
            task = store._tasks.pop(task_id)
            store._ids.pop(task.key or "", None)

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        if self.away and writes:
            self.away -= 1
            raise StoreUnavailable("away")
        if accepted := [write.task.id for write in writes if isinstance(write, Accept)]:
            self.accepts.append(accepted)
        return [self._write(write) for write in writes]

    def _write(self, write: Write) -> Written:
        if isinstance(write, Save | Settle) and write.task.id not in self._engine.store._tasks:
            return TaskLost(f"task {write.task.id} is not in the store")
        return self._commit([write])[0]


@pytest.fixture
def store(engine: Engine) -> Forgetful:
    """In the place of the engine's store."""
    return Forgetful(engine)


# -- at the next write ---------------------------------------------------------------------------------


async def test_an_outcome_brings_its_task_back(engine: Engine, store: Forgetful, autojump_clock: object) -> None:
    """It is settled once, heard once, and its job was made once."""
    provider = Lasting(20)
    await engine.start(engine.algorithm(provider))
    await engine.submit("a")
    await trio.sleep(5)
    store.lose("a")
    task = await engine.at_rest("a")
    assert (task.status, task.outcome) == (Status.SUCCEEDED, Succeeded(msgspec.Raw(b"7")))
    assert engine.stored("a") == task
    assert engine.feed_ids() == ["a"]
    assert provider.created == ["a"]


async def test_the_start_of_a_job_brings_its_task_back(
    engine: Engine, store: Forgetful, autojump_clock: object
) -> None:
    """Before its job is paid for: whoever takes over after a crash finds the create on record."""
    provider = Lasting(20)
    await engine.start(engine.algorithm(provider, in_flight=1))
    await submit_all(engine, ["a", "b"])
    store.lose("b")
    await engine.at_rest("a")
    await trio.sleep(5)
    assert provider.created == ["a", "b"]
    assert engine.stored("b").job is not None


async def test_a_server_that_is_away_again_is_waited_for(
    engine: Engine, store: Forgetful, autojump_clock: object, errors_logged: list[str]
) -> None:
    """Between the loss and the putting back: nothing is given up."""
    await engine.start(engine.algorithm(Lasting(20)))
    await engine.submit("a")
    await trio.sleep(5)
    store.lose("a")
    answer = store._write

    def lost_then_away(write: Write) -> Written:
        written = answer(write)
        if isinstance(written, TaskLost) and store.heals:
            store.heals, store.away = False, 5
        return written

    store._write = lost_then_away  # type: ignore[method-assign]
    assert (await engine.at_rest("a")).status is Status.SUCCEEDED
    assert (store.away, store.heals) == (0, False)
    assert errors_logged == ["the store cannot be written, tasks go on in memory: away"]
    assert engine.feed_ids() == ["a"]


async def test_a_key_that_has_a_new_task_keeps_it(
    engine: Engine, store: Forgetful, autojump_clock: object, errors_logged: list[str]
) -> None:
    """A client repeated its submit after the loss: that task stands, and the log tells of the job of the one before."""
    await engine.start(engine.algorithm(Lasting(20)))
    await engine.submit("a", key="k")
    before = engine.stored("a")
    await trio.sleep(5)
    store.lose("a")
    store._commit([Accept(msgspec.structs.replace(before, id="other"))])
    await trio.sleep(60)
    assert engine.supervisor.roster.lives == {}
    assert engine.feed_ids() == []
    assert engine.store.get("a") is None
    assert errors_logged == ["a: cannot be put back: its key is that of task other now; job job-a"]


# -- by looking ----------------------------------------------------------------------------------------


class Telling:
    """Whoever tells others of tasks: what is to be told is for the test to say."""

    callbacks = False

    def __init__(self, about: Callable[[Task], tuple[Delivery, ...]]) -> None:
        self._about = about

    def about(self, task: Task) -> tuple[Delivery, ...]:
        return self._about(task) if task.job is not None else ()

    def look(self) -> None:
        """Nobody does."""


class Alone:
    """The membership of a node that is alone in its fleet; what it owns is what the store has unfinished."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.counts_wrong = False
        """The number of what it owns is told as what the node minds, whatever it is."""

    def join(self, *_: object) -> None:
        """Nobody else is there."""

    def renew(self, *_: object) -> Renewal:
        owned = self._engine.supervisor.roster.lives if self.counts_wrong else self.owned()
        return Renewal(members={}, gone={}, waiting=0, counts={}, wishes={}, owned=len(owned), portions={})

    def owned(self) -> list[str]:
        return [task.id for task in self._engine.store.unfinished()]

    def news(self, _: int, places: Places, **__: object) -> News:
        return News([], rung=False, changed=frozenset(), places=places)


async def member(engine: Engine, nursery: trio.Nursery, provider: FakeProvider, run: RunSync = in_place) -> Alone:
    """The engine, as a node of a fleet."""
    lease = engine.lease = Lease(trio.current_time)
    await engine.start(engine.algorithm(provider))
    membership = Alone(engine)
    link = Link(cast("Membership", membership), run, in_place)
    tools = msgspec.structs.replace(engine.tools, lease=lease)
    about = Member(id="n", host="h", version="1", capacity=9000)
    fleet = Fleet(OtherNodes(link), supervisor=engine.supervisor, feed=engine.feed, tools=tools, about=about)
    await nursery.start(fleet.run)
    return membership


async def test_what_the_server_lost_is_put_back(
    engine: Engine, store: Forgetful, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Though nothing is to be written about it: the numbers differ, for as many rounds as a write may take."""
    await member(engine, nursery, Lasting(1000))
    await submit_all(engine, ["a", "b"])
    await trio.sleep(5)
    store.lose("a")
    await trio.sleep(3 * (MEND_AFTER + 1))
    assert {task.id: task.job and task.job.id for task in engine.store.unfinished()} == {"a": "job-a", "b": "job-b"}
    nursery.cancel_scope.cancel()


async def test_what_was_to_be_told_of_a_job_is_put_back_too(
    engine: Engine, store: Forgetful, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """The event of its creation was written with it, and lost with it."""
    collectors = [Collector(name="analytics.c", url="https://c")]
    engine.messages = lambda: Telling(lambda task: events(task, collectors, 0.0))
    await member(engine, nursery, Lasting(1000))
    await engine.submit("a")
    await trio.sleep(5)
    store.lose("a")
    engine.store.outbox.done(["a.created.analytics.c"])
    await trio.sleep(3 * (MEND_AFTER + 1))
    assert [one.id for one in engine.store.outbox.listed(5)] == ["a.created.analytics.c"]
    nursery.cancel_scope.cancel()


async def test_equal_numbers_hide_nothing(
    engine: Engine, store: Forgetful, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """One lost and one too many make the right sum; which they are is looked at now and then."""
    membership = await member(engine, nursery, Lasting(1000))
    membership.counts_wrong = True
    await submit_all(engine, ["a", "b"])
    await trio.sleep(5)
    store.lose("a")
    await trio.sleep(3 * (LOOK_EVERY + 1))
    assert sorted(membership.owned()) == ["a", "b"]
    nursery.cancel_scope.cancel()


async def test_many_are_put_back_some_at_a_time(
    engine: Engine,
    store: Forgetful,
    autojump_clock: object,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that the lease is renewed meanwhile; the rest follows at once."""
    monkeypatch.setattr(fleet_module, "MEND", 10)
    await member(engine, nursery, Lasting(1000))
    ids = [f"t{number}" for number in range(25)]
    await submit_all(engine, ids)
    await trio.sleep(5)
    store.lose(*ids)
    store.accepts.clear()
    await trio.sleep(3 * (MEND_AFTER + 1))
    assert [len(accepted) for accepted in store.accepts] == [10, 10, 5]
    assert len(engine.store.unfinished()) == 25
    nursery.cancel_scope.cancel()


async def test_what_is_accepted_during_a_look_is_minded_once(
    engine: Engine, store: Forgetful, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """It is in the store before it has its place here: the look waits until it has."""
    provider = Lasting(1000)
    looks = 0
    committed = trio.Event()

    async def commit_slowly(function: Callable[[], T], /) -> T:
        answer = function()
        committed.set()
        await trio.sleep(0.5)
        return answer

    async def run(function: Callable[[], T], /) -> T:
        nonlocal looks
        if getattr(function, "__name__", "") == "owned":
            looks += 1
            if looks == 1:
                engine.journal._run_write = commit_slowly
                nursery.start_soon(engine.submit, "b")
                await committed.wait()
        return await in_place(function)

    await member(engine, nursery, provider, run)
    taken_in: list[Task] = []
    take_in = engine.supervisor.take_in

    async def spy(tasks: Sequence[Task]) -> None:
        taken_in.extend(tasks)
        await take_in(tasks)

    engine.supervisor.take_in = spy  # type: ignore[assignment, method-assign]
    await engine.submit("a")
    await trio.sleep(3 * (LOOK_EVERY + 1))
    assert looks == 1
    assert taken_in == []
    assert provider.created == ["a", "b"]
    nursery.cancel_scope.cancel()
