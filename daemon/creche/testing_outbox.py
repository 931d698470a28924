"""The outbox of the store in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from creche.core.webhooks import Delivery


class MemoryOutbox:
    """`ports.Outbox` in a dictionary; `check` raises when it is to fail."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._rows: dict[str, Delivery] = {}

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """What a write brings; one that is there stays as it is."""
        for delivery in deliveries:
            self._rows.setdefault(delivery.id, delivery)

    def claim(self, now: float, until: float, limit: int) -> list[Delivery]:
        """What is due."""
        self._check()
        due = [row for row in self._rows.values() if row.due_at is not None and row.due_at <= now]
        claimed = sorted(due, key=lambda row: row.due_at or 0.0)[:limit]
        for row in claimed:
            self._rows[row.id] = msgspec.structs.replace(row, due_at=until)
        return claimed

    def put_off(self, deliveries: Sequence[Delivery]) -> None:
        """Attempts, error, due_at."""
        self._check()
        for delivery in deliveries:
            row = self._rows.get(delivery.id)
            if row is not None:
                self._rows[row.id] = msgspec.structs.replace(
                    row, due_at=delivery.due_at, attempts=delivery.attempts, error=delivery.error
                )

    def done(self, ids: Sequence[str]) -> None:
        """They go."""
        self._check()
        for one in ids:
            self._rows.pop(one, None)

    def listed(self, limit: int) -> list[Delivery]:
        """Given up, newest first; then pending, soonest first."""
        self._check()
        given_up = sorted((row for row in self._rows.values() if row.due_at is None), key=lambda row: -row.since)
        pending = sorted(
            (row for row in self._rows.values() if row.due_at is not None), key=lambda row: row.due_at or 0.0
        )
        return [msgspec.structs.replace(row, body=b"") for row in [*given_up, *pending][:limit]]

    def again(self, ids: Sequence[str] | None, now: float) -> list[str]:
        """Due now."""
        self._check()
        if ids is None:
            ids = [row.id for row in self._rows.values() if row.due_at is None]
        found = [one for one in ids if one in self._rows]
        for one in found:
            self._rows[one] = msgspec.structs.replace(self._rows[one], due_at=now)
        return found

    def forget(self, before: float) -> None:
        """Old ones that were given up."""
        self._check()
        self._rows = {one: row for one, row in self._rows.items() if row.due_at is not None or row.since >= before}

    def count(self) -> tuple[int, int]:
        """Pending, given up."""
        self._check()
        pending = sum(row.due_at is not None for row in self._rows.values())
        return pending, len(self._rows) - pending
