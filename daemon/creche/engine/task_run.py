"""One task, from its slot to its outcome.

    create the job, unless it exists
    with trio.move_on_after(what is left of the deadline):
        a nursery: the heartbeat child, and the polling child whose end is the end of both
    past the deadline: one last poll, and a cancel where that is wanted

Nothing is settled here; the outcome is returned, or None when the task must wait for a person (`unknown`).
Cancelled from outside (the daemon stops), a task is left as the store has it, and the next start goes on from there.
"""

from __future__ import annotations

import math
from functools import partial

import msgspec
import trio

from creche.core import task as rules
from creche.core.polling import RUNNING, Ask, Decision, End, Fetch, Poller, error_wait_s, outcome_of
from creche.core.reading import JobStatus, Reading
from creche.core.task import DEADLINE, Cancelled, Failed, Job, Outcome, ServerFailed, TimedOut
from creche.engine.batches import GATHER_PART, Batches
from creche.engine.cancelling import Cancelling
from creche.engine.create import create_job
from creche.engine.live import Algorithm, CutOff, LiveTask, Tools, log_about
from creche.engine.ports import Poll
from creche.engine.saving import save_assets, without_assets
from creche.errors import CredentialsRefused, Outage, ProviderError, Throttled

LAST_POLL_S = 10.0
"""How long the one poll past the deadline may take."""

LAST_FETCH_S = 60.0
"""How long the one attempt to fetch a result may take, when the job was over by its deadline."""

LAST_CANCEL_S = 600.0
"""For how long a job is asked to end when its deadline has passed: then its task ends, whatever the provider says."""


async def run_task(live: LiveTask, tools: Tools) -> Outcome | None:
    """Mind one task to its end. None: it is `unknown` now, and a person must resolve it; or the daemon stops."""
    if live.delay_s > 0:
        await live.alarm.sleep(live.delay_s)
    if live.task.job is None:
        ended = await create_job(live, tools)
        if ended is not None or live.task.job is None:
            return ended
    child = _PollingChild(live, tools)
    assert live.task.deadline_at is not None, "set when the job became known"  # noqa: S101
    # Never more than it had: a clock that was set back must not lengthen it.
    left_s = min(live.task.deadline_at - tools.wall(), live.task.deadline_s)
    if left_s > 0:
        with trio.move_on_after(left_s) as live.patience:
            async with trio.open_nursery() as children:
                # The names are given because Trio would make a new text of each.
                children.start_soon(tools.pulse.beat_while_alive, live.task.id, live.algorithm.name, name="heartbeat")
                children.start_soon(child.poll_until_end, children.cancel_scope, name="polling")
        if live.leaving or live.outcome is not None:
            return live.outcome
    async with trio.open_nursery() as children:
        children.start_soon(tools.pulse.beat_while_alive, live.task.id, live.algorithm.name, name="heartbeat")
        await child.end_late()
        children.cancel_scope.cancel()
    return live.outcome


# -- mind ----------------------------------------------------------------------------------------------


