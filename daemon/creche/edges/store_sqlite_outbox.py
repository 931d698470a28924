"""The outbox in the store's SQLite file. Its rows are written by the transaction that writes what they tell of."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

import msgspec

from creche.core.webhooks import Delivery

_FIELDS = Delivery.__struct_fields__
"""The columns have the names of the fields."""

_SELECT = f"SELECT {', '.join(_FIELDS)} FROM outbox"  # noqa: S608 - our own names
_SELECT_BARE = _SELECT.replace("body", "x''")


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

    def put_off(self, deliveries: Sequence[Delivery]) -> None:
        """As `Outbox.put_off`."""
        values = [(one.due_at, one.attempts, one.error, one.id) for one in deliveries]
        with self._transaction() as db:
            db.executemany("UPDATE outbox SET due_at = ?, attempts = ?, error = ? WHERE id = ?", values)

    def done(self, ids: Sequence[str]) -> None:
        """As `Outbox.done`."""
        with self._transaction() as db:
            db.executemany("DELETE FROM outbox WHERE id = ?", ((one,) for one in ids))

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
    fields = ", ".join(_FIELDS)
    marks = ", ".join("?" * len(_FIELDS))
    db.executemany(
        f"INSERT INTO outbox ({fields}) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608 - our own names
        ([getattr(delivery, field) for field in _FIELDS] for delivery in deliveries),
    )


def _deliveries(rows: Iterable[Sequence[object]]) -> Iterator[Delivery]:
    for row in rows:
        yield msgspec.convert(dict(zip(_FIELDS, row, strict=True)), Delivery, builtin_types=(bytes,))
