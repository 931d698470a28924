"""What collectors of events are sent: a JSON array, or what the SDK of Sensors Data makes of it.

The SDK (SensorsAnalyticsSDK, an extra) makes and checks its messages. It would send them from a thread of its own, and
keep them in memory only; here they go over the transport that we have, from an outbox that outlives the process. The
form of the request is that of the SDK's own consumers: https://manual.sensorsdata.cn/sa/docs/tech_sdk_server_python
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

import msgspec
from loguru import logger

from creche import __version__
from creche.core.analytics import Collector, Event
from creche.core.exchange import Call
from creche.core.webhooks import Delivery

NOBODY = "creche"
"""Whose events those of tasks without a user are."""

_PROPERTIES = ("task", "algorithm", "user", "job", "status", "reason", "seconds", "trace")
_EVENT = msgspec.json.Decoder(Event)


def collected(collector: Collector, deliveries: Sequence[Delivery]) -> Call:
    """The request with events for a collector."""
    headers = (("Authorization", f"Bearer {collector.secret}"),) if collector.secret else ()
    if collector.form == "sensors":
        kind = "application/x-www-form-urlencoded"
        body = _sensors(_EVENT.decode(delivery.body) for delivery in deliveries)
    else:
        kind = "application/json"
        body = b"[" + b",".join(delivery.body for delivery in deliveries) + b"]"
    return Call(method="POST", url=collector.url, headers=(("Content-Type", kind), *headers), body=body)


class _Gathering:
    """A consumer of the SDK that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def send(self, message: str) -> None:
        self.messages.append(message)


def _sensors(events: Iterable[Event]) -> bytes:
    from sensorsanalytics import SensorsAnalytics, SensorsAnalyticsIllegalDataException  # noqa: PLC0415 - an extra

    gathering = _Gathering()
    sdk = SensorsAnalytics(gathering)
    sdk.register_super_properties({"$app_version": __version__})
    for event in events:
        about = msgspec.to_builtins(event)
        properties = {
            **{name: about[name] for name in _PROPERTIES},
            "event_key": event.id,
            "$time": round(event.time.timestamp() * 1000),
        }
        known = {name: value for name, value in properties.items() if value is not None}
        try:
            sdk.track(event.user or NOBODY, f"creche_{event.event}", known, is_login_id=event.user is not None)
        except SensorsAnalyticsIllegalDataException as exc:
            logger.error("{}: the SDK of Sensors Data refuses the event, which is dropped: {}", event.id, exc)
    text = "[" + ",".join(gathering.messages) + "]"
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0))
    return urlencode({"data_list": packed.decode(), "gzip": 1}).encode()
