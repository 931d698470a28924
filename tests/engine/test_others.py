"""What a client of this node wants of a task that another node minds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import pytest
import trio

from creche.core.fleet import Member
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Status, Task, park_unknown, request_cancel
from creche.core.wire import ResolveIn
from creche.engine.fleet import CLAIM, Fleet
from creche.engine.lease import Lease
from creche.engine.others import ANSWER_S, CANCEL, Link, OtherNodes, Wish
from creche.engine.ports import Accept, Membership, News, Places, Renewal, Save
from creche.errors import WrongStatus
from creche.testing import FakeProvider, make_task

if TYPE_CHECKING:
    from tests.engine.conftest import Engine

T = TypeVar("T")


class Elsewhere:
    """The node that minds the task `t`: what it does when it hears of a wish."""

    def __init__(self, engine: Engine, does: Callable[[Any], Any]) -> None:
        self._engine = engine
        self._does = does

    def wish(self, task_id: str, _: bytes) -> bool:
        task = self._engine.store.get(task_id)
        assert task is not None
        self._engine.store.commit([Save(self._does(task))])
        return True


async def in_place(function: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return function()


class Rejoining:
    """A fleet in which the task `t` has been waiting for a node, with a wish of a client."""

    def __init__(self, engine: Engine, wish: bytes) -> None:
        self._engine = engine
        self._wish = wish
        self._waiting = ["t"]

    def join(self, *_: object) -> None:
        """Nobody else is there."""

    def renew(self, *_: object) -> Renewal:
        wishes = {"t": self._wish} if self._wish else {}
        owned = len(self._engine.supervisor.roster.lives)
        return Renewal(
            members={}, gone={}, waiting=len(self._waiting), counts={}, wishes=wishes, owned=owned, portions={}
        )

    def owned(self) -> list[str]:
        return list(self._engine.supervisor.roster.lives)

    def adopt(self, limit: int) -> list[Task]:
        taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return [task for task in map(self._engine.store.get, taken) if task is not None]

    def granted(self, *_: object) -> None:
        self._wish = b""

    def news(self, _: int, places: Places, **__: object) -> News:
        return News([], rung=False, changed=frozenset(), places=places)


async def member(engine: Engine, nursery: trio.Nursery, wish: bytes) -> None:
    """The engine, as a node that takes the task `t` over, with a wish."""
    link = Link(cast("Membership", Rejoining(engine, wish)), in_place, in_place)
    tools = msgspec.structs.replace(engine.tools, lease=Lease(trio.current_time))
    about = Member(id="n", host="h", version="1", capacity=9)
    fleet = Fleet(OtherNodes(link), supervisor=engine.supervisor, feed=engine.feed, tools=tools, about=about)
    await nursery.start(fleet.run)


async def cancel(engine: Engine, does: Callable[[Any], Any]) -> Status:
    """What a client is told who cancels while the create is on the wire at the other node."""
    await engine.start(engine.algorithm(FakeProvider()))
    membership = cast("Membership", Elsewhere(engine, does))
    engine.supervisor._others = OtherNodes(Link(membership, in_place, in_place))
    engine.store.commit([Accept(make_task("t", status=Status.CREATING))])
    return (await engine.supervisor.cancel("t")).status


async def test_a_cancel_that_is_granted_elsewhere_is_told(engine: Engine, autojump_clock: object) -> None:
    """As soon as the task shows it."""
    assert await cancel(engine, lambda task: request_cancel(task, "client")) is Status.CREATING
    assert trio.current_time() < ANSWER_S


async def test_a_cancel_that_comes_too_late_stands(
    engine: Engine, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Its owner made the task unknown before it heard of the wish: that stays, and the job that is found is ended."""
    provider = FakeProvider(poll=[Reading(status=JobStatus.CANCELLED)])
    await engine.start(engine.algorithm(provider))
    engine.store.commit([Accept(park_unknown(make_task("t", status=Status.CREATING), "lost"))])
    await member(engine, nursery, msgspec.json.encode(Wish("", ResolveIn(action=CANCEL))))
    await trio.sleep(10)
    assert (engine.stored().status, engine.stored().cancel_reason) == (Status.UNKNOWN, "client")
    with pytest.raises(WrongStatus, match="gives it up"):
        await engine.supervisor.cancel("t")
    await engine.supervisor.resolve("t", ResolveIn(action="attach", job="j"))
    assert await engine.result(within_s=60) == Cancelled("client")
    assert "cancel" in [call.method for call in provider.calls]
    nursery.cancel_scope.cancel()


async def test_a_wish_for_an_unknown_task_makes_no_job(
    engine: Engine, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Whoever decides that there was none gets none."""
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    engine.store.commit([Accept(park_unknown(make_task("t", status=Status.CREATING), "lost"))])
    await member(engine, nursery, msgspec.json.encode(Wish("", ResolveIn(action=CANCEL))))
    await trio.sleep(10)
    await engine.supervisor.resolve("t", ResolveIn(action="create"))
    assert await engine.result(within_s=60) == Cancelled("client")
    assert provider.calls == []
    nursery.cancel_scope.cancel()


async def test_a_cancel_that_nobody_has_answered_stands(engine: Engine, autojump_clock: object) -> None:
    """It is on record, and the client hears how the task is after a while."""
    assert await cancel(engine, msgspec.structs.replace) is Status.CREATING
    assert trio.current_time() >= ANSWER_S


async def test_a_cancel_comes_before_the_create(engine: Engine, autojump_clock: object, nursery: trio.Nursery) -> None:
    """A task that was cancelled while no node had it: who takes it makes no job."""
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    engine.store.commit([Accept(make_task("t"))])
    await member(engine, nursery, msgspec.json.encode(Wish("", ResolveIn(action=CANCEL))))
    assert await engine.result(within_s=10) == Cancelled("client")
    assert [call.method for call in provider.calls] == []
    nursery.cancel_scope.cancel()


async def test_a_long_adoption_lets_the_lease_be_renewed(
    engine: Engine, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Hundreds of tasks that wait, and a slow server: between two renewals only some are taken."""
    await engine.start(engine.algorithm(FakeProvider()))
    ids = [f"t{number}" for number in range(10 * CLAIM)]
    engine.store.commit([Accept(make_task(task_id)) for task_id in ids])
    calls: list[str] = []

    class Slow(Rejoining):
        def renew(self, *given: object) -> Renewal:
            calls.append("renew")
            return super().renew(*given)

        def adopt(self, limit: int) -> list[Task]:
            calls.append("adopt")
            return super().adopt(limit)

    async def slowly(function: Callable[[], T], /) -> T:
        await trio.sleep(0.8)
        return function()

    membership = Slow(engine, b"")
    membership._waiting = ids
    link = Link(cast("Membership", membership), slowly, in_place)
    tools = msgspec.structs.replace(engine.tools, lease=Lease(trio.current_time))
    about = Member(id="n", host="h", version="1", capacity=1000)
    fleet = Fleet(OtherNodes(link), supervisor=engine.supervisor, feed=engine.feed, tools=tools, about=about)
    await nursery.start(fleet.run)
    await trio.sleep(60)
    assert membership._waiting == []
    assert calls.count("adopt") >= 10
    assert "adopt adopt adopt adopt" not in " ".join(calls)
    nursery.cancel_scope.cancel()