class _PollingChild:
    """Asks for one job until it ends."""

    __slots__ = (
        "_algorithm",
        "_away",
        "_cancel",
        "_job",
        "_live",
        "_news",
        "_poll",
        "_poller",
        "_seen",
        "_tools",
    )

    def __init__(self, live: LiveTask, tools: Tools) -> None:
        self._live = live
        self._tools = tools
        self._poller = Poller(live.algorithm.rhythm)
        self._algorithm: Algorithm | None = None
        self._job: Job | None = None
        self._poll: Poll | None = None
        self._seen: Reading | None = None
        self._away = False
        self._news = False
        self._cancel = Cancelling(live, tools)

    async def poll_until_end(self, nursery: trio.CancelScope) -> None:
        """The polling child. Its end is the task's: it cancels the nursery, and with it the heartbeat child."""
        live = self._live
        assert live.task.job is not None, "polling begins when the job is known"  # noqa: S101
        wait_s = live.task.job.since + live.algorithm.rhythm.first_s - self._tools.wall()
        if wait_s > 0:
            await live.alarm.sleep(wait_s)
        try:
            while True:
                if not self._news:  # else the answer is here, and nobody is asked
                    await self._wait_at_gate()
                decision = await self._cancel_first() or await self._ask()
                if isinstance(decision, End):
                    live.outcome = decision.outcome
                    nursery.cancel()
                    return
                if self._away:
                    await live.sleep_until_back(decision.seconds, live.algorithm.rhythm.every_s * self._tools.dice())
                else:
                    await live.alarm.sleep(decision.seconds, instead=self._repeat)
        finally:
            self._abandon()

    def _abandon(self) -> None:
        poll, self._poll = self._poll, None  # which may know us: a circle would outlive the task
        if poll is not None:
            poll.abandon()

    # -- while the child sleeps: called by the timetable and by who reads answers ---------------------------

    def _repeat(self) -> bool:
        """The time has come: ask without waking the child, if asking is all there is to do."""
        live, gate = self._live, self._live.gate
        self._tools.lateness.observe(max(0.0, trio.current_time() - live.alarm.due_at))
        if (
            live.task.cancel_reason is not None
            or gate.breaker.is_open
            or gate.polls.limited
            or gate.batches is not None
            or live.algorithm.provider.told_once
        ):
            return False
        if live.algorithm is not self._algorithm or live.task.job is not self._job:
            return False
        if self._poll is None or self._seen is None or not self._seen.status.running:
            return False
        step_s = self._tools.timetable.step_of(live.algorithm.rhythm.every_s)
        return self._poll.repeat(self._on_repeated, step_s=step_s)

    def _on_repeated(self, news: bool) -> None:  # noqa: FBT001 - the form of a callback
        """The answer to a `_repeat` is there. The child is woken for news."""
        live = self._live
        try:
            if news:
                self._news = True
                live.alarm.ring()
            else:
                self._note_good()
                live.alarm.go_on(self._poller.same(dice=self._tools.dice()).seconds)
        except Exception as exc:  # noqa: BLE001 - raised in the child, whose error boundary it belongs to
            live.alarm.ring(exc)

    # -- while it is awake -----------------------------------------------------------------------------------

    async def _wait_at_gate(self) -> None:
        live = self._live
        if live.gate.polls.limited and live.gate.batches is None:
            await self._wait_for_rate()
        if live.gate.breaker.is_open:
            await self._wait_for_breaker()

    async def _wait_for_rate(self) -> None:
        """Wait until this poll's turn has come. A cancel does not."""
        live = self._live
        turn = live.gate.polls.turn(trio.current_time())
        while (wait_s := live.gate.until(live.gate.polls, turn)) > 0:
            await live.alarm.sleep(wait_s)
            if not live.algorithm.provider.cancel_deletes:
                await self._cancel.ask(self._poller.failures)

    async def _wait_for_breaker(self) -> None:
        """Wait while the provider is away, but for those who ask whether it is back."""
        live = self._live
        while (pause_s := live.gate.breaker.wait_s(trio.current_time())) > 0:
            await live.wait_out(pause_s)

    async def end_late(self) -> None:
        """The deadline has passed: an end that lies ready is still taken, then `on_timeout` applies."""
        live = self._live
        if await self._ends_now():
            return
        if live.task.fetching is not None and not live.task.fetching.to_fetch:
            live.outcome = without_assets(live.task.fetching, "not to be had before the deadline")
            return
        if live.task.fetching is not None:
            why = live.last_error or "no answer"
            live.outcome = Failed(reason="result_refused", message=f"not to be had before the deadline: {why}")
            return
        if live.algorithm.on_timeout == "cancel" and live.task.cancel_reason is None:
            live.change(rules.request_cancel(live.task, DEADLINE))
            live.cancel_kept = False
        if live.task.cancel_reason is not None:
            with trio.move_on_after(LAST_CANCEL_S):
                await self._cancel_surely()
            if self._cancel.agreed and await self._ends_now():
                return
        live.outcome = TimedOut(after_s=live.task.deadline_s, cancelled=self._cancel.agreed)

    async def _ends_now(self) -> bool:
        """Ask once more; True when the job is over and its result in hand."""
        live = self._live
        decision: Decision = Ask(0.0)
        if live.task.fetching is None:
            with trio.move_on_after(LAST_POLL_S):
                decision = await self._poll_once(alone=True)
        if live.task.fetching is not None:
            with trio.move_on_after(LAST_FETCH_S):
                decision = await self._fetch(live.task.fetching)
        # One more answer error says nothing about the job.
        if not isinstance(decision, End) or isinstance(decision.outcome, ServerFailed):
            return False
        live.outcome = decision.outcome
        if live.outcome == Cancelled(reason=DEADLINE):
            live.outcome = TimedOut(after_s=live.task.deadline_s, cancelled=True)
        return True

    async def _cancel_surely(self) -> None:
        """Ask until the provider agrees or refuses."""
        live, errors = self._live, 0
        while True:
            await self._cancel.ask(self._poller.failures)
            if self._cancel.agreed or self._cancel.refused:
                return
            errors += 1
            await live.alarm.sleep(error_wait_s(live.algorithm.rhythm.every_s, errors, None, self._tools.dice()))

    async def _cancel_first(self) -> Ask | End | None:
        """Ask for a cancel, where one is wanted. What a poll said, if one had to come before and it says enough."""
        live = self._live
        if not self._cancel.wanted:
            return None
        if live.algorithm.provider.cancel_deletes:
            # A result that is there already is to be had before the cancel removes it.
            decision = await self._ask()
            if isinstance(decision, End) or live.task.fetching is not None or self._poller.last_error:
                return decision
        await self._cancel.ask(self._poller.failures)
        return None

    async def _ask(self) -> Ask | End:
        """Ask for the job's state, or, when it is over, for its result."""
        if self._live.task.fetching is None:
            decision = await self._poll_once()
            if not isinstance(decision, Fetch):
                return decision
        assert self._live.task.fetching is not None, "a poll that says so keeps it"  # noqa: S101
        return await self._fetch(self._live.task.fetching)

    async def _poll_once(self, *, alone: bool = False) -> Decision:
        live, tools = self._live, self._tools
        poll = self._poll
        if poll is None or live.algorithm is not self._algorithm or live.task.job is not self._job:
            poll = self._prepare()
        together, alone, self._news = None, alone or self._news, False
        try:
            if live.gate.batches is not None and not alone:
                together = await self._ask_with_others(live.gate.batches)
            reading = together if together is not None else await self._whole(poll)
        except ProviderError as exc:
            return self._bad(exc)
        self._away = False
        self._note_good()
        reading = self._cancel.seen(reading)
        if reading is not self._seen:
            if together is not None:
                live.hear("poll", reading.provider_status or reading.status)
            self._observe(reading)
            self._seen = reading
        decision = self._poller.good(
            reading,
            # Jobs that were asked for together stay together: that makes the next request for many worth it.
            dice=tools.dice() if together is None else 0.5,
            cancel_reason=live.task.cancel_reason,
            cancel_refused=self._cancel.refused,
        )
        if live.saves(decision):
            decision = Fetch(reading)
        if isinstance(decision, Fetch):
            # On disk soon: a restart goes on from here, and need not hear of the end once more.
            live.change(msgspec.structs.replace(live.task, fetching=decision.reading))
            tools.journal.note(live.task)
        return decision

    async def _whole(self, poll: Poll) -> Reading:
        """The answer to a poll. One that may bring what is told only once is not cut off."""
        ask = partial(self._live.timed, "poll", poll)
        if not self._live.algorithm.provider.told_once:
            return await ask()
        try:
            return await self._live.uncut(ask, self._tools.lease)
        except CutOff as exc:
            raise Outage(str(exc)) from exc

    def _note_good(self) -> None:
        """The provider gave a good answer."""
        live = self._live
        self._tools.count("polls", live.algorithm.name, "good")
        live.gate.answered()
        live.recover()

    async def _ask_with_others(self, batches: Batches) -> Reading | None:
        """What a request for many jobs says about this one. None: ask for it alone, which may be done now."""
        live = self._live
        assert live.task.job is not None, "polling begins when the job is known"  # noqa: S101
        reading = await batches.reading(live.task.job, gather_s=GATHER_PART * live.algorithm.rhythm.every_s)
        if reading is None and live.gate.polls.limited:
            await self._wait_for_rate()
        return reading

    def _prepare(self) -> Poll:
        """What the polls have in common until the configuration is read again or an answer brings values to keep."""
        live = self._live
        assert live.task.job is not None, "polling begins when the job is known"  # noqa: S101
        self._algorithm, self._job, self._seen, self._news = live.algorithm, live.task.job, None, False
        self._poller.rhythm = live.algorithm.rhythm
        self._abandon()
        self._poll = live.algorithm.provider.poll_of(live.task.job)
        return self._poll

    async def _fetch(self, reading: Reading) -> Ask | End:
        """The end needs its result. After an error it is asked for again, on its own: the job is over."""
        live, job = self._live, self._live.task.job
        assert job is not None, "as above"  # noqa: S101
        provider = live.algorithm.provider
        try:
            if not reading.to_fetch:
                complete = reading
            else:
                fetch = partial(live.timed, "fetch", partial(provider.fetch, job, reading))
                complete = await (live.uncut(fetch, self._tools.lease) if provider.given_once else fetch())
        except CutOff as exc:
            return self._bad(Outage(str(exc)))
        except ProviderError as exc:
            decision = self._bad(exc)
            if isinstance(decision, Ask):
                if isinstance(exc, CredentialsRefused) and not provider.told_once:
                    # The signed URL of a result has expired, most often: another poll may bring a new one.
                    live.change(msgspec.structs.replace(live.task, fetching=None))
                return decision
            if reading.status is JobStatus.SUCCEEDED:
                return End(Failed(reason="result_refused", message=str(exc)))
            return End(outcome_of(reading, live.task.cancel_reason))
        live.recover()
        ended = End(outcome_of(complete, live.task.cancel_reason))
        if not live.saves(ended):
            return ended
        # The result is in hand, and on disk soon; whatever becomes of its files.
        live.change(msgspec.structs.replace(live.task, fetching=complete))
        self._tools.journal.note(live.task)
        return End(await save_assets(live, self._tools, job, complete))

    def _bad(self, error: ProviderError) -> Ask | End:
        job = self._live.task.job
        age_s = math.inf if job is None else self._tools.wall() - job.since
        cancelled = self._live.task.cancel_reason if self._cancel.agreed else None
        self._live.failed(error)
        self._away = isinstance(error, Outage | Throttled) and error.retry_after_s is None
        decision = self._poller.bad(error, dice=self._tools.dice(), age_s=age_s, cancelled=cancelled)
        self._tools.count("polls", self._live.algorithm.name, error.code)
        self._live.stumble(error, self._poller.failures)
        assert not isinstance(decision, Fetch), "an error brings no reading"  # noqa: S101
        return decision

    def _observe(self, reading: Reading) -> None:
        """Take over what a good answer says; only a change of status is worth the disk."""
        live, before = self._live, self._live.task
        task, job = before, before.job
        assert job is not None, "polling begins when the job is known"  # noqa: S101
        if any(job.keep.get(name) != value for name, value in reading.keep.items()):
            job = Job(job.id, {**job.keep, **reading.keep}, job.since)
            task = msgspec.structs.replace(task, job=job)
        if reading.status.running:
            if not reading.known and self._tools.is_news(f"{task.algorithm}: status {reading.provider_status}"):
                log = log_about(task)
                log.warning("{}: the recipe does not know status {!r}", task.id, reading.provider_status)
            task = rules.observe(task, RUNNING[reading.status], reading.provider_status, reading.progress)
        else:
            task = msgspec.structs.replace(task, provider_status=reading.provider_status)
        live.change(task)
        if task.status is not before.status or task.job is not before.job:
            self._tools.journal.note(live.task)
