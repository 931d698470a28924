"""Messages about outcomes to the users' own servers, as Standard Webhooks has them (https://www.standardwebhooks.com).

A message has one id and one body, whose exact bytes are kept until it is delivered. It is signed anew for each attempt,
because the time of the attempt is signed with it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence

import msgspec

from creche.core.task import Status, Task
from creche.core.wire import TaskOut, task_out, utc

CALLBACK = "callback"
"""The name under which messages to the `callback` of a task go."""

DELAYS_S = (5.0, 60.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""After each attempt that failed; some three days in all. Then a message is given up."""

MAX_AGE_S = sum(DELAYS_S)
JITTER = 0.2
MAX_RETRY_AFTER_S = 86400.0
GONE = 410
"""The receiver wants no more of it (Standard Webhooks, "Deliverability and reliability")."""

_PREFIX = "whsec_"
_MIN_KEY_BYTES = 24
_MAX_KEY_BYTES = 64


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to tell. `keys` sign, all of them, so that one can be replaced by another; no `algorithms` and no `statuses`
    mean all. `public_only`: no address of this machine or of the networks around it is asked.
    """

    name: str
    url: str
    keys: tuple[bytes, ...]
    algorithms: frozenset[str] = frozenset()
    statuses: frozenset[Status] = frozenset()
    public_only: bool = True

    def __repr__(self) -> str:
        return f"Endpoint({self.name})"

    def wants(self, task: Task) -> bool:
        """Whether it is to hear of this outcome."""
        return (not self.algorithms or task.algorithm in self.algorithms) and (
            not self.statuses or task.status in self.statuses
        )


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message on its way. Times are Unix seconds; `due_at` is when it is to be tried next, None when it was given
    up. `url` is that of a task's callback; of an endpoint the configuration's counts. `traceparent` is the task's.
    """

    id: str
    task: str
    endpoint: str
    url: str = ""
    body: bytes = b""
    traceparent: str = ""
    since: float
    due_at: float | None
    attempts: int = 0
    error: str = ""


class Message(msgspec.Struct, frozen=True):
    """What a receiver gets."""

    type: str
    timestamp: str
    data: TaskOut


def deliveries(task: Task, endpoints: Iterable[Endpoint], now: float) -> tuple[Delivery, ...]:
    """The messages about a task that has its outcome, due at once. Results must have been set apart before."""
    names = [endpoint.name for endpoint in endpoints if endpoint.wants(task)]
    if task.callback is not None:
        names.append(CALLBACK)
    if not names:
        return ()
    body = msgspec.json.encode(Message(f"task.{task.status}", utc(now).isoformat(), task_out(task)))
    return tuple(
        Delivery(
            id=f"{task.id}.{name}",
            task=task.id,
            endpoint=name,
            url=(task.callback or "") if name == CALLBACK else "",
            body=body,
            traceparent=task.traceparent or "",
            since=now,
            due_at=now,
        )
        for name in names
    )


def read_key(text: str) -> bytes:
    """A signing secret: `whsec_` and 24 to 64 bytes in base64. Raises ValueError, which does not repeat it."""
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        raise ValueError(f"expected {_PREFIX} and {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} random bytes in base64")
    return key


def headers(delivery: Delivery, keys: Sequence[bytes], now: float) -> tuple[tuple[str, str], ...]:
    """Of one attempt: which message it is, when it was made, and that it is ours."""
    moment = str(int(now))
    signed = f"{delivery.id}.{moment}.".encode() + delivery.body
    signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return (
        ("Content-Type", "application/json"),
        ("webhook-id", delivery.id),
        ("webhook-timestamp", moment),
        ("webhook-signature", " ".join(f"v1,{signature}" for signature in signatures)),
        *([("traceparent", delivery.traceparent)] if delivery.traceparent else ()),
    )


def after_failure(
    delivery: Delivery, error: str, now: float, *, dice: float, retry_after_s: float | None = None, final: bool = False
) -> Delivery:
    """What becomes of a message that could not be delivered. `dice` from 0 to 1 spreads the attempts."""
    attempts = delivery.attempts + 1
    due_at = None
    if not final and attempts <= len(DELAYS_S):
        wait_s = DELAYS_S[attempts - 1] * (1 + JITTER * (2 * dice - 1))
        due_at = now + max(wait_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
    return msgspec.structs.replace(delivery, attempts=attempts, error=error, due_at=due_at)
