"""Tells the service manager how the daemon is: while it starts, and then as long as it is well.

The watchdog is fed while the loop turns, the store answers and sleepers are woken in time: what cannot be seen from
within, a loop that is blocked or a disk that hangs, keeps this from feeding it, and systemd starts the daemon anew. A
provider, a Redis or a disk that answers with errors is no reason for that: a restart would not help.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from loguru import logger

from creche.edges.systemd import Notifier
from creche.engine.timetable import Timetable

START_STEP_S = 10.0
START_MORE_S = 60.0
MAX_START_S = 1800.0
"""A start that takes longer than this is stuck."""

STATUS_EVERY_S = 15.0
"""How often the status line is new where no watchdog asks for more."""

LATE_S = 5.0
"""A timetable that is later than this wakes nobody."""


async def tell_of_start(notifier: Notifier) -> None:
    """Ask for more time, until cancelled; recovery of many tasks may need it."""
    for _ in range(round(MAX_START_S / START_STEP_S)):
        notifier.starting(START_MORE_S, "starting: the store is read, and unfinished tasks are taken up again")
        await trio.sleep(START_STEP_S)


async def tell_of_life(
    notifier: Notifier,
    watchdog_s: float | None,
    summary: Callable[[], str],
    answers: Callable[[], Awaitable[None]],
    timetable: Timetable,
) -> None:
    """Feed the watchdog, with a line about what goes on, until cancelled. `answers` returns unless the store hangs."""
    every_s = STATUS_EVERY_S if watchdog_s is None else min(STATUS_EVERY_S, watchdog_s / 4)
    while True:
        await answers()
        if timetable.late_s < LATE_S:
            notifier.alive(summary())
        else:
            logger.error("nothing wakes sleepers, since {:.0f} s", timetable.late_s)
        await trio.sleep(every_s)
