"""What the suites about the SQLite store share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from creche.core.task import Succeeded
from creche.edges.store_sqlite import SqliteStore

INLINE = 100
"""Results of more bytes are kept in files."""

LARGE = Succeeded(msgspec.Raw(b'"%s"' % (b"x" * INLINE)))


@contextmanager
def opened(path: Path) -> Iterator[SqliteStore]:
    """The store at `path`, open."""
    store = SqliteStore(path, max_inline=INLINE)
    store.open()
    try:
        yield store
    finally:
        store.close()
