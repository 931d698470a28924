"""Waiting for tasks to come to rest, with bars where a person looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from creche.cli import Exit, exit_of, worse
from creche.cli.output import Bars, warn
from creche.client import ApiError, Client, Json

LOOK_S = 1.0
"""How often a task is asked for while its bar is shown."""

QUIET_LOOK_S = 30.0
"""The same where no person looks: the daemon is left to answer at the end."""


def wait_for(client: Client, ids: Iterable[str], timeout_s: float | None, finish: Callable[[Json], None]) -> Exit:
    """Wait for each task in turn and hand it to `finish`; the daemon minds them all meanwhile. Raises `TooSlow`.

    `timeout_s` is for all of them together. A task that the daemon refuses to show is told and passed over.
    Whoever interrupts the waiting is told how to go on with it.
    """
    ids = list(ids)
    end_at = None if timeout_s is None else time.monotonic() + timeout_s
    worst = Exit.OK
    with Bars() as bars:
        step_s = LOOK_S if bars.shown else QUIET_LOOK_S
        for number, task_id in enumerate(ids):
            left_s = None if end_at is None else max(end_at - time.monotonic(), 0.0)
            try:
                for task in client.states(task_id, left_s, step_s=step_s):
                    bars.show([task])
            except ApiError as exc:
                bars.hide()
                warn(f"task {task_id}: {exc}")
                worst = worse(worst, Exit.REFUSED)
                continue
            except KeyboardInterrupt:
                bars.hide()
                left = ids[number:]
                go_on = f"the task goes on: creche wait {task_id}"
                warn(go_on if len(left) == 1 else f"{len(left)} tasks go on: creche list --status unfinished")
                raise
            bars.hide()
            finish(task)
            worst = worse(worst, exit_of(task["status"]))
    return worst
