"""What a fleet costs its server, and what a second node brings: `PYTHONPATH=daemon:. python bench/fleet.py`.

--life     commands and bytes on the server per task, over whole lives of tasks (default)
--scale    polls per second of one node on one core, and of two on two; needs gcc for the provider
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import redis
from machine import BenchError, wait_for
from stage import VALKEY, build_provider

from creche.client import Client, ClientError

CONFIG = """\
[socket]
path = "creche.sock"
[tcp]
enabled = false
[http]
max_connections = 4096
[store]
path = "creche.db"
url = "unix://{valkey}"
[upstream]
connections = 1000
[log]
level = "WARNING"
[tasks]
max = 200000
[algorithms.bench]
recipe = "simulator"
base = "{provider}"
poll_every = "{every}"
"""
INPUT = {"prompt": "x" * 200}
TASKS = 5_000
SCALE_TASKS = 20_000
"""For each node; more than it can poll every three seconds."""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--life", action="store_true")
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    if given.life or not given.scale:
        life(given.tasks or TASKS)
    if given.scale:
        scale(given.tasks or SCALE_TASKS, given.seconds)
    return 0


# -- what it costs the server ----------------------------------------------------------------------------


def life(tasks: int) -> None:
    """Whole lives of tasks, through one node: created, polled, settled."""
    with _stage() as stage:
        provider = stage.start([sys.executable, "-m", "creche", "simulate", "--port", "0"], "provider", out=True)
        url = _first_line(provider)
        node = stage.node("n0", url)
        empty_bytes = stage.server.info("memory")["used_memory"]
        stage.server.config_resetstat()
        script = {"queue": "0s", "run": "3s"}
        rows = ({"algorithm": "bench", "input": {**INPUT, "simulate": script}, "key": f"k{n}"} for n in range(tasks))
        _submit(node, rows)
        in_flight = stage.server.info("memory")["used_memory"] - empty_bytes
        while node.status()["unfinished"]:
            time.sleep(0.1)
        settled = stage.server.info("memory")["used_memory"] - empty_bytes
        calls = {name.removeprefix("cmdstat_"): row for name, row in stage.server.info("commandstats").items()}
        moves = calls["evalsha"]["calls"]
        busy_us = calls["evalsha"]["usec"] / tasks
        print(f"{tasks} tasks, an input of {len(str(INPUT))} bytes, a key, a result of a few bytes")
        print(f"script calls per task      {moves / tasks:.2f} (accept, intent, job, changes, outcome; and the leases)")
        print(f"server time per task       {busy_us:.0f} us, all script calls of its life")
        print(f"bytes per task, in flight  {in_flight / tasks:,.0f}")
        print(f"bytes per task, settled    {settled / tasks:,.0f}")


# -- what a second node brings ---------------------------------------------------------------------------


def scale(tasks: int, seconds: float) -> None:
    """What a node polls that shares a core with its provider, and what two do, each with its own on a core of its own.

    The server runs wherever there is room.
    """
    one = _polls_per_s(tasks, seconds, [0])
    two = _polls_per_s(tasks, seconds, [0, 1])
    print(f"one node   {one:,.0f} polls/s, {tasks:,} tasks")
    print(f"two nodes  {two:,.0f} polls/s, {2 * tasks:,} tasks; {two / one:.2f} times as many")


def _polls_per_s(tasks: int, seconds: float, cores: list[int]) -> float:
    with _stage() as stage:
        ports = []
        for core in cores:
            provider = stage.start([str(build_provider()), "0", "5"], f"provider{core}", core=core, out=True)
            ports.append(_first_line(provider).split()[-1])
            node = stage.node(f"n{core}", f"http://127.0.0.1:{ports[-1]}", core=core)
            _submit(node, ({"algorithm": "bench", "input": {"prompt": "a heron"}} for _ in range(tasks)))
        for port in ports:
            wait_for(lambda port=port: _books(port)["seen"] >= tasks, "every job was polled", within_s=180, step_s=0.5)  # type: ignore[misc]
        polls, began = sum(map(_polls, ports)), time.monotonic()
        time.sleep(seconds)
        return (sum(map(_polls, ports)) - polls) / (time.monotonic() - began)


def _submit(node: Client, rows: Iterable[dict[str, Any]]) -> None:
    if not all(isinstance(row, dict) for row in node.submit_many(rows)):
        raise BenchError("a task was refused")


def _first_line(process: subprocess.Popen[bytes]) -> str:
    return process.stdout.readline().decode().strip() if process.stdout is not None else ""


def _polls(port: str) -> int:
    return int(_books(port)["polls"])


def _books(port: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=20) as answer:
        books: dict[str, Any] = json.loads(answer.read())
    return books


# -- processes -------------------------------------------------------------------------------------------


class _Stage:
    def __init__(self, folder: Path, ends: contextlib.ExitStack) -> None:
        self.folder = folder
        self._ends = ends
        self.valkey = folder / "valkey.sock"
        options = ["--port", "0", "--unixsocket", str(self.valkey), "--save", "", "--appendonly", "no"]
        self.start([str(VALKEY), *options], "valkey")
        self.server: Any = redis.Redis(unix_socket_path=str(self.valkey), decode_responses=True)
        wait_for(self.valkey.exists, "valkey listens")

    def start(
        self, command: list[str], name: str, *, core: int | None = None, out: bool = False
    ) -> subprocess.Popen[bytes]:
        pinned = ["taskset", "-c", str(core), *command] if core is not None else command
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own commands
                pinned, stdout=subprocess.PIPE if out else log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ
            )
        self._ends.callback(process.wait)
        self._ends.callback(process.kill)
        return process

    def node(self, name: str, provider: str, *, core: int | None = None, every: str = "3s") -> Client:
        folder = self.folder / name
        folder.mkdir()
        (folder / "config.toml").write_text(CONFIG.format(valkey=self.valkey, provider=provider, every=every))
        command = [sys.executable, "-m", "creche", "serve", "--config", str(folder / "config.toml")]
        self.start(command, name, core=core)
        client = Client(folder / "creche.sock", reconnect_s=0)

        def ready() -> bool:
            try:
                return bool(client.status()["ready"])
            except ClientError:
                return False

        wait_for(ready, f"{name} is ready")
        return client


@contextlib.contextmanager
def _stage() -> Iterator[_Stage]:
    with contextlib.ExitStack() as ends:
        folder = Path(tempfile.mkdtemp(prefix="creche-fleet-"))
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        yield _Stage(folder, ends)


if __name__ == "__main__":
    sys.exit(main())
