"""For how long the other nodes of a fleet leave this one its tasks."""

from __future__ import annotations

import math
from collections.abc import Callable

from creche.core.fleet import LEASE_S


class Lease:
    """It is renewed with every round of `engine.fleet`; `uptime` gives seconds that only run on.

    What must not be done by a node whose tasks others may have asks `holds` in the last moment.
    """

    def __init__(self, uptime: Callable[[], float]) -> None:
        self.uptime = uptime
        self.renewed_at = -math.inf

    @property
    def left_s(self) -> float:
        """For how long it holds; 0 when it has run out."""
        return max(0.0, self.renewed_at + LEASE_S - self.uptime())

    def holds(self) -> bool:
        """Whether the tasks are surely this node's."""
        return self.left_s > 0


class _Unlimited(Lease):
    def holds(self) -> bool:
        return True


UNLIMITED: Lease = _Unlimited(lambda: 0.0)
"""Of a node that is alone: its store is locked against all others."""
