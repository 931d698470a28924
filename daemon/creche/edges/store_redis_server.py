"""The server that keeps a fleet's store, as both halves of it use it: moves, records, and the server's failures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from itertools import takewhile
from typing import Any, TypeVar

import msgspec
from redis import Redis
from redis.exceptions import NoScriptError, RedisError

from creche.core.redis_url import RedisAddress
from creche.core.task import Task
from creche.edges.store_redis_connect import Primary, check_server, in_words
from creche.engine.ports import PAGE_BYTES, Entry
from creche.errors import StartError, StoreUnavailable

CHUNK = 100
"""Records that are read, and outcomes that are followed, in one round trip."""

_KEEP_WAIT_MS = 3_000
"""Less than how long an answer may take."""
_SCRIPT = files("creche.edges").joinpath("store_redis.lua").read_text("utf-8")
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Task)

T = TypeVar("T")
Move = Sequence[bytes | str | int | float]
"""A move of the script by name, the member that makes it, and what the script says that it takes."""


class RedisServer:
    """The server at `address`. `member` is who this node is in the fleet, `known` the last outcome that it has seen.

    `durable` waits for each write until it is on the server's disk, `replicas` until so many replicas have it. Methods
    may be called from several threads at once; within `errors` they raise `StoreUnavailable`.
    """

    def __init__(self, address: RedisAddress, *, prefix: str, durable: bool, replicas: int) -> None:
        self.label = address.label
        self.base = f"{{{prefix}}}:"
        self.meta = self.base + "meta"
        self.member = ""
        self.known = 0
        self._address = address
        self._durable = durable
        self._replicas = replicas
        self._primary = Primary(address, self.meta)

    @property
    def client(self) -> Any:  # noqa: ANN401 - redis-py's types do not say which answers are bytes
        """A client of redis-py for the primary."""
        return self._primary.client()

    def check(self) -> str:
        """Connect and look, as `open` does, but change nothing; what is there, in words. Raises `StartError`."""
        try:
            client = self.client
            check_server(client, self._address, durable=self._durable, replicas=self._replicas)
            members = client.hlen(self.base + "members") if client.exists(self.meta) else None
        except (RedisError, OSError) as exc:
            raise StartError(f"cannot use the store at {self.label}: {in_words(exc, self._address)}") from exc
        finally:
            self.close()
        return "is made by the start" if members is None else f"has a fleet of {members} nodes"

    def open(self, defaults: Mapping[str, str | int]) -> dict[str, bytes]:
        """Connect, and set in `meta` what is not there; what is there now. Raises `StartError`."""
        try:
            client = self.client
            check_server(client, self._address, durable=self._durable, replicas=self._replicas)
            for name, value in defaults.items():
                client.hsetnx(self.meta, name, value)
            client.script_load(_SCRIPT)
            found = client.hgetall(self.meta)
        except (RedisError, OSError) as exc:
            raise StartError(f"cannot use the store at {self.label}: {in_words(exc, self._address)}") from exc
        return {name.decode(): value for name, value in found.items()}

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._primary.close()

    @contextmanager
    def errors(self, done: str) -> Iterator[None]:
        """What goes wrong in here becomes `StoreUnavailable`, and the primary is looked for anew."""
        client: Redis | None = None
        try:
            client = self._primary.client()
            yield
        except (RedisError, OSError) as exc:
            self._primary.lost(client)
            reason = in_words(exc, self._address)
            raise StoreUnavailable(f"the store at {self.label} cannot be {done}: {reason}") from exc

    # -- moves ---------------------------------------------------------------------------------------------

    def move(self, *move: bytes | str | float) -> list[Any]:
        """One move, and what the script says of it."""
        [row] = self.moves([move])
        return row

    def moves(self, moves: Sequence[Move], *, keep: bool = False) -> list[list[Any]]:
        """Moves in one round trip, in order; `keep` waits as the settings say. Should the server have forgotten the
        script, it is given once more.
        """
        wait = self._wait_command() if keep and moves else ()
        rows: list[Any] = []
        while len(rows) < len(moves):
            with self.client.pipeline(transaction=False) as pipe:
                for name, *rest in moves[len(rows) :]:
                    pipe.evalsha(_SHA, 1, self.meta, name, self.member, *rest)
                if wait:
                    pipe.execute_command(*wait)
                answers = pipe.execute(raise_on_error=False)
            kept = answers.pop() if wait else None
            done = list(takewhile(lambda answer: not isinstance(answer, Exception), answers))
            rows += done
            if len(done) < len(answers):
                if not isinstance(answers[len(done)], NoScriptError):
                    raise answers[len(done)]
                self.client.script_load(_SCRIPT)
            elif wait:
                self._check_kept(kept)
        for row in rows:
            self.check_there(row[0] != b"empty")
        return rows

    def prove_kept(self) -> None:
        """What was read is kept as the settings say; nobody may hear of what a failover may yet lose."""
        if self._wait_command():
            self.moves([("probe",)], keep=True)

    def check_there(self, there: object) -> None:
        """A server that came up without its data must not be taken for one that has none."""
        if not there:
            raise StoreUnavailable(f"the server at {self.label} has lost the store: put its data back and restart it")

    def _wait_command(self) -> tuple[str | int, ...]:
        if self._durable:
            return ("WAITAOF", 1, self._replicas, _KEEP_WAIT_MS)
        return ("WAIT", self._replicas, _KEEP_WAIT_MS) if self._replicas else ()

    def _check_kept(self, answer: Any) -> None:  # noqa: ANN401 - as above
        if isinstance(answer, Exception):
            raise answer
        disks, copies = answer if self._durable else (0, answer)
        if (self._durable and not disks) or copies < self._replicas:
            where = ("on its disk" if self._durable else "") + (f"on {copies} of {self._replicas} replicas")
            raise StoreUnavailable(
                f"the server at {self.label} has not kept a write within {_KEEP_WAIT_MS / 1000:g} s: it is {where}"
            )

    # -- records -------------------------------------------------------------------------------------------

    def whole(self, ids: Sequence[bytes | str]) -> list[Task | None]:
        """Tasks with their inputs; None for those that are not there."""
        return [task_of(row) for row in self._rows(ids, "r", "i", "e")]

    def bare(self, ids: Sequence[bytes]) -> Iterator[tuple[int, Task | None]]:
        """Tasks without their inputs, and how large each record is; some are read ahead."""
        for some in chunks(ids):
            for record, epoch in self._rows(some, "r", "e"):
                yield len(record or b""), task_of((record, None, epoch))

    def entries(self, rows: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> Iterator[Entry]:
        """The outcomes of some rows of the feed, no more than `PAGE_BYTES`, but at least one."""
        found = [(int(place.partition(b"-")[0]), fields[b"t"]) for place, fields in rows]
        size_bytes = 0
        for (seq, _), (size, task) in zip(found, self.bare([task_id for _, task_id in found]), strict=True):
            if task is not None:  # else retention was faster
                yield Entry(seq, task)
            size_bytes += size
            if size_bytes >= PAGE_BYTES:
                return

    def key_of(self, task_id: bytes | str) -> bytes:
        """The key of a task."""
        return f"{self.base}t:".encode() + (task_id if isinstance(task_id, bytes) else task_id.encode())

    def _rows(self, ids: Sequence[bytes | str], *fields: str) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipe:
            for task_id in ids:
                pipe.hmget(self.key_of(task_id), *fields)
            rows: list[Any] = pipe.execute()
        return rows


def record_of(task: Task) -> bytes:
    """A task as it is kept: without its input, which never changes and is kept beside."""
    return _ENCODER.encode(task if task.input is None else msgspec.structs.replace(task, input=None))


def task_of(row: Sequence[Any]) -> Task | None:
    """Of a record, an input and an epoch, which an adoption changes alone; None where there is no task."""
    record, content, epoch = row
    if record is None:
        return None
    given = None if content is None else msgspec.Raw(content)
    return msgspec.structs.replace(_DECODER.decode(record), input=given, epoch=int(epoch))


def pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """What Redis lists as name, value, name, value, by name: its own order is another one after each start of it."""
    return sorted(zip(flat[::2], flat[1::2], strict=True))


def chunks(ids: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many as go into one round trip, time after time."""
    for first in range(0, len(ids), CHUNK):
        yield ids[first : first + CHUNK]
