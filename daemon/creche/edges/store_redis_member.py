"""A node's part in a fleet, in Redis or Valkey; which keys there are, tells `store_redis`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from creche.core.fleet import Limit, Member
from creche.core.task import Status, Task
from creche.edges.store_redis_server import CHUNK, RedisServer, pairs, task_of
from creche.engine.ports import News, Places, Renewal
from creche.errors import NotOwner

_ENCODER = msgspec.json.Encoder()
_STATUSES = " ".join(Status)
_AWAY = "this node was away for so long that others took its tasks"


class RedisMembership:
    """`ports.Membership` on a server whose store is open."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def join(self, member: Member) -> None:
        """From now on this node is `member`; what it owned before is for others. Raises `StoreUnavailable`, as all."""
        self.leave()
        self._server.member = member.id
        with self._server.errors("written"):
            self._server.move("join", _ENCODER.encode(member))

    def renew(self, member: Member, limits: Sequence[Limit]) -> Renewal:
        """Tell of oneself, and hear of the others. Raises `NotOwner` when this member was declared gone."""
        told = [
            part for limit in limits for part in (limit.name, limit.total, limit.held, limit.wanted, int(limit.whole))
        ]
        with self._server.errors("written"):
            row = self._server.move("renew", _ENCODER.encode(member), self._server.known, _STATUSES, *told)
        if row[0] == b"not_member":
            raise NotOwner(_AWAY)
        _, members, gone, waiting, wishes, owned, portions, counts = row
        return Renewal(
            members={name.decode(): told for name, told in pairs(members)},
            gone={name.decode(): int(count) for name, count in pairs(gone)},
            waiting=waiting,
            counts={Status(status.decode()): int(count) for status, count in pairs(counts)},
            wishes={task_id.decode(): wish for task_id, wish in pairs(wishes)},
            owned=owned,
            portions={limit.name: float(granted) for limit, granted in zip(limits, portions, strict=True)},
        )

    def bury(self, name: str, told: bytes) -> None:
        """Another member is gone, unless it has told something new since."""
        with self._server.errors("written"):
            self._server.move("bury", name, told)

    def leave(self) -> None:
        """This member goes; what it owns is for others at once."""
        if self._server.member:
            with self._server.errors("written"):
                self._server.move("bury", self._server.member, "")

    def adopt(self, limit: int) -> list[Task]:
        """Take over up to so many tasks, oldest first. Raises `NotOwner`."""
        with self._server.errors("written"):
            [row] = self._server.moves([("adopt", limit)], keep=True)
        if row[0] == b"not_member":
            raise NotOwner(_AWAY)
        return [task for task in map(task_of, row[1]) if task is not None]

    def owned(self) -> list[str]:
        """The ids of the unfinished tasks of this member, in order of acceptance."""
        with self._server.errors("read"):
            ids = self._server.client.zrange(f"{self._server.base}owned:{self._server.member}", 0, -1)
        return [task_id.decode() for task_id in ids]

    def wish(self, task_id: str, wish: bytes) -> bool:
        """Leave a wish for whoever owns the task; False when it has ended."""
        with self._server.errors("written"):
            [row] = self._server.moves([("wish", task_id, wish)], keep=True)
        return bool(row[0] == b"wished")

    def granted(self, task_id: str, wish: bytes) -> None:
        """The wish was done, or cannot be."""
        with self._server.errors("written"):
            self._server.move("granted", task_id, wish)

    def news(self, seq: int, places: Places, *, changes: bool, wait_s: float) -> News:
        """What is behind `seq` and the places, `changes` only where they are wanted; waits a little for some."""
        server = self._server
        feed, bell, changed = (server.base + name for name in ("feed", "bell", "changes"))
        with server.errors("read"):
            client = server.client
            at = {feed: f"{seq}-0", bell: places.bell or _last(client, bell)}
            if changes:
                at[changed] = places.changes or _last(client, changed)
            block_ms = int(wait_s * 1000) or None  # 0 would wait for ever
            found = {name.decode(): rows for name, rows in client.xread(at, count=CHUNK, block=block_ms) or ()}
            entries = list(server.entries(found.get(feed, [])))
            if entries:
                server.prove_kept()
        if entries:
            server.known = max(server.known, entries[-1].seq)
        at |= {name: rows[-1][0].decode() for name, rows in found.items()}
        ids = frozenset(fields[b"t"].decode() for _, fields in found.get(changed, []))
        return News(entries, bell in found, ids, Places(at[bell], at.get(changed, "")))


def _last(client: Any, stream: str) -> str:  # noqa: ANN401 - redis-py's types do not say which answers are bytes
    rows = client.xrevrange(stream, count=1)
    return str(rows[0][0].decode()) if rows else "0-0"
