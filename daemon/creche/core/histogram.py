"""A histogram as Prometheus reads it: how many values were at most so large."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

LONG_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""For what takes as long as jobs do."""

COUNTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Counts values by `bounds`, in ascending order; what is larger than the last falls into one more bucket."""

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulated(self) -> list[tuple[str, int]]:
        """`(bound, number of values up to it)`, the last bound being `+Inf`."""
        rows, seen = [], 0
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self._counts, strict=True):
            seen += count
            rows.append((bound, seen))
        return rows
