"""What the API says of messages that are yet to be delivered."""

from __future__ import annotations

from datetime import datetime

import msgspec

from creche.core.webhooks import Delivery
from creche.core.wire import Name, moment, utc


class DeliveryOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A message of a webhook on its way. Without `due_at` it was given up."""

    id: str
    task: str
    endpoint: str
    since: datetime
    due_at: datetime | None = None
    attempts: int = 0
    error: str = ""


class Deliveries(msgspec.Struct, frozen=True):
    """Those that were given up, the newest first, and then those that are pending. The totals count all."""

    deliveries: list[DeliveryOut]
    pending: int
    given_up: int


class RetryIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which messages are to be sent again; without `ids` all that were given up."""

    ids: list[Name] | None = None


class Retried(msgspec.Struct, frozen=True):
    """The messages that are due again."""

    ids: list[str]


def delivery_out(delivery: Delivery) -> DeliveryOut:
    """A message for the wire; neither its address nor its body."""
    return DeliveryOut(
        id=delivery.id,
        task=delivery.task,
        endpoint=delivery.endpoint,
        since=utc(delivery.since),
        due_at=moment(delivery.due_at),
        attempts=delivery.attempts,
        error=delivery.error,
    )
