"""Gathers the polls of one provider account: one request asks for the jobs of many children.

A child that is due hands over its job and waits. A batch leaves when it is full, or when the first in it has waited for
company long enough; who came first leaves first. The request runs in a task of a nursery that outlives the children, so
one of them can go (a deadline, a cancel) without disturbing the others. Whatever becomes of the request, every
child that still waits hears of it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from itertools import islice

import trio
from loguru import logger

from creche.core.limits import Rate
from creche.core.reading import Reading
from creche.core.task import Job
from creche.engine.ports import Provider
from creche.errors import AnswerError, JobNotFound, ProviderError

GATHER_PART = 0.1
"""The part of a poll's interval that a job may well wait for company."""

LOOK_AGAIN_S = 1.0
"""How long who waits for a turn may take to notice that the rate has changed."""

AT_ONCE = 8
"""Requests of one account that may be on the wire: at a hundred jobs each and 150 ms that is 5,000 polls a second."""


class Accounts:
    """The batches of every account that is asked for many jobs at once. Their requests run in `nursery`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._batches: dict[str, Batches] = {}

    def of(self, provider: Provider, name: str, rate: Rate) -> Batches | None:
        """Where to hand over the jobs of a provider; None where it must be asked for each. `name` is for the log.

        `rate` is that of the provider's polls: a request for many jobs is one of them.
        """
        if provider.batch == 1:
            return None
        batches = self._batches.get(provider.account)
        if batches is None:
            batches = self._batches[provider.account] = Batches(provider, self._nursery, name=name, rate=rate)
        batches.provider, batches.rate = provider, rate  # after a reload they are others
        return batches

    def keep_only(self, accounts: Collection[str]) -> None:
        """The configuration was read again: forget the other accounts. Jobs that were handed over are not disturbed."""
        self._batches = {account: batches for account, batches in self._batches.items() if account in accounts}


class Batches:
    """The polls of one account.

    `provider` is any of those that serve it, `rate` that provider's; `name` stands for it in the log.
    """

    def __init__(self, provider: Provider, nursery: trio.Nursery, *, name: str, rate: Rate) -> None:
        self.provider = provider
        self.rate = rate
        self._nursery = nursery
        self._name = name
        self._queue: dict[trio.lowlevel.Task, _Place] = {}
        self._on_wire = 0
        self._timed = False
        self._refused = False

    async def reading(self, job: Job, *, gather_s: float) -> Reading | None:
        """What a request for many jobs says about this one. As the first of a batch it waits `gather_s` for company.

        None: nothing, so ask for the job by itself. It was not mentioned, the request was answered with an error that
        may be due to another job in it, or there was no company. Raises `Outage`, `Throttled` and `CredentialsRefused`
        as `Provider.poll`, and `RuntimeError` when the request met a defect of ours.

        Cancelled, it leaves nothing behind. A request whose jobs have all been left is cancelled too.
        """
        child = trio.lowlevel.current_task()
        place = self._queue[child] = _Place(job, trio.current_time() + gather_s)
        self._send_what_is_due()

        def leave(_: object) -> trio.lowlevel.Abort:
            if place.batch is None:
                del self._queue[child]
            else:
                place.batch.leave(child)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        return place.batch.reading_of(job) if place.batch is not None else None

    def _send_what_is_due(self) -> None:
        """What must wait is looked at again when its time has come, or when a request has ended."""
        while self._queue and self._on_wire < AT_ONCE:
            first = next(iter(self._queue.values()))
            if len(self._queue) < self.provider.batch and trio.current_time() < first.leaves_at:
                if not self._timed:
                    self._timed = True
                    self._nursery.start_soon(self._keep_time)
                return
            batch = _Batch({child: self._queue.pop(child) for child in list(islice(self._queue, self.provider.batch))})
            self._on_wire += 1
            self._nursery.start_soon(self._send, batch)

    async def _keep_time(self) -> None:
        """Send each batch that does not get full. Ends when none waits for time alone."""
        try:
            while self._queue and self._on_wire < AT_ONCE:
                await trio.sleep_until(next(iter(self._queue.values())).leaves_at)
                self._send_what_is_due()
        finally:
            self._timed = False
            if self._on_wire < AT_ONCE:
                # Cancelled: the daemon stops. Whoever waits in spite of that must not wait for us.
                queue, self._queue = self._queue, {}
                for child in queue:
                    trio.lowlevel.reschedule(child)

    async def _send(self, batch: _Batch) -> None:
        """One request; the error boundary of all that is wrong with it."""
        try:
            with batch.scope:
                jobs = batch.jobs()
                # For a job that is alone the request of its own is better, and the answer smaller.
                if len(jobs) > 1:
                    await self._wait_for_turn()
                    batch.readings = await self.provider.poll_many(jobs)
                    self._refused = False
        except (AnswerError, JobNotFound) as exc:
            if not self._refused:
                self._refused = True
                log = logger.bind(algorithm=self._name)
                log.warning("{}: many jobs cannot be asked for at once, so each is: {}", self._name, exc)
        except Exception as exc:  # noqa: BLE001 - the children raise it, each into its own boundary
            batch.error = exc
        finally:
            self._on_wire -= 1
            batch.wake()
            self._send_what_is_due()

    async def _wait_for_turn(self) -> None:
        if self.rate.limited:
            turn = self.rate.turn(trio.current_time())
            while (wait_s := self.rate.wait_s(turn, trio.current_time())) > 0:  # noqa: ASYNC110 - the rate may change
                await trio.sleep(min(wait_s, LOOK_AGAIN_S))


class _Place:
    """Where one child waits: in the queue, until `leaves_at` at most, then in a batch."""

    __slots__ = ("batch", "job", "leaves_at")

    def __init__(self, job: Job, leaves_at: float) -> None:
        self.job = job
        self.leaves_at = leaves_at
        self.batch: _Batch | None = None


class _Batch:
    """The jobs of one request, and the children that wait for its end."""

    def __init__(self, places: dict[trio.lowlevel.Task, _Place]) -> None:
        self._places = places
        self.scope = trio.CancelScope()
        self.readings: Mapping[str, Reading] = {}
        self.error: Exception | None = None
        for place in places.values():
            place.batch = self

    def jobs(self) -> list[Job]:
        """Each once, though several tasks may mind it."""
        return list({place.job.id: place.job for place in self._places.values()}.values())

    def leave(self, child: trio.lowlevel.Task) -> None:
        """A child was cancelled."""
        del self._places[child]
        if not self._places:
            self.scope.cancel()

    def wake(self) -> None:
        """The request has ended."""
        places, self._places = self._places, {}
        for child in places:
            trio.lowlevel.reschedule(child)

    def reading_of(self, job: Job) -> Reading | None:
        """What the request brought for one of its jobs."""
        if self.error is None:
            return self.readings.get(job.id)
        if isinstance(self.error, ProviderError):
            # A copy for each child: an exception keeps the ways on which it was raised.
            raise copy.copy(self.error) from self.error
        raise RuntimeError("a request for many jobs met a defect") from self.error
