"""The create protocol: the intent is on disk before the first byte leaves, the job's id before anything else.

A request that may have arrived without our learning of its job makes the task *uncertain*. Then it neither waits for
a turn nor goes back to `accepted`, where a cancel would end it without asking the provider: the create is repeated with
the same token until the job is known, or the task is parked as `unknown` where repeating is not safe or leads nowhere.
"""

from __future__ import annotations

import math

import trio
from loguru import logger

from creche.core import task as rules
from creche.core.polling import error_wait_s, outcome_of
from creche.core.reading import Reading
from creche.core.task import Cancelled, Failed, Job, Outcome, Status
from creche.engine.live import LiveTask, Tools
from creche.errors import AnswerError, CreateRefused, CreateUncertain, ProviderError


async def create_job(live: LiveTask, tools: Tools) -> Outcome | None:
    """Make the task's job. Returns None when it runs or when the task is `unknown` now, else the outcome."""
    return await _Creation(live, tools).run()


class _Creation:
    """The attempts to make one job."""

    def __init__(self, live: LiveTask, tools: Tools) -> None:
        self._live = live
        self._tools = tools
        self._errors = 0
        self._failures = 0
        self._hopeless = False
        self._knew_of_cancel = False
        self._uncertain = live.task.status is Status.CREATING
        self._uncertain_since = tools.wall()
        self._doubt = "the daemon ended while the create was on the wire"

    async def run(self) -> Outcome | None:
        live, tools = self._live, self._tools
        while True:
            if self._uncertain and not self._may_repeat():
                await self._park(self._doubt)
                return None
            if not await self._wait_for_turn():
                return Cancelled(reason=live.task.cancel_reason or "client")
            await self._write_intent()
            self._knew_of_cancel = live.task.cancel_reason is not None
            try:
                reading = await self._send()
            except ProviderError as exc:
                live.gate.failed(exc)
                if isinstance(exc, CreateRefused) and not self._uncertain:
                    tools.count("creates", live.algorithm.name, exc.code)
                    return Failed(reason="create_refused", message=str(exc))
                await self._take_note(exc)
            else:
                live.gate.answered()
                tools.count("creates", live.algorithm.name, "good")
                return await self._begin_job(reading)

    def _may_repeat(self) -> bool:
        """Whether an uncertain create is sent once more.

        Not for ever: providers forget tokens, and a task that nobody can end would keep its slot from others. A job has
        its deadline to end, and doubt about it no longer.
        """
        algorithm = self._live.algorithm
        doubted_s = self._tools.wall() - self._uncertain_since
        enough = self._failures >= algorithm.rhythm.max_failures or doubted_s >= self._live.task.deadline_s
        return algorithm.may_repeat and not enough and not self._hopeless

    async def _take_note(self, error: ProviderError) -> None:
        """What an error tells about the job; then wait, unless the task will be parked."""
        live, tools = self._live, self._tools
        tools.count("creates", live.algorithm.name, error.code)
        self._errors += 1
        if isinstance(error, CreateUncertain | AnswerError):
            if not self._uncertain:
                self._uncertain, self._uncertain_since = True, tools.wall()
            self._doubt = f"cannot tell whether a job was made: {error}"
            self._failures += isinstance(error, AnswerError) or error.answered
            # Whoever cancels wants an end: one attempt was made since to learn of the job.
            self._hopeless = self._knew_of_cancel
        elif isinstance(error, CreateRefused):
            # Of a repetition: it says that no second job is made, and nothing about the first.
            self._doubt = f"an earlier create may have made a job; asked again, the provider said: {error}"
            self._failures += error.in_progress
            self._hopeless = not error.in_progress
        elif not self._uncertain:
            live.change(rules.put_back(live.task, str(error)))
            await tools.journal.save_surely(lambda: live.task)
        live.stumble(error, self._failures)
        if self._may_repeat() or not self._uncertain:
            every_s = live.algorithm.rhythm.every_s
            await live.alarm.sleep(error_wait_s(every_s, self._errors, error.retry_after_s, tools.dice()))

    async def _wait_for_turn(self) -> bool:
        """Wait for `start_at`, a slot, and the gate. False when a cancel came first.

        A repetition has its slot, and waits whatever comes: a job may exist.
        """
        live, gate = self._live, self._live.gate
        while not self._uncertain and live.task.cancel_reason is None:
            wait_s = (live.task.start_at or 0.0) - self._tools.wall()
            if wait_s > 0:
                await live.alarm.sleep(wait_s)
            elif live.task.id in gate.slots.holders or gate.slots.take(live.task.id, live.task.priority):
                break
            else:
                # Rung when a slot is free, or by a cancel.
                await live.alarm.sleep(math.inf)
        turn_at = gate.creates.turn(trio.current_time())
        while self._uncertain or live.task.cancel_reason is None:
            now = trio.current_time()
            if now < turn_at:
                await live.alarm.sleep(turn_at - now)
            elif (pause_s := gate.breaker.wait_s(now)) > 0:
                await live.wait_out(pause_s)
            else:
                return True
        return False

    async def _write_intent(self) -> None:
        """The intent is on disk when this returns. Cancelled (the daemon stops) it is taken back: nothing was sent."""
        live, tools = self._live, self._tools
        live.change(rules.begin_create(live.task))
        try:
            await tools.journal.save_surely(lambda: live.task)
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            if not self._uncertain:
                live.change(rules.put_back(live.task, ""))
                tools.journal.note(live.task)
            raise

    async def _send(self) -> Reading:
        """One create request, shielded: cut in the middle it would leave open whether a job exists.

        The provider bounds its own requests; when the daemon stops, the supervisor shortens the shield.
        """
        live = self._live
        with trio.CancelScope(shield=True) as shield:
            live.creating = shield
            try:
                return await live.algorithm.provider.create(live.task)
            finally:
                live.creating = None
        raise CreateUncertain("the daemon stopped while the create was on the wire")

    async def _begin_job(self, reading: Reading) -> Outcome | None:
        live, tools = self._live, self._tools
        assert reading.job is not None, "the contract of Provider.create"  # noqa: S101
        now = tools.wall()
        live.recover()
        live.change(rules.begin_job(live.task, Job(reading.job, reading.keep, now), now))
        # In the log first: should the store fail for good, this line is all that tells of the job.
        log = logger.bind(task=live.task.id, algorithm=live.algorithm.name, job=reading.job)
        log.info("{}: job {} created", live.task.id, reading.job)
        await tools.journal.save_surely(lambda: live.task)
        if reading.status.running or reading.to_fetch:
            return None
        return outcome_of(reading, live.task.cancel_reason)

    async def _park(self, note: str) -> None:
        """Leave the decision to a person."""
        live = self._live
        live.change(rules.park_unknown(live.task, note))
        await self._tools.journal.save_surely(lambda: live.task)
        log = logger.bind(task=live.task.id, algorithm=live.algorithm.name)
        log.warning("{}: unknown whether its job exists ({}); decide with `creche resolve`", live.task.id, note)
