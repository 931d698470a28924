"""The engine as the faces see it, and in numbers for listeners who want them."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import msgspec

from creche.core import wire, wire_status
from creche.engine.feed import Feed
from creche.engine.fleet import Fleet
from creche.engine.journal import Journal
from creche.engine.lag import LoopLag
from creche.engine.live import Tools
from creche.engine.outbox import Outbox
from creche.engine.supervisor import Supervisor

KEPT_S = 1.0
"""For how long numbers are told again, so that it does not matter how many listen."""


class Engine(NamedTuple):
    """All that minds tasks. `node` is this run's id."""

    node: str
    journal: Journal
    tools: Tools
    feed: Feed
    supervisor: Supervisor
    lag: LoopLag
    fleet: Fleet | None
    outbox: Outbox


class Figures:
    """This node, counted."""

    def __init__(self, engine: Engine) -> None:
        self._supervisor = engine.supervisor
        self._tools = engine.tools
        self._lag = engine.lag
        self._fleet = engine.fleet
        self._made_at = -math.inf
        self._message = b""

    def tasks(self) -> Counter[str]:
        """The unfinished ones, by status."""
        counts: Counter[str] = Counter()
        for (_, status), number in self._supervisor.roster.counts().items():
            counts[status.value] += number
        return counts

    def faults(self) -> list[str]:
        """What is wrong now, one line each."""
        faults = {
            "store": self._tools.journal.fault,
            "heartbeats": self._tools.pulse.fault,
            "fleet": None if self._fleet is None else self._fleet.fault,
        }
        return [f"{name}: {fault}" for name, fault in faults.items() if fault is not None]

    def message(self) -> bytes:
        """The stream's `stats`, encoded; no older than `KEPT_S`."""
        now = self._tools.wall()
        if abs(now - self._made_at) >= KEPT_S:
            self._made_at = now
            self._message = msgspec.json.encode(self._stats(now))
        return self._message

    def _stats(self, now: float) -> wire_status.Stats:
        totals: dict[str, Counter[str]] = {}
        for (event, _, result), number in self._tools.counts.items():
            totals.setdefault(event, Counter())[result] += number
        age_s = self._tools.pulse.age_s()
        return wire_status.Stats(
            at=wire.utc(now),
            tasks=self.tasks(),
            conditions=self._supervisor.roster.conditions(),
            accepted=totals.get("accepted", Counter()).total(),
            settled=totals.get("settled", {}),
            creates=totals.get("creates", {}),
            polls=totals.get("polls", {}),
            loop_lag_s=round(self._lag.recent_s(), 6),
            heartbeat_age_s=None if age_s is None else round(age_s, 3),
            faults=self.faults(),
        )
