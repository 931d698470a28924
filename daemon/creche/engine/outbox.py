"""Delivers what the outbox holds, at least once.

A message is written by the same commit as the outcome that it tells of, so that neither is there without the other. It
is claimed before it is sent: claimed for a while only, so that what was claimed by a process that ended is due again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import trio
from loguru import logger

from creche.core import task as rules
from creche.core.task import Task
from creche.core.webhooks import CALLBACK, GONE, Delivery, Endpoint, after_failure, deliveries
from creche.engine.journal import Journal
from creche.errors import StoreUnavailable

AT_ONCE = 20
"""Messages that are on their way at the same time."""

CLAIM_S = 120.0
"""Longer than an attempt may take."""

LOOK_EVERY_S = 5.0
FORGET_EVERY_S = 3600.0


class Sent(NamedTuple):
    """What came of an attempt: the receiver's status, or None and why there is none."""

    status: int | None
    error: str = ""
    retry_after_s: float | None = None


class Sender(Protocol):
    """Makes one attempt; never raises but for cancellation, and is bounded in time."""

    async def __call__(self, endpoint: Endpoint, delivery: Delivery) -> Sent: ...


class Outbox:
    """`endpoints` by name, with `CALLBACK` where tasks may have one of their own.

    `keep_s` is how long messages that were given up are kept, results of more than `max_inline` bytes are not in a
    message. `wall` gives Unix seconds, `dice` a number from 0 to 1. `counts` is what came of attempts, by endpoint.
    """

    def __init__(
        self,
        journal: Journal,
        send: Sender,
        endpoints: Mapping[str, Endpoint],
        *,
        wall: Callable[[], float],
        dice: Callable[[], float],
        max_inline: int,
        keep_s: float,
    ) -> None:
        self._journal = journal
        self._send = send
        self._wall = wall
        self._dice = dice
        self._max_inline = max_inline
        self._keep_s = keep_s
        self._news = trio.Event()
        self._free = AT_ONCE
        self._scope = trio.CancelScope()
        self.endpoints = endpoints
        self.pending = 0
        self.given_up = 0
        self.counts: Counter[tuple[str, str]] = Counter()

    @property
    def callbacks(self) -> bool:
        """Whether tasks may name a server of their own."""
        return CALLBACK in self.endpoints

    def about(self, task: Task) -> tuple[Delivery, ...]:
        """The messages to be written together with a task's outcome."""
        configured = [endpoint for name, endpoint in self.endpoints.items() if name != CALLBACK]
        if not configured and task.callback is None:
            return ()
        apart, _ = rules.set_apart(task, self._max_inline)
        return deliveries(apart, configured, self._wall())

    def reconfigure(self, send: Sender, endpoints: Mapping[str, Endpoint]) -> None:
        """Whom to tell from now on, and how."""
        self._send = send
        self.endpoints = endpoints

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
                        logger.debug("webhooks wait for the store: {}", exc)
                    with trio.move_on_after(LOOK_EVERY_S):
                        await self._news.wait()

    async def _round(self, nursery: trio.Nursery) -> None:
        while self._free:
            now, free = self._wall(), self._free
            claimed, (self.pending, self.given_up) = await self._journal.outbox(
                lambda outbox, now=now, free=free: (outbox.claim(now, now + CLAIM_S, free), outbox.count())  # type: ignore[misc]
            )
            for delivery in claimed:
                self._free -= 1
                nursery.start_soon(self._deliver, delivery)
            if len(claimed) < free:
                return

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._note(delivery, await self._try(delivery))
        except StoreUnavailable as exc:
            logger.debug("{}: what came of it cannot be written, so it is sent again: {}", delivery.id, exc)
        finally:
            self._free += 1
            self.look()

    async def _try(self, delivery: Delivery) -> Sent:
        endpoint = self.endpoints.get(delivery.endpoint)
        if endpoint is None:
            return Sent(None, f'the configuration has no webhook "{delivery.endpoint}" any more')
        try:
            return await self._send(endpoint, delivery)
        except Exception:  # noqa: BLE001 - one message must not end the daemon, nor the others
            logger.exception("{}: cannot be sent, by a defect of creche", delivery.id)
            return Sent(None, "a defect of creche; see its log")

    async def _note(self, delivery: Delivery, sent: Sent) -> None:
        if sent.status is not None and 200 <= sent.status < 300:  # noqa: PLR2004 - HTTP's own
            self.counts[delivery.endpoint, "good"] += 1
            await self._journal.outbox(lambda outbox: outbox.done(delivery.id))
            logger.bind(task=delivery.task).debug("{}: delivered", delivery.id)
            return
        error = sent.error or f"HTTP {sent.status}"
        failed = after_failure(
            delivery,
            error,
            self._wall(),
            dice=self._dice(),
            retry_after_s=sent.retry_after_s,
            final=sent.status == GONE,
        )
        given_up = failed.due_at is None
        self.counts[delivery.endpoint, "given_up" if given_up else "failed"] += 1
        await self._journal.outbox(lambda outbox: outbox.put_off(failed))
        log = logger.bind(task=delivery.task)
        if given_up:
            log.error("{}: given up after {} attempts, `creche webhooks retry` sends it again: {}", *_said(failed))
        else:
            log.warning("{}: attempt {} failed, it is tried again: {}", *_said(failed))


def _said(delivery: Delivery) -> tuple[str, int, str]:
    return delivery.id, delivery.attempts, delivery.error
