"""What a client of this node wants of a task that another node minds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import pytest
import trio

from creche.core.task import Status, park_unknown, request_cancel
from creche.engine.others import ANSWER_S, Link, OtherNodes
from creche.engine.ports import Accept, Membership, Save
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


async def test_a_cancel_that_comes_too_late_is_refused(engine: Engine, autojump_clock: object) -> None:
    """Its owner made the task unknown before it heard of the wish: nobody keeps that."""
    with pytest.raises(WrongStatus, match="gives it up"):
        await cancel(engine, lambda task: park_unknown(task, "lost"))
    assert trio.current_time() < ANSWER_S


async def test_a_cancel_that_nobody_has_answered_stands(engine: Engine, autojump_clock: object) -> None:
    """It is on record, and the client hears how the task is after a while."""
    assert await cancel(engine, msgspec.structs.replace) is Status.CREATING
    assert trio.current_time() >= ANSWER_S
