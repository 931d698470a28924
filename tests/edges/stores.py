"""What the suites about the stores share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from creche.core.fleet import Member
from creche.core.redis_url import read_redis_url
from creche.core.task import Succeeded
from creche.edges.store_redis import RedisStore
from creche.edges.store_redis_member import RedisMembership
from creche.edges.store_redis_server import RedisServer
from creche.edges.store_sqlite import SqliteStore

INLINE = 100
"""Results of more bytes are kept in files."""

LARGE = Succeeded(msgspec.Raw(b'"%s"' % (b"x" * INLINE)))


def member(name: str) -> Member:
    """A member of a fleet."""
    return Member(id=name, host="h", version="1", capacity=100)


class Node:
    """What a node of a fleet has of its store: the store, and its membership under `name`.

    The time stands still, so that the numbers of the feed are 1, 2, 3.
    """

    def __init__(self, url: str, name: str, *, max_inline: int = INLINE, **how: Any) -> None:  # noqa: ANN401
        self.name = name
        self.server = RedisServer(read_redis_url(url), prefix="t", **{"durable": False, "replicas": 0} | how)
        self.store = RedisStore(self.server, max_inline=max_inline, wall=lambda: 0.0)
        self.membership = RedisMembership(self.server)

    def open(self) -> Node:
        """Open the store, and join."""
        self.store.open()
        self.membership.join(member(self.name))
        return self


@contextmanager
def opened(path: Path) -> Iterator[SqliteStore]:
    """The store at `path`, open."""
    store = SqliteStore(path, max_inline=INLINE)
    store.open()
    try:
        yield store
    finally:
        store.close()
