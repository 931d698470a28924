"""A real Valkey for the tests of this folder."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from creche.edges.store_sqlite import SqliteStore
from creche.engine.ports import Store
from creche.testing import MemoryStore
from tests.edges.stores import INLINE, Node
from tests.redis_servers import BINARY, NOT_KEPT, Server

REDIS = shutil.which("redis-server")


class Valkey(Server):
    """A server of our own, on a loopback port and a Unix socket, which keeps nothing on disk. `kill` loses all data."""

    def __init__(self, folder: Path, binary: Path = BINARY) -> None:
        self.path = folder / "valkey.sock"
        super().__init__(folder, *NOT_KEPT, "--unixsocket", str(self.path), binary=binary)
        self.client = redis.Redis(unix_socket_path=str(self.path), decode_responses=True)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, SIGSTOP for example."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        super().kill()
        self.path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def lasting_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A running Valkey that many tests use, each with a prefix of its own or after a flush."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.client.close()
    server.kill()


@pytest.fixture(scope="session")
def lasting_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The same with the Redis of this machine; asked for only where there is one (`REDIS`)."""
    assert REDIS is not None
    server = Valkey(tmp_path_factory.mktemp("redis"), Path(REDIS))
    server.start()
    yield server
    server.client.close()
    server.kill()


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A running, empty Valkey."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.client.close()
    server.kill()


@pytest.fixture(params=["memory", "sqlite", "lasting_valkey", *(["lasting_redis"] if REDIS else [])])
def every_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An open, empty store of each kind; of Redis where this machine has it."""
    made: Store = MemoryStore(max_inline=INLINE)
    if request.param.startswith("lasting"):
        server: Valkey = request.getfixturevalue(request.param)
        server.client.flushall()
        made = Node(server.url, "A").open().store
    elif request.param == "sqlite":
        made = SqliteStore(tmp_path / "creche.db", max_inline=INLINE)
    made.open()
    yield made
    made.close()
