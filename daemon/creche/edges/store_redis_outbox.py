"""The outbox of a fleet, in Redis or Valkey: any node delivers, whichever settled the task.

`outbox` and `given-up` hold the ids, by when they are due and since when they are there; `d:ID` is a message: `m` what
is known of it, `b` its body.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from creche.core.webhooks import Delivery
from creche.edges.store_redis_server import RedisServer, chunks

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Delivery)
_FORGET = 500


class RedisOutbox:
    """`ports.Outbox` on the server of a store."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def claim(self, now: float, until: float, limit: int) -> list[Delivery]:
        """As `Outbox.claim`."""
        with self._server.errors("written"):
            # Kept, and with it the outcomes: nobody is told of one that a failover may yet lose.
            [(_, rows)] = self._server.moves([("claim", now, until, limit)], keep=True)
        return [msgspec.structs.replace(_DECODER.decode(known), body=body) for known, body in rows]

    def put_off(self, deliveries: Sequence[Delivery]) -> None:
        """As `Outbox.put_off`."""
        moves = [
            ("put_off", one.id, "" if one.due_at is None else one.due_at, known_of(one), one.since)
            for one in deliveries
        ]
        with self._server.errors("written"):
            self._server.moves(moves, keep=True)

    def done(self, ids: Sequence[str]) -> None:
        """As `Outbox.done`."""
        with self._server.errors("written"):
            self._server.moves([("drop", *ids)], keep=True)

    def listed(self, limit: int) -> list[Delivery]:
        """As `Outbox.listed`."""
        with self._server.errors("read"):
            return list(self._listed(limit))

    def _listed(self, limit: int) -> Iterator[Delivery]:
        client, base = self._server.client, self._server.base
        given_up = client.zrange(base + "given-up", 0, limit - 1, desc=True)
        pending = client.zrange(base + "outbox", 0, max(0, limit - len(given_up)) - 1, withscores=True)
        due_at = dict(pending if len(given_up) < limit else [])
        for some in chunks([*given_up, *due_at]):
            with client.pipeline(transaction=False) as pipe:
                for one in some:
                    pipe.hget(self._key(one), "m")
                known = pipe.execute()
            for one, text in zip(some, known, strict=True):
                if text is not None:  # else it was delivered meanwhile
                    yield msgspec.structs.replace(_DECODER.decode(text), due_at=due_at.get(one))

    def again(self, ids: Sequence[str] | None, now: float) -> list[str]:
        """As `Outbox.again`."""
        found: list[str] = []
        with self._server.errors("written"):
            if ids is None:
                ids = [one.decode() for one in self._server.client.zrange(self._server.base + "given-up", 0, -1)]
            for some in chunks(ids):
                [(_, there)] = self._server.moves([("again", now, *some)], keep=True)
                found += [one.decode() for one in there]
        return found

    def forget(self, before: float) -> None:
        """As `Outbox.forget`."""
        name = self._server.base + "given-up"
        with self._server.errors("written"):
            while old := self._server.client.zrangebyscore(name, "-inf", f"({before}", start=0, num=_FORGET):
                self._server.move("drop", *old)

    def count(self) -> tuple[int, int]:
        """As `Outbox.count`."""
        with self._server.errors("read"):
            client, base = self._server.client, self._server.base
            return int(client.zcard(base + "outbox")), int(client.zcard(base + "given-up"))

    def _key(self, delivery_id: bytes) -> bytes:
        return f"{self._server.base}d:".encode() + delivery_id


def known_of(delivery: Delivery) -> bytes:
    """A message as it is kept: without its body, which never changes and is kept beside."""
    return _ENCODER.encode(msgspec.structs.replace(delivery, body=b""))
