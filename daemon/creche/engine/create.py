"""The create protocol: the intent is on disk before the first byte leaves, the job's id before anything else.

A request that may have arrived without our learning of its job is in *doubt*. Then the task neither waits for a turn
nor goes back to `accepted`, where a cancel would end it without asking the provider: the create is repeated, or its job
looked for, until it is known whether there is one, or the task is parked as `unknown`. Which of these is decided by
`core.reconcile`; here it is done.
"""

from __future__ import annotations

import math
from functools import partial

import msgspec
import trio

from creche.core import task as rules
from creche.core.polling import End, error_wait_s, outcome_of
from creche.core.reading import Reading
from creche.core.reconcile import Create, Doubt, Finish, LookUp, Park, Step
from creche.core.task import Failed, Job, Outcome, Status
from creche.engine.live import CUT_OFF, CutOff, LiveTask, Tools, log_about
from creche.errors import AnswerError, CreateRefused, CreateUncertain, Outage, ProviderError


async def create_job(live: LiveTask, tools: Tools) -> Outcome | None:
    """Make the task's job. The outcome, or None: the job runs, the task is `unknown` now, or the daemon stops."""
    return await _Creation(live, tools).run()


class _Creation:
    """The attempts to make one job, and to learn of it."""

    def __init__(self, live: LiveTask, tools: Tools) -> None:
        self._live = live
        self._tools = tools
        self._errors = 0
        self._doubt = Doubt() if live.task.status is Status.CREATING else None
        # On Trio's clock: since when it is so, and until when a create may have been on the wire.
        self._doubted_at = self._sent_at = trio.current_time()

    async def run(self) -> Outcome | None:
        live = self._live
        while True:
            ended: Reading | Outcome | None
            step = self._next()
            if live.leaving and isinstance(step, Create | LookUp):
                return None
            match step:
                case Finish():
                    return step.outcome
                case Park():
                    await self._park(step.note)
                    return None
                case LookUp():
                    ended = await self._look_up()
                case Create():
                    ended = await self._create()
                case _:
                    raise AssertionError(f"{step} is not about a create")
            if isinstance(ended, Reading):
                return await self._begin_job(ended)
            if ended is not None:
                return ended

    def _next(self) -> Step:
        if self._doubt is not None:
            self._doubt = msgspec.structs.replace(self._doubt, tried_s=trio.current_time() - self._doubted_at)
        return self._live.next_step(self._doubt)

    # -- create ------------------------------------------------------------------------------------------

    async def _create(self) -> Reading | Failed | None:
        """Send the create when its turn has come. None: decide anew."""
        live, tools = self._live, self._tools
        if not await self._wait_for_turn():
            return None
        await self._write_intent()
        knew_of_cancel = live.task.cancel_reason is not None
        try:
            reading = await self._send()
        except ProviderError as exc:
            live.gate.failed(exc)
            tools.count("creates", live.algorithm.name, exc.code)
            if isinstance(exc, CreateRefused) and self._doubt is None:
                return Failed(reason="create_refused", message=str(exc))
            await self._take_note(exc, knew_of_cancel=knew_of_cancel)
            return None
        live.gate.answered()
        tools.count("creates", live.algorithm.name, "good")
        return reading

    async def _wait_for_turn(self) -> bool:
        """Wait for `start_at`, a slot, and the gate. False when a cancel came first.

        In doubt a task has its slot, and waits whatever comes: a job may exist.
        """
        live, gate = self._live, self._live.gate
        while self._doubt is None and live.task.cancel_reason is None:
            wait_s = (live.task.start_at or 0.0) - self._tools.wall()
            if wait_s > 0:
                await live.alarm.sleep(wait_s)
            elif live.task.id in gate.slots.holders or gate.slots.take(live.task.id, live.task.priority):
                break
            else:
                # Rung when a slot is free, or by a cancel.
                await live.alarm.sleep(math.inf)
        rate = gate.creates
        turn = rate.turn(trio.current_time())
        while self._doubt is not None or live.task.cancel_reason is None:
            if (wait_s := gate.until(rate, turn)) > 0:
                await live.alarm.sleep(wait_s)
            elif (pause_s := gate.breaker.wait_s(trio.current_time())) > 0:
                await live.wait_out(pause_s)
            else:
                return True
        return False

    async def _write_intent(self) -> None:
        """The intent is on disk when this returns. Cancelled (the daemon stops) it is taken back: nothing was sent."""
        live, tools = self._live, self._tools
        live.change(rules.begin_create(live.task, tools.wall(), live.algorithm.provider.way.digest))
        try:
            await tools.journal.save_surely(lambda: live.task)
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            if self._doubt is None:
                live.change(rules.put_back(live.task, ""))
                tools.journal.note(live.task)
            raise

    async def _send(self) -> Reading:
        """One create request, not to be cut in the middle: that would leave open whether a job exists."""
        live = self._live
        if not self._tools.lease.holds():
            raise Outage(CUT_OFF)
        try:
            create = partial(live.algorithm.provider.create, live.task)
            return await live.uncut(partial(live.timed, "create", create))
        except CutOff as exc:
            raise CreateUncertain(str(exc)) from exc
        finally:
            self._sent_at = trio.current_time()

    async def _take_note(self, error: ProviderError, *, knew_of_cancel: bool) -> None:
        """What an error of a create tells about the job; then wait, unless something else is to be done at once."""
        live, doubt = self._live, self._doubt
        if isinstance(error, CreateUncertain | AnswerError):
            if doubt is None:
                doubt, self._doubted_at = Doubt(), trio.current_time()
            answered = isinstance(error, AnswerError) or error.answered
            self._doubt = msgspec.structs.replace(
                doubt,
                why=f"cannot tell whether a job was made: {error}",
                failures=doubt.failures + answered,
                # Whoever cancels wants an end: one attempt was made since to learn of the job.
                hopeless=knew_of_cancel and live.algorithm.provider.way.repeat != "lookup",
            )
        elif isinstance(error, CreateRefused) and doubt is not None:
            # Of a repetition: it says that no second job is made, and nothing about the first.
            self._doubt = msgspec.structs.replace(
                doubt,
                why=f"an earlier create may have made a job; asked again, the provider said: {error}",
                failures=doubt.failures + error.in_progress,
                hopeless=not error.in_progress,
            )
        elif doubt is None:
            await self._put_back(str(error))
        await self._stumble(error)

    # -- look up -----------------------------------------------------------------------------------------

    async def _look_up(self) -> Reading | None:
        """Look for the job at the provider. None: decide anew.

        One that is not found may only not be shown yet. Once it would be, there is none: then the create was never
        sent, as far as anyone is concerned.
        """
        live, gate = self._live, self._live.gate
        while (pause_s := gate.breaker.wait_s(trio.current_time())) > 0:
            await live.wait_out(pause_s)
        assert self._doubt is not None, "only a create that was sent is looked for"  # noqa: S101
        asked_at = trio.current_time()
        try:
            reading = await live.algorithm.provider.find(live.task)
        except ProviderError as exc:
            gate.failed(exc)
            self._doubt = msgspec.structs.replace(
                self._doubt,
                why=f"{self._doubt.why.partition('; looked for')[0]}; looked for, the provider said: {exc}",
                failures=self._doubt.failures + isinstance(exc, AnswerError),
            )
            await self._stumble(exc)
            return None
        gate.answered()
        live.recover()
        if reading is not None:
            return reading
        appears_s = self._sent_at + live.algorithm.provider.way.appears_within_s - asked_at
        if appears_s > 0:
            await live.alarm.sleep(max(live.algorithm.rhythm.every_s, appears_s / 4))
        else:
            self._doubt = None
            await self._put_back("looked for at the provider: the create made no job")
        return None

    # -- both --------------------------------------------------------------------------------------------

    async def _put_back(self, note: str) -> None:
        """There certainly is no job."""
        live = self._live
        live.change(rules.put_back(live.task, note))
        await self._tools.journal.save_surely(lambda: live.task)

    async def _stumble(self, error: ProviderError) -> None:
        """Show an error, and wait after it if the next step is to ask the provider again."""
        live = self._live
        self._errors += 1
        live.stumble(error, self._doubt.failures if self._doubt is not None else 0)
        if isinstance(self._next(), Create | LookUp):
            every_s = live.algorithm.rhythm.every_s
            await live.alarm.sleep(error_wait_s(every_s, self._errors, error.retry_after_s, self._tools.dice()))

    async def _begin_job(self, reading: Reading) -> Outcome | None:
        live, tools = self._live, self._tools
        assert reading.job is not None, "the contract of Provider.create"  # noqa: S101
        now = tools.wall()
        live.recover()
        live.change(rules.begin_job(live.task, Job(reading.job, reading.keep, now), now, reading))
        # In the log first: should the store fail for good, this line is all that tells of the job.
        log = log_about(live.task)
        log.info("{}: job {} created", live.task.id, reading.job)
        await tools.journal.save_surely(lambda: live.task, tools.messages.about(live.task))
        if reading.status.running or reading.to_fetch:
            return None
        outcome = outcome_of(reading, live.task.cancel_reason)
        if live.saves(End(outcome)):
            live.change(msgspec.structs.replace(live.task, fetching=reading))
            return None
        return outcome

    async def _park(self, note: str) -> None:
        """Leave the decision to a person."""
        live = self._live
        live.change(rules.park_unknown(live.task, note))
        await self._tools.journal.save_surely(lambda: live.task)
        log = log_about(live.task)
        log.warning("{}: unknown whether its job exists ({}); decide with `creche resolve`", live.task.id, note)
