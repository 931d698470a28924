"""How the provider as a whole behaves: the body of `PUT /v1/world`."""

from __future__ import annotations

from typing import Any

import msgspec

from creche.core.document import Table
from creche.simulator.script import Invalid, http_status


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What befalls every request about jobs.

    Until `outage_until` (Unix seconds) it is answered with `outage_status`, or its connection is closed where that is
    None.
    `lose_replies` and `errors` are probabilities: of the work being done and its answer lost, of a 500 instead of work.
    """

    outage_until: float = 0.0
    outage_status: int | None = None
    latency_s: float = 0.0
    unauthorized: bool = False
    throttle_per_s: float | None = None
    lose_replies: float = 0.0
    errors: float = 0.0


def read_world(body: Any, now: float) -> World:  # noqa: ANN401 - any JSON
    """The whole world anew: what the decoded body does not name, or names null, is back to normal. Raises `Invalid`."""
    if not isinstance(body, dict):
        raise Invalid('body: expected an object such as {"outage": "10s"}')
    mistakes: list[str] = []
    table = Table({key: value for key, value in body.items() if value is not None}, "", mistakes, "body")
    throttle = table.table("throttle")
    if "throttle" in table:
        throttle.required("per_second", "how many requests are let through")
    per_second = throttle.number("per_second", 0.0, at_least=0.01)
    world = World(
        outage_until=now + table.duration("outage", 0.0),
        outage_status=table.value("outage_status", None, http_status),
        latency_s=table.duration("latency", 0.0),
        unauthorized=table.flag("unauthorized"),
        throttle_per_s=per_second or None,
        lose_replies=table.value("lose_replies", 0.0, _probability),
        errors=table.value("errors", 0.0, _probability),
    )
    throttle.close()
    table.close()
    if mistakes:
        raise Invalid("; ".join(mistakes))
    return world


def show_world(world: World, now: float) -> dict[str, Any]:
    """The body that would bring this world about now."""
    outage_s = world.outage_until - now
    return {
        "outage": _duration(outage_s) if outage_s > 0 else None,
        "outage_status": world.outage_status,
        "latency": _duration(world.latency_s),
        "unauthorized": world.unauthorized,
        "throttle": {"per_second": world.throttle_per_s} if world.throttle_per_s else None,
        "lose_replies": world.lose_replies,
        "errors": world.errors,
    }


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("expected a probability from 0 to 1")
    return float(value)
