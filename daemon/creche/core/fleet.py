"""The rules of a fleet: what a member tells of itself, and when the others take it for dead.

No clock decides who is alive: neither a member's nor the server's, which after a failover is another machine's. Each
member changes what it tells of itself with every renewal, and each watches the others: who has told nothing new for so
long, on the watcher's own clock and while the watcher itself was heard, is gone.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

RENEW_EVERY_S = 2.0

LEASE_S = 10.0
"""For how long a renewal holds, from the moment at which it was begun: then the member fences itself."""

GONE_AFTER_S = LEASE_S + 30.0
"""How long a member must have told nothing new before others take its tasks."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a node in the fleet, as it tells of itself. `host` is only a label; `beat` counts its renewals."""

    id: str
    host: str
    version: str
    capacity: int
    joined_at: float = 0.0
    beat: int = 0
    tasks: int = 0


_MEMBERS = msgspec.json.Decoder(Member)


def decode_member(told: bytes) -> Member:
    """What a member tells of itself."""
    return _MEMBERS.decode(told)


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What a member holds and wants of a limit that the whole fleet shares. `whole`: jobs in flight, not a rate."""

    name: str
    total: float
    held: float
    wanted: float
    whole: bool


class Sightings:
    """What one member has seen of the others. Times are of any clock that does not go back."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[bytes, float]] = {}
        self._looked_at = 0.0

    def silent_s(self, name: str, now: float) -> float:
        """For how long a member has told nothing new, as far as was seen."""
        return now - self._told[name][1] if name in self._told else 0.0

    def look(self, told: Mapping[str, bytes], now: float) -> list[str]:
        """What all members tell of themselves now; returns those that are gone.

        Who could not look for a while (the server was away, the process was stopped) knows nothing of what the others
        did meanwhile, and begins to watch anew.
        """
        away = now - self._looked_at > LEASE_S
        self._looked_at = now
        before = {} if away else self._told
        self._told = {
            name: before[name] if name in before and before[name][0] == text else (text, now)
            for name, text in told.items()
        }
        return [name for name, (_, since) in self._told.items() if now - since >= GONE_AFTER_S]
