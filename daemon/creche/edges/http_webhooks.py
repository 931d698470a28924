"""One attempt to deliver messages to somebody's server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from creche.core.analytics import Collector
from creche.core.exchange import Call
from creche.core.reading import Redaction, retry_after_s
from creche.core.webhooks import Delivery, Endpoint, headers
from creche.edges.http_analytics import collected
from creche.edges.http_asking import ERRORS, Transport, failure
from creche.engine.outbox import Sent

TIMEOUT_S = 15.0
"""As long as Standard Webhooks advises receivers to take at most."""


class HttpSender:
    """`engine.outbox.Sender` over a transport. Redirects are not followed: a receiver that moved is named anew."""

    def __init__(self, transport: Transport, wall: Callable[[], float]) -> None:
        self._transport = transport
        self._wall = wall

    async def __call__(self, endpoint: Endpoint | Collector, deliveries: Sequence[Delivery]) -> Sent:
        """As `Sender`."""
        if isinstance(endpoint, Collector):
            return await self._send(collected(endpoint, deliveries))
        [delivery] = deliveries
        call = Call(
            method="POST",
            url=delivery.url or endpoint.url,
            headers=headers(delivery, endpoint.keys, self._wall()),
            body=delivery.body,
            public_only=endpoint.public_only,
        )
        return await self._send(call)

    async def _send(self, call: Call) -> Sent:
        try:
            answer = await self._transport.send(call, timeout_s=TIMEOUT_S)
        except ERRORS as exc:
            return Sent(None, str(failure(exc, call.url, Redaction(None))))
        if 300 <= answer.status < 400:  # noqa: PLR2004 - HTTP's own
            return Sent(answer.status, f"HTTP {answer.status}: redirects are not followed; name the new address")
        return Sent(answer.status, retry_after_s=retry_after_s(answer))
