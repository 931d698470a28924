"""What minding costs: CPU and memory of the daemon with N tasks in flight, on its default settings.

    python bench/minding.py [--tasks 1000] [--seconds 30] [--heartbeats redis://…]

The provider (`creche simulate`) runs on another core where there is one. Polls are counted by the daemon itself.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from creche.client import Client, Unreachable

CONFIG = """\
[socket]
path = "creche.sock"
[tcp]
port = 0
[store]
path = "creche.db"
[log]
level = "WARNING"
{heartbeats}
[algorithms.bench]
recipe = "simulator"
base = "{provider}"
poll_every = "3s"
"""


def main() -> None:
    """Start the two processes, submit, measure, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--heartbeats", metavar="URL", help="keep heartbeats in this Redis or Valkey")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="creche-bench-") as name:
        folder = Path(name)
        provider = _start(folder, "simulate", "--port", "0", core=1)
        daemon = None
        try:
            url = _wait_for(lambda: (folder / "simulate.log").read_text().strip())
            heartbeats = f'[heartbeats]\nurl = "{options.heartbeats}"\n' if options.heartbeats else ""
            config = folder / "config.toml"
            config.write_text(CONFIG.format(provider=url, heartbeats=heartbeats))
            daemon = _start(folder, "serve", "--config", str(config), core=0)
            client = Client(folder / "creche.sock")
            _wait_for(lambda: _ready(client))
            _measure(client, daemon.pid, options.tasks, options.seconds)
        finally:
            for child in filter(None, (daemon, provider)):
                child.terminate()
                child.wait(30)


def _measure(client: Client, pid: int, tasks: int, seconds: float) -> None:
    empty_mib = _rss_mib(pid)
    began, cpu = time.monotonic(), _cpu_s(pid)
    task = {"algorithm": "bench", "input": {"simulate": {"run": "1h", "end": "never"}}}
    for answer in client.submit_many(task for _ in range(tasks)):
        if isinstance(answer, Exception):
            raise answer
    accepted_s = time.monotonic() - began
    _wait_for(lambda: client.status()["tasks"].get("processing") == tasks, limit_s=120)
    in_flight_s, start_cpu_s = time.monotonic() - began, _cpu_s(pid) - cpu
    time.sleep(6)
    polls, cpu, began = _polls(client), _cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    polls, cpu, took = _polls(client) - polls, _cpu_s(pid) - cpu, time.monotonic() - began
    print(f"accepted          {tasks} tasks in {accepted_s:.2f} s, all in flight after {in_flight_s:.1f} s")
    print(f"starting them     {start_cpu_s:.2f} s CPU")
    print(f"minding           {polls / took:.0f} polls/s of {tasks / 3:.0f} due, {took:.0f} s measured")
    print(f"CPU               {100 * cpu / took:.1f} % of a core, {1e6 * cpu / polls:.0f} us per poll, all in")
    print(f"memory            {_rss_mib(pid):.0f} MiB resident, {empty_mib:.0f} MiB before the tasks")


def _start(folder: Path, command: str, *args: str, core: int) -> subprocess.Popen[bytes]:
    cores = sorted(os.sched_getaffinity(0))
    with (folder / f"{command}.log").open("wb") as log:
        child = subprocess.Popen([sys.executable, "-m", "creche", command, *args], stdout=log, stderr=log)  # noqa: S603
    os.sched_setaffinity(child.pid, {cores[core % len(cores)]})
    return child


def _wait_for(probe, limit_s: float = 20.0):  # noqa: ANN001, ANN202 - a small tool
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if found := probe():
            return found
        time.sleep(0.05)
    raise SystemExit("bench: waited too long")


def _ready(client: Client) -> bool:
    try:
        return bool(client.status()["ready"])
    except Unreachable:
        return False


def _polls(client: Client) -> float:
    url = client.status()["listening"][-1] + "/metrics"
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own daemon
        page = answer.read().decode()
    return sum(float(value) for value in re.findall(r"^creche_polls_total{.*} (\S+)$", page, re.MULTILINE))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
