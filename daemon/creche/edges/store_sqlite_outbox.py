"""The outbox in the store's SQLite file. Its rows are written by the transaction that settles their task."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from creche.core.webhooks import Delivery

_SELECT = "SELECT id, task, endpoint, url, since, due_at, attempts, error, body FROM outbox"
_SELECT_BARE = "SELECT id, task, endpoint, url, since, due_at, attempts, error, x'' FROM outbox"


class SqliteOutbox:
    """`ports.Outbox`, on the connection that writes."""

    def __init__(self, transaction: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._transaction = transaction

    def claim(self, now: float, until: float, limit: int) -> list[Delivery]:
        """As `Outbox.claim`."""
        with self._transaction() as db:
            rows = db.execute(f"{_SELECT} WHERE due_at <= ? ORDER BY due_at, rowid LIMIT ?", (now, limit)).fetchall()
            db.executemany("UPDATE outbox SET due_at = ? WHERE id = ?", ((until, row[0]) for row in rows))
        return list(_deliveries(rows))

    def put_off(self, delivery: Delivery) -> None:
        """As `Outbox.put_off`."""
        values = (delivery.due_at, delivery.attempts, delivery.error, delivery.id)
        with self._transaction() as db:
            db.execute("UPDATE outbox SET due_at = ?, attempts = ?, error = ? WHERE id = ?", values)

    def done(self, delivery_id: str) -> None:
        """As `Outbox.done`."""
        with self._transaction() as db:
            db.execute("DELETE FROM outbox WHERE id = ?", (delivery_id,))

    def listed(self, limit: int) -> list[Delivery]:
        """As `Outbox.listed`."""
        with self._transaction() as db:
            rows = db.execute(
                f"{_SELECT_BARE} ORDER BY due_at IS NOT NULL, due_at, since DESC, rowid LIMIT ?",
                (limit,),
            ).fetchall()
        return list(_deliveries(rows))

    def again(self, ids: Sequence[str] | None, now: float) -> list[str]:
        """As `Outbox.again`."""
        with self._transaction() as db:
            if ids is None:
                ids = [found for (found,) in db.execute("SELECT id FROM outbox WHERE due_at IS NULL ORDER BY rowid")]
            return [one for one in ids if db.execute("UPDATE outbox SET due_at = ? WHERE id = ?", (now, one)).rowcount]

    def forget(self, before: float) -> None:
        """As `Outbox.forget`."""
        with self._transaction() as db:
            db.execute("DELETE FROM outbox WHERE due_at IS NULL AND since < ?", (before,))

    def count(self) -> tuple[int, int]:
        """As `Outbox.count`."""
        with self._transaction() as db:
            (pending, given_up) = db.execute("SELECT count(due_at), count(*) - count(due_at) FROM outbox").fetchone()
        return pending, given_up


def put_into_outbox(db: sqlite3.Connection, deliveries: Iterable[Delivery]) -> None:
    """Within a transaction. One that is there stays as it is."""
    db.executemany(
        "INSERT INTO outbox (id, task, endpoint, url, since, due_at, attempts, error, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        ((d.id, d.task, d.endpoint, d.url, d.since, d.due_at, d.attempts, d.error, d.body) for d in deliveries),
    )


def _deliveries(rows: Iterable[tuple[str, str, str, str, float, float | None, int, str, bytes]]) -> Iterator[Delivery]:
    for one, task, endpoint, url, since, due_at, attempts, error, body in rows:
        yield Delivery(
            id=one,
            task=task,
            endpoint=endpoint,
            url=url,
            since=since,
            due_at=due_at,
            attempts=attempts,
            error=error,
            body=body,
        )
