"""Sends traces to an OpenTelemetry collector, over the transport that we have: no thread, and nothing waits for it.

Traces are for looking, not for keeping books: what a collector does not take is kept for a while in memory, and no more
than so much of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import trio
from loguru import logger

from creche.core.exchange import Call
from creche.core.reading import Redaction
from creche.core.task import Task
from creche.core.traces import document, spans
from creche.edges.http_asking import ERRORS, Transport, failure

SEND_EVERY_S = 5.0
BATCH = 500
"""Tasks in one request."""

KEPT = 10_000
"""Tasks that wait while the collector is away."""

TIMEOUT_S = 10.0


class HttpTraces:
    """`resource` says who we are, by OpenTelemetry's names; `headers` let us in. Without a `url` nothing is sent."""

    def __init__(
        self, transport: Transport, url: str, *, headers: tuple[tuple[str, str], ...], resource: Mapping[str, str]
    ) -> None:
        self._transport = transport
        self._url = url
        self._headers = (("Content-Type", "application/json"), *headers)
        self._resource = resource
        self._waiting: deque[list[dict[str, Any]]] = deque(maxlen=KEPT)
        self._failing = False

    def tell(self, task: Task) -> None:
        """A task has ended."""
        if self._url and (found := spans(task)):
            self._waiting.append(found)

    async def run(self) -> None:
        """Send what has come, until cancelled."""
        while self._url:
            await trio.sleep(SEND_EVERY_S)
            while self._waiting and await self._send():
                pass

    async def _send(self) -> bool:
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        body = document((span for one in batch for span in one), self._resource)
        call = Call(method="POST", url=self._url, headers=self._headers, body=body)
        refused = False
        try:
            answer = await self._transport.send(call, timeout_s=TIMEOUT_S)
            wrong = "" if answer.status < 300 else f"HTTP {answer.status}"  # noqa: PLR2004 - HTTP's own
            refused = 400 <= answer.status < 500 and answer.status not in {408, 429}  # noqa: PLR2004 - as above
        except ERRORS as exc:
            wrong = str(failure(exc, self._url, Redaction(None)))
        if wrong and not self._failing:
            logger.warning("traces cannot be sent{}: {}", ", and are dropped" if refused else ", and wait", wrong)
        elif self._failing and not wrong:
            logger.info("traces are sent again")
        self._failing = bool(wrong)
        if wrong and not refused:
            room = KEPT - len(self._waiting)
            self._waiting.extendleft(reversed(batch[max(0, len(batch) - room) :]))
        return not wrong or refused
