"""The watchdog of the service manager is fed while all is well, and only then."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest
import trio

from creche.edges.systemd import Notifier, watchdog_s
from creche.engine.journal import Journal
from creche.engine.timetable import Timetable
from creche.service_watchdog import LATE_S, MAX_START_S, START_MORE_S, START_STEP_S, tell_of_life, tell_of_start
from creche.testing import MemoryStore

T = TypeVar("T")


class Manager(Notifier):
    """Keeps what it is told, with the time."""

    def __init__(self) -> None:
        super().__init__(None)
        self.told: list[tuple[float, str]] = []
        self._began = trio.current_time()

    def _send(self, message: str) -> None:
        self.told.append((round(trio.current_time() - self._began, 1), message))

    def meals(self) -> list[float]:
        """When the watchdog was fed."""
        return [at for at, message in self.told if message.startswith("WATCHDOG=1\n")]


class World:
    """A daemon's store and timetable, and its manager; the store hangs until `answers` is set."""

    def __init__(self, nursery: trio.Nursery, watchdog: float | None = 8.0) -> None:
        self.answers = trio.Event()
        self.answers.set()
        self.store = MemoryStore()
        self.timetable = Timetable()
        self.manager = Manager()
        journal = Journal(self.store, run_write=self._run, run_read=self._run)
        nursery.start_soon(tell_of_life, self.manager, watchdog, lambda: "well", journal.answers, self.timetable)

    async def _run(self, function: Callable[[], T], /) -> T:
        await self.answers.wait()
        return function()


async def test_it_is_fed_four_times_as_often_as_need_be(autojump_clock: object, nursery: trio.Nursery) -> None:
    """With a line about what goes on."""
    world = World(nursery)
    await trio.sleep(7)
    assert world.manager.told == [(at, "WATCHDOG=1\nSTATUS=well") for at in (0, 2, 4, 6)]
    nursery.cancel_scope.cancel()


async def test_without_a_watchdog_the_line_still_comes(autojump_clock: object, nursery: trio.Nursery) -> None:
    """Every fifteen seconds."""
    world = World(nursery, None)
    await trio.sleep(31)
    assert world.manager.meals() == [0, 15, 30]
    nursery.cancel_scope.cancel()


async def test_a_store_that_hangs_starves_it(autojump_clock: object, nursery: trio.Nursery) -> None:
    """Until the store answers again."""
    world = World(nursery)
    await trio.sleep(3)
    world.answers = trio.Event()
    await trio.sleep(60)
    assert world.manager.meals() == [0, 2]
    world.answers.set()
    await trio.sleep(1)
    assert len(world.manager.meals()) == 3
    nursery.cancel_scope.cancel()


async def test_a_store_that_fails_does_not(autojump_clock: object, nursery: trio.Nursery) -> None:
    """A restart would repair no disk."""
    world = World(nursery)
    world.store.failing = True
    await trio.sleep(7)
    assert world.manager.meals() == [0, 2, 4, 6]
    nursery.cancel_scope.cancel()


async def test_sleepers_that_nobody_wakes_starve_it(
    autojump_clock: object, nursery: trio.Nursery, errors_logged: list[str]
) -> None:
    """The timetable does not run; that is said in the log."""
    world = World(nursery)
    nursery.start_soon(world.timetable.alarm().sleep, 1.0)
    await trio.sleep(20)
    assert max(world.manager.meals()) <= 1.0 + LATE_S + 2.0
    assert errors_logged[0].startswith("nothing wakes sleepers, since ")
    nursery.cancel_scope.cancel()


async def test_a_long_start_is_given_time_but_not_for_ever(autojump_clock: object) -> None:
    """Each message asks for a minute; after half an hour there is no more."""
    manager = Manager()
    await tell_of_start(manager)
    assert START_MORE_S > 2 * START_STEP_S
    assert [at for at, _ in manager.told] == [START_STEP_S * number for number in range(180)]
    assert trio.current_time() >= MAX_START_S


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": f"{os.getpid()}"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "nonsense"}, None),
    ],
)
def test_the_variables_say_how_often(environ: dict[str, str], seconds: float | None) -> None:
    """As sd_watchdog_enabled(3) reads them; children do not see them."""
    assert watchdog_s(environ) == seconds
    assert environ == {}
