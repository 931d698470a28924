"""Heartbeats in Redis or Valkey, where monitors outside can see them.

`{prefix}:heartbeat:{task id}`  Unix seconds of the last beat; expires after 24 hours; gone when the task has ended
`{prefix}:active:{algorithm}`   how many tasks of the algorithm are alive
`{prefix}:active`               the set of algorithms that have such a number
`{prefix}:nodes`                the numbers of each node of a fleet, of which the others are the sums

For a standalone server, or a primary with an address of its own; not for Redis Cluster, where the keys of a batch lie
in different slots. All nodes of a fleet use one prefix; other daemons need one of their own.

redis-py does not run on Trio, so it talks in a thread, one beat at a time. A script call per thousand tasks costs us
0.6 to 0.9 us of CPU per task, a pipeline of SETs 7 us, the same through `redis.Redis` 20 us. Only talking is left to
the thread: Trio makes the connection, so that resolving and connecting can be cancelled, and keeps a hand on it to cut
it, which ends the talk at once.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import trio
from redis.connection import Connection, SSLConnection
from redis.exceptions import RedisError

from creche.core.redis_url import RedisAddress, read_redis_url
from creche.errors import HeartbeatsUnreachable

EXPIRE_S = 24 * 3600
BATCH = 1000
"""Keys per script call: about a millisecond of the server's time, in which it serves nobody else."""

_BEAT = """
for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'EX', ARGV[2]) end
"""

# Each node keeps its own numbers, with the time, and the sums are made anew by each: one that crashed counts for half a
# minute more, unless its successor has the same name. The set remembers what has a number; what is no longer active
# falls to 0.
_COUNT = """
local now, start, me = tonumber(ARGV[1]), ARGV[2], ARGV[3]
if ARGV[4] == '{}' then
  redis.call('HDEL', KEYS[2], me)
else
  redis.call('HSET', KEYS[2], me, cjson.encode({now, ARGV[4]}))
end
local sums = {}
local rows = redis.call('HGETALL', KEYS[2])
for i = 1, #rows, 2 do
  local at, counts = unpack(cjson.decode(rows[i + 1]))
  if math.abs(now - at) > 30 then
    redis.call('HDEL', KEYS[2], rows[i])
  else
    for name, number in pairs(cjson.decode(counts)) do sums[name] = (sums[name] or 0) + number end
  end
end
for name, number in pairs(sums) do
  redis.call('SET', start .. name, string.format('%d', number))
  redis.call('SADD', KEYS[1], name)
end
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if not sums[name] then
    redis.call('SET', start .. name, 0)
    redis.call('SREM', KEYS[1], name)
  end
end
"""

Command = list[str]


