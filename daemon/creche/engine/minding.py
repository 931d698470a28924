"""One task's child of the supervisor: its one error boundary, and the writing of its outcome."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import trio
from loguru import logger

from creche.core import task as rules
from creche.core.polling import End, attributed, outcome_of
from creche.core.reading import JobStatus, Reading
from creche.core.task import IllegalMove, Outcome, ServerFailed
from creche.engine.journal import RETRY_EVERY_S
from creche.engine.live import LiveTask, Tools, log_about
from creche.engine.ports import Written
from creche.engine.saving import save_assets
from creche.engine.task_run import run_task
from creche.errors import AlreadySettled, NotOwner, StoreUnavailable

MAX_CRASHES = 5
"""Defects of ours in a row before a task is given up; between them it waits as after any error."""

_DEFECT = "a defect of creche; see its log"


async def mind(
    live: LiveTask,
    tools: Tools,
    settled: Callable[[LiveTask, Written], None],
    rest: Callable[[LiveTask], None],
) -> None:
    """Mind a task until it has its outcome, is unknown, or the daemon stops. Whatever happens in it, it stays in it.

    `settled` is called with what the store answers to the outcome; `rest` when the task comes to rest without one, or
    is another node's.
    """
    with live.scope:
        await _mind(live, tools, settled)
    if not live.at_rest and (live.lost or not live.leaving):
        rest(live)


async def _mind(live: LiveTask, tools: Tools, settled: Callable[[LiveTask, Written], None]) -> None:
    crashes = 0
    try:
        while (fault := await _run(live, tools)) is not None and live.outcome is None:
            if live.lost:
                return
            crashes = 1 if live.answered else crashes + 1
            live.answered = False
            log = log_about(live.task)
            log.opt(exception=fault).error("{}: a defect of creche, please report it", live.task.id)
            if crashes == MAX_CRASHES:
                live.outcome = ServerFailed(failures=crashes, message=_DEFECT, reason="internal")
                break
            live.last_error = _DEFECT
            await trio.sleep(2.0**crashes)
    finally:
        # Also when the daemon stops: what a request brought that was not cut off is written yet.
        if live.outcome is not None and not live.lost:
            await _settle(live, tools, settled)


async def _run(live: LiveTask, tools: Tools) -> Exception | None:
    """One attempt; a defect of ours is returned."""
    fault: Exception | None = None
    try:
        live.outcome = await (_take_left_result if live.left_result else run_task)(live, tools)
    except* NotOwner as group:
        live.lost, fault = True, group
    except* Exception as group:  # noqa: BLE001 - the boundary; Cancelled passes
        fault = group
    return fault


async def _take_left_result(live: LiveTask, tools: Tools) -> Outcome:
    """The result that came before the crash: perhaps the provider would not give it out again."""
    while True:
        try:
            result = await tools.journal.read(lambda store: store.result_of(live.task.id))
        except StoreUnavailable:
            await trio.sleep(RETRY_EVERY_S)
            continue
        assert result is not None, "the store said that it is there"  # noqa: S101
        partial = live.task.fetching is not None and live.task.fetching.partial
        reading = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(result), partial=partial)
        outcome = outcome_of(reading, None)
        if live.task.job is None or not live.saves(End(outcome)):
            return outcome
        return await save_assets(live, tools, live.task.job, reading)  # what was saved before is not asked for again


async def _settle(live: LiveTask, tools: Tools, settled: Callable[[LiveTask, Written], None]) -> None:
    """Write the outcome before anyone hears it; the journal goes on with it even if the daemon stops now."""
    outcome, now = live.outcome, tools.wall()
    assert outcome is not None, "as the caller has seen"  # noqa: S101
    try:
        # Made anew for every try: a cancel that was answered meanwhile belongs to it.
        await tools.journal.settle_surely(
            lambda: tools.settle(rules.settle(live.task, attributed(outcome, live.task.cancel_reason), now)),
            record=lambda: live.task,
            then=partial(settled, live),
        )
    except NotOwner:
        live.lost = True
    except AlreadySettled:
        return  # what stands was told, and said in the log, by `settled`
    except IllegalMove:
        logger.exception("{}: cannot be settled", live.task.id)
