"""The way to the server that keeps a fleet's store: found anew whenever it may be another one."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError  # noqa: A004 - redis-py's own, not Python's
from redis.retry import Retry

from creche.core.redis_url import RedisAddress
from creche.errors import StartError

OLDEST = (6, 2)
"""Of Redis; every Valkey is newer. Streams are trimmed by id since then."""

WAITAOF_SINCE = (7, 2)


class Primary:
    """Finds the primary that has `key`, and keeps connections to it. Methods may be called from several threads."""

    def __init__(self, address: RedisAddress, key: str, *, timeout_s: float = 5.0) -> None:
        self._address = address
        self._key = key
        self._lock = threading.Lock()
        self._client: Redis | None = None
        self._settings: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            # What was sent may have been done: whether to send it again is for the caller to say.
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }

    def client(self) -> Redis:
        """A client for the primary as it was found last. Raises RedisError or OSError."""
        with self._lock:
            if self._client is None:
                self._client = self._find()
                # Else it would close the connections of other threads in the midst of their commands once it is lost.
                self._client.auto_close_connection_pool = False
            return self._client

    def lost(self, client: Redis | None) -> None:
        """What `client` gave does not answer, or is no primary any more: the next `client` looks for it. Whoever is in
        the middle of a command with it hears of that itself.
        """
        with self._lock:
            if client is None or client is not self._client:
                return  # another thread was faster
            self._client = None
        client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close the connections, which nobody uses any more. May be called twice."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.connection_pool.disconnect()

    def _find(self) -> Redis:
        address = self._address
        tls = {"ssl": True, **address.options} if address.tls else {}
        access = {**self._settings, **address.login, **tls}
        if address.path:
            return Redis(unix_socket_path=address.path, db=address.db, **access)
        match address.kind:
            case "standalone":
                ((host, port),) = address.hosts
            case "sentinel":
                host, port = self._ask_sentinels(tls)
            case "cluster":
                host, port = self._ask_cluster(access)
        return Redis(host=host, port=port, db=address.db, **access)

    def _ask_sentinels(self, tls: dict[str, Any]) -> tuple[str, int]:
        from redis.sentinel import MasterNotFoundError, Sentinel  # noqa: PLC0415 - few need it

        address = self._address
        settings = {**self._settings, **tls, **address.sentinel_login}
        sentinel: Any = Sentinel(list(address.hosts), sentinel_kwargs=settings)  # type: ignore[no-untyped-call]
        try:
            host, port = sentinel.discover_master(address.service)
        except MasterNotFoundError as exc:
            # It shows all settings of a client for each Sentinel that did not answer; what was wrong is enough.
            exc.args = (re.sub(r"<redis.+?> - ", "", str(exc)),)
            raise
        finally:
            for asked in sentinel.sentinels:
                asked.close()
        return str(host), int(port)

    def _ask_cluster(self, access: dict[str, Any]) -> tuple[str, int]:
        """Where the slot of our keys is, as the first node says that answers."""
        slot = key_slot(self._key.encode())
        fault: Exception = ConnectionError("the URL names no node")
        for host, port in self._address.hosts:
            asked: Any = Redis(host=host, port=port, **access)
            try:
                ranges = asked.execute_command("CLUSTER", "SLOTS")
            except RedisError as exc:  # another one may know: not only one that is away, but one that was taken out
                fault = exc
                continue
            finally:
                asked.close()
            for first, last, node, *_ in ranges:
                if first <= slot <= last:
                    return _name_of(node) or host, int(node[1])
            fault = ConnectionError("the cluster has no node for the slot of the store's keys")
        raise fault


def _name_of(node: Sequence[Any]) -> str:
    """The host of a node as the cluster tells it, by `cluster-preferred-endpoint-type`. Empty means the one that was
    asked; "?" that the node should have a name and has none, and the address is told beside.
    """
    name, _, _, *more = node
    if name == b"?":
        beside = more[0] if more else []  # name, value, name, value
        name = dict(zip(beside[::2], beside[1::2], strict=True)).get(b"ip")
    return name.decode() if name else ""


def in_words(error: Exception, address: RedisAddress) -> str:
    """What went wrong, in one line and without the password, which is taken out of the error, too."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:  # tracebacks show them all
        cause.args = tuple(address.without_password(arg) if isinstance(arg, str) else arg for arg in cause.args)
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split()) or type(error).__name__


def check_server(client: Redis, address: RedisAddress, *, durable: bool, replicas: int) -> None:
    """Whether tasks are safe with this server. Raises `StartError`, RedisError, OSError."""
    info: dict[str, Any] = client.info()
    valkey = "valkey_version" in info
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    where = f"the Redis at {address.label}"
    if not valkey and version < OLDEST:
        raise StartError(f"{where} is of version {info['redis_version']}; a fleet needs 6.2 or newer, or Valkey")
    if info["role"] != "master":
        raise StartError(f"{where} is a replica; name its primary, or Sentinels that know it: redis+sentinel://")
    if info.get("cluster_enabled") and address.kind != "cluster":
        raise StartError(f"{where} is a node of a cluster: write redis+cluster:// in its URL")
    if not info.get("cluster_enabled") and address.kind == "cluster":
        raise StartError(f"{where} is not in a cluster: write redis:// in its URL")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StartError(
            f"{where} throws away what it has no room for (maxmemory-policy {policy}), and tasks with it; set "
            "maxmemory-policy noeviction there"
        )
    if durable and not (valkey or version >= WAITAOF_SINCE):
        raise StartError(f'{where} is of version {info["redis_version"]}; durable = "always" needs 7.2, or Valkey')
    if durable and not info.get("aof_enabled"):
        raise StartError(f'{where} writes no append-only file; durable = "always" needs appendonly yes there')
    if replicas > info.get("connected_slaves", 0):
        raise StartError(
            f"{where} has {info.get('connected_slaves', 0)} replicas, and replicas = {replicas} waits for more"
        )