class RedisHeartbeats:
    """Implements `creche.engine.ports.Heartbeats`.

    `url` is `redis://[user:password@]host[:port][/db]`, `rediss://` for TLS (`?ssl_ca_certs=FILE` names an authority of
    one's own, `ssl_certfile` and `ssl_keyfile` a client certificate), or `unix://[user:password@]/path[?db=N]`. Raises
    ValueError for anything else. The password is never shown. Nothing is connected before the first beat.

    `name` tells the nodes of a fleet apart. `timeout_s` bounds each wait for an answer, and one and a half times as
    long bounds a whole beat, with connecting.
    """

    def __init__(self, url: str, *, prefix: str = "creche", name: str = "", timeout_s: float = 1.0) -> None:
        self._server = read_redis_url(url)
        if self._server.kind != "standalone":
            raise ValueError("heartbeats need a server of their own address: redis://, rediss:// or unix://")
        self._prefix = prefix
        self._name = name
        self._timeout_s = timeout_s
        self._thread = trio.CapacityLimiter(1)
        self._link: _Link | None = None

    async def beat(self, *, alive: Sequence[str], ended: Sequence[str], active: Mapping[str, int], now: float) -> None:
        """See the protocol. A beat that fails or is cancelled closes the connection; the next one connects again."""
        limit_s = 1.5 * self._timeout_s
        link, self._link = self._link, None  # comes back only when all went well
        try:
            with trio.fail_after(limit_s):
                if link is None:
                    link = await self._connect()
                await link.converse(lambda: self._commands(alive, ended, active, now), self._thread)
            self._link, link = link, None
        except trio.TooSlowError as exc:
            raise HeartbeatsUnreachable(f"cannot reach {self._server.label}: not done within {limit_s:g} s") from exc
        except (RedisError, OSError) as exc:
            reason = self._server.without_password(_reason(exc))
            exc.args = (reason,)  # tracebacks show it too
            raise HeartbeatsUnreachable(f"cannot reach {self._server.label}: {reason}") from exc
        finally:
            if link is not None:
                link.close()

    async def aclose(self) -> None:
        """Close the connection at once; nothing is sent."""
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _connect(self) -> _Link:
        server = self._server
        if server.path:
            stream = await trio.open_unix_socket(server.path)
        else:
            stream = await trio.open_tcp_stream(*server.hosts[0])
        return _Link(stream.socket, server, self._timeout_s)

    def _commands(
        self, alive: Sequence[str], ended: Sequence[str], active: Mapping[str, int], now: float
    ) -> list[Command]:
        names, nodes = f"{self._prefix}:active", f"{self._prefix}:nodes"
        numbers = msgspec.json.encode(active).decode()
        return [
            *(["EVAL", _BEAT, str(len(keys)), *keys, str(int(now)), str(EXPIRE_S)] for keys in self._batches(alive)),
            *(["DEL", *keys] for keys in self._batches(ended)),
            ["EVAL", _COUNT, "2", names, nodes, str(int(now)), f"{names}:", self._name, numbers],
        ]

    def _batches(self, task_ids: Sequence[str]) -> Iterator[list[str]]:
        start = f"{self._prefix}:heartbeat:"
        for first in range(0, len(task_ids), BATCH):
            yield [start + task_id for task_id in task_ids[first : first + BATCH]]


class _LentConnection(Connection):
    """A redis-py connection over a socket that is connected already."""

    lent: socket.socket

    def _connect(self) -> socket.socket:
        return self.lent


class _LentTlsConnection(SSLConnection, _LentConnection):
    """The same with TLS: `SSLConnection` wraps what the next class in line connects, here the lent socket."""


class _Link:
    """One connection: Trio's socket, and a duplicate of it that is lent to redis-py."""

    def __init__(self, owned: trio.socket.SocketType, server: RedisAddress, timeout_s: float) -> None:
        self._owned = owned
        self._talking = False
        options: dict[str, Any] = {**server.login, **server.options}
        # Any: redis-py annotates little of it. Protocol 2 without driver_info greets with AUTH and SELECT at most.
        self._redis: Any = (_LentTlsConnection if server.tls else _LentConnection)(
            host=server.hosts[0][0] if server.hosts else "",
            db=server.db,
            socket_timeout=timeout_s,
            protocol=2,
            driver_info=None,
            **options,
        )
        self._redis.lent = socket.fromfd(owned.fileno(), owned.family, owned.type)
        self._redis.lent.settimeout(timeout_s)

    async def converse(self, commands: Callable[[], list[Command]], thread: trio.CapacityLimiter) -> None:
        """Send the commands and read all answers, in the thread; when cancelled, the connection is cut, which ends it.

        Raises RedisError or OSError. After that, or after a cancel, the connection is of no more use.
        """

        def talk() -> RedisError | OSError | None:
            try:
                todo = commands()
                self._redis.send_packed_command(self._redis.pack_commands(todo))
                for _ in todo:
                    self._redis.read_response()
            except (RedisError, OSError) as exc:
                return exc
            finally:
                self._talking = False
            return None

        self._talking = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cut_when_cancelled)
            error = await trio.to_thread.run_sync(talk, limiter=thread)
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _cut_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if self._talking:
                with contextlib.suppress(OSError):  # the other end was faster
                    self._owned.shutdown(trio.socket.SHUT_RDWR)

    def close(self) -> None:
        """Close both sockets; returns at once."""
        self._redis.disconnect()
        self._redis.lent.close()
        self._owned.close()


def _reason(exc: Exception) -> str:
    """What went wrong, in one line. Trio's connect keeps an error for each address of a host; the first one will do."""
    cause = exc.__cause__
    first = cause.exceptions[0] if isinstance(cause, ExceptionGroup) else exc
    text = first.strerror if isinstance(first, OSError) and first.strerror else str(first)
    return " ".join(text.split())
