"""Delivers what the outbox holds, at least once.

A message is written by the same commit as what it tells of, so that neither is there without the other. It is claimed
before it is sent: claimed for a while only, so that what was claimed by a process that ended is due again. The events
of a collector go together, in one request after the other; while it takes none, one looks now and then.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import trio
from loguru import logger

from creche.core import task as rules
from creche.core.analytics import GATHER_S, Collector, events
from creche.core.limits import Breaker
from creche.core.task import Task
from creche.core.webhooks import CALLBACK, GONE, MAX_AGE_S, Delivery, Endpoint, after_failure, deliveries
from creche.engine.journal import Journal
from creche.engine.ports import Outbox as OutboxStore
from creche.errors import StoreUnavailable

AT_ONCE = 20
"""Webhooks that are on their way at the same time."""

BATCH = 100
"""Events in one request."""

CROWD = 600
"""Events that wait for a collector in memory: no more than it takes before their claim runs out, however slow it is.
What is too much is left in the store for `CROWDED_S`.
"""

CROWDED_S = 60.0
SPREAD_S = 300.0
"""Over so long a time come the events that waited for a collector, once it is back."""


CLAIM_S = 120.0
"""Longer than an attempt may take."""

LOOK_EVERY_S = 5.0
FORGET_EVERY_S = 3600.0


class Sent(NamedTuple):
    """What came of an attempt: the receiver's status, or None and why there is none."""

    status: int | None
    error: str = ""
    retry_after_s: float | None = None

    @property
    def why(self) -> str:
        """What is wrong."""
        return self.error or f"HTTP {self.status}"

    @property
    def good(self) -> bool:
        """Whether the receiver has it."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - HTTP's own


class Sender(Protocol):
    """Makes one attempt, for all messages together: several only where the endpoint is a collector.

    Never raises but for cancellation, and is bounded in time.
    """

    async def __call__(self, endpoint: Endpoint | Collector, deliveries: Sequence[Delivery]) -> Sent: ...


class Outbox:
    """`endpoints` by name, with `CALLBACK` where tasks may have one of their own.

    `keep_s` is how long messages that were given up are kept, results of more than `max_inline` bytes are not in a
    message. `wall` gives Unix seconds, `dice` a number from 0 to 1. `counts` is what came of attempts, by endpoint.
    """

    def __init__(
        self,
        journal: Journal,
        send: Sender,
        endpoints: Mapping[str, Endpoint | Collector],
        *,
        wall: Callable[[], float],
        dice: Callable[[], float],
        max_inline: int,
        keep_s: float,
    ) -> None:
        self._journal = journal
        self._wall = wall
        self._dice = dice
        self._max_inline = max_inline
        self._keep_s = keep_s
        self._news = trio.Event()
        self._free = AT_ONCE
        self._scope = trio.CancelScope()
        self._gathered: dict[str, deque[Delivery]] = {}
        self._draining: set[str] = set()
        self.pending = 0
        self.given_up = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.reconfigure(send, endpoints)

    @property
    def callbacks(self) -> bool:
        """Whether tasks may name a server of their own."""
        return CALLBACK in self.endpoints

    def about(self, task: Task) -> tuple[Delivery, ...]:
        """The messages to be written together with a task's outcome, or with its job."""
        told = events(task, self._collectors, self._wall()) if task.ended or task.job is not None else ()
        if not task.ended or (not self._webhooks and task.callback is None):
            return told
        apart, _ = rules.set_apart(task, self._max_inline)
        return (*deliveries(apart, self._webhooks, self._wall()), *told)

    def reconfigure(self, send: Sender, endpoints: Mapping[str, Endpoint | Collector]) -> None:
        """Whom to tell from now on, and how."""
        self._send = send
        self.endpoints = endpoints
        self._collectors = [one for one in endpoints.values() if isinstance(one, Collector)]
        self._webhooks = [one for one in endpoints.values() if isinstance(one, Endpoint) and one.name != CALLBACK]
        self._breakers = {one.name: Breaker(threshold=1, first_s=GATHER_S, most_s=300.0) for one in self._collectors}
        # What was gathered for one that is configured no more is due again in a while, as if its sender had ended.
        self._gathered = {name: self._gathered.get(name, deque()) for name in self._breakers}

    def stop(self) -> None:
        """End `run` now: what is on its way is delivered again after the next start."""
        self._scope.cancel()

    def look(self) -> None:
        """Something may be due."""
        self._news.set()

    async def again(self, ids: Sequence[str] | None) -> list[str]:
        """Have messages sent again, now; None means all that were given up. Returns those it found.

        Raises `StoreUnavailable`.
        """
        now = self._wall()
        found = await self._journal.outbox(lambda outbox: outbox.again(ids, now))
        self.look()
        return found

    async def run(self) -> None:
        """Deliver until stopped."""
        forgotten_at = -FORGET_EVERY_S
        with self._scope:
            async with trio.open_nursery() as nursery:
                while True:
                    self._news = trio.Event()
                    try:
                        await self._round(nursery)
                        if trio.current_time() >= forgotten_at + FORGET_EVERY_S:
                            forgotten_at = trio.current_time()
                            before = self._wall() - self._keep_s
                            await self._journal.outbox(lambda outbox, before=before: outbox.forget(before))  # type: ignore[misc]
                    except StoreUnavailable as exc:
                        logger.debug("messages wait for the store: {}", exc)
                    with trio.move_on_after(LOOK_EVERY_S):
                        await self._news.wait()

    async def _round(self, nursery: trio.Nursery) -> None:
        while self._free:
            now, free = self._wall(), self._free
            claimed, (self.pending, self.given_up) = await self._journal.outbox(
                lambda outbox, now=now, free=free: (outbox.claim(now, now + CLAIM_S, free), outbox.count())  # type: ignore[misc]
            )
            crowded = []
            for delivery in claimed:
                gathered = self._gathered.get(delivery.endpoint)
                if gathered is None:
                    self._free -= 1
                    nursery.start_soon(self._deliver, delivery)
                elif len(gathered) < CROWD:
                    gathered.append(delivery)
                else:
                    crowded.append(msgspec.structs.replace(delivery, due_at=now + CROWDED_S))
            if crowded:
                await self._journal.outbox(lambda outbox, crowded=crowded: outbox.put_off(crowded))  # type: ignore[misc]
            for name in self._gathered.keys() - self._draining:
                self._draining.add(name)
                nursery.start_soon(self._drain, name)
            if len(claimed) < free:
                return

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._attempt([delivery])
        finally:
            self._free += 1
            self.look()

    async def _drain(self, name: str) -> None:
        """Send what a collector is to have: one request after the other, so that it is in nobody's way."""
        try:
            while gathered := self._gathered.get(name):
                if (pause_s := self._breakers[name].wait_s(trio.current_time())) > 0:
                    waiting = [self._put_off(delivery, pause_s) for delivery in gathered]
                    gathered.clear()
                    await self._write(lambda outbox, waiting=waiting: outbox.put_off(waiting))  # type: ignore[misc]
                    if given_up := sum(delivery.due_at is None for delivery in waiting):
                        self.counts[name, "given_up"] += given_up
                        logger.error("{}: {} events given up, it takes none since days", name, given_up)
                else:
                    await self._attempt([gathered.popleft() for _ in range(min(BATCH, len(gathered)))])
        finally:
            self._draining.discard(name)

    def _put_off(self, delivery: Delivery, pause_s: float) -> Delivery:
        """One that need not be tried now: its collector takes nothing. That is no attempt, but not for ever either."""
        now = self._wall()
        due_at = None if now - delivery.since > MAX_AGE_S else now + pause_s + SPREAD_S * self._dice()
        return msgspec.structs.replace(delivery, due_at=due_at, error="the collector takes nothing")

    async def _write(self, write: Callable[[OutboxStore], None]) -> None:
        try:
            await self._journal.outbox(write)
        except StoreUnavailable as exc:
            logger.debug("what came of messages cannot be written, so they are sent again: {}", exc)

    async def _attempt(self, batch: Sequence[Delivery]) -> None:
        await self._note(batch, await self._try(batch))

    async def _try(self, batch: Sequence[Delivery]) -> Sent:
        name = batch[0].endpoint
        endpoint, breaker = self.endpoints.get(name), self._breakers.get(name)
        if endpoint is None:
            return Sent(None, f'the configuration has no endpoint "{name}" any more')
        try:
            sent = await self._send(endpoint, batch)
        except Exception:  # noqa: BLE001 - one message must not end the daemon, nor the others
            logger.exception("{}: cannot be sent, by a defect of creche", batch[0].id)
            return Sent(None, "a defect of creche; see its log")
        if breaker is not None:
            if sent.good and breaker.answered():
                logger.info("{} takes events again", name)
            elif not sent.good and breaker.failed(trio.current_time()):
                logger.warning("{} takes no events, they wait: {}", name, sent.why)
        return sent

    async def _note(self, batch: Sequence[Delivery], sent: Sent) -> None:
        name = batch[0].endpoint
        log = logger.bind(task=batch[0].task) if len(batch) == 1 else logger
        which = batch[0].id if len(batch) == 1 else f"{batch[0].id} and {len(batch) - 1} more"
        if sent.good:
            self.counts[name, "good"] += len(batch)
            await self._write(lambda outbox: outbox.done([delivery.id for delivery in batch]))
            log.debug("{}: delivered", which)
            return
        error = sent.why
        failed = [
            after_failure(
                delivery,
                error,
                self._wall(),
                dice=self._dice(),
                retry_after_s=sent.retry_after_s,
                final=sent.status == GONE,
            )
            for delivery in batch
        ]
        given_up = sum(delivery.due_at is None for delivery in failed)
        self.counts[name, "given_up"] += given_up
        self.counts[name, "failed"] += len(batch) - given_up
        await self._write(lambda outbox: outbox.put_off(failed))
        most = max(delivery.attempts for delivery in failed)
        if given_up:
            log.error("{}: given up after {} attempts, `creche webhooks retry` sends it again: {}", which, most, error)
        elif name not in self._breakers:
            log.warning("{}: attempt {} failed, it is tried again: {}", which, most, error)
