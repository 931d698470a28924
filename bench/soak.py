"""A long run: N tasks in flight for many minutes, at a provider that fails in many ways. Does anything grow?

    python bench/soak.py [--tasks 5000] [--minutes 30] [--out soak.json]

A task that ends is followed by another one. Each minute has a fault of its own: an outage, errors, lost replies,
throttling, a refused key. Every ten seconds memory, file descriptors and threads of the daemon are looked at, and a
listener counts outcomes. At the end every task must have ended once, with one job.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from minding import _ready, _rss_mib, _start, _wait_for

from creche.client import Client

CONFIG = """\
[socket]
path = "creche.sock"
[tcp]
port = 0
[store]
path = "creche.db"
[log]
level = "ERROR"
[algorithms.soak]
recipe = "simulator"
base = "{provider}"
poll_every = "3s"
"""
WORLDS: list[tuple[str, dict[str, Any]]] = [
    ("calm", {}),
    ("outage", {"outage": "20s"}),
    ("errors", {"errors": 0.02}),
    ("lost replies", {"lose_replies": 0.02}),
    ("503", {"outage": "15s", "outage_status": 503}),
    ("slow", {"latency": "300ms"}),
    ("refused key", {"unauthorized": True}),
    ("calm", {}),
]
EVERY_S = 10.0


class Outcomes(threading.Thread):
    """Reads the feed, and counts how often each task ended, and how."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.times: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self._client = client

    def run(self) -> None:
        """Until the program ends."""
        for page in self._client.follow("oldest"):
            for task in page["results"]:
                self.times[task["id"]] += 1
                self.ends[task["status"]] += 1


def main() -> int:
    """Start the two processes, keep them busy, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, help="write every sample there, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="creche-soak-") as name:
        folder = Path(name)
        provider = _start(folder, "simulate", "--port", "0", core=1)
        daemon = None
        try:
            url = _wait_for(lambda: (folder / "simulate.log").read_text().strip())
            (folder / "config.toml").write_text(CONFIG.format(provider=url))
            daemon = _start(folder, "serve", "--config", str(folder / "config.toml"), core=0)
            client = Client(folder / "creche.sock")
            _wait_for(lambda: _ready(client))
            samples, problems = _soak(client, url, daemon.pid, options.tasks, options.minutes)
        finally:
            for child in filter(None, (daemon, provider)):
                child.terminate()
                child.wait(60)
        if log := (folder / "serve.log").read_text():
            problems.append(f"the daemon logged errors: {log[:500]}")
    if options.out:
        options.out.write_text(json.dumps(samples, indent=1))
    for problem in problems:
        print(f"PROBLEM  {problem}")
    return 1 if problems else 0


def _soak(
    client: Client, provider: str, pid: int, tasks: int, minutes: float
) -> tuple[list[dict[str, Any]], list[str]]:
    outcomes = Outcomes(client)
    outcomes.start()
    submitted = 0
    samples: list[dict[str, Any]] = []
    began = time.monotonic()
    print("minute  world         in flight  settled  memory MiB  descriptors  threads")
    while (elapsed := time.monotonic() - began) < minutes * 60:
        world, body = WORLDS[int(elapsed // 60) % len(WORLDS)]
        if len(samples) % 6 == 0:
            _put(f"{provider}/v1/world", body)
        missing = tasks - (submitted - len(outcomes.times))
        submitted += _submit(client, submitted, max(0, missing))
        samples.append(_look(pid, world, elapsed, submitted, len(outcomes.times)))
        if len(samples) % 6 == 1:
            _tell(samples[-1])
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - began - elapsed)))
    _put(f"{provider}/v1/world", {})
    _wait_for(lambda: len(outcomes.times) == submitted, limit_s=600)
    samples.append(_look(pid, "end", time.monotonic() - began, submitted, len(outcomes.times)))
    _tell(samples[-1])
    with urllib.request.urlopen(f"{provider}/v1/stats?tags=1") as answer:  # noqa: S310 - our own
        jobs = json.load(answer)
    return samples, list(_problems(samples, outcomes, jobs, submitted))


def _submit(client: Client, first: int, count: int) -> int:
    rows = (
        {
            "algorithm": "soak",
            "id": f"s{number}",
            "input": {"simulate": {"tag": f"s{number}", "queue": "2s", "run": f"{20 + number * 7919 % 80}s"}},
        }
        for number in range(first, first + count)
    )
    for answer in client.submit_many(rows):
        if isinstance(answer, Exception):
            raise answer
    return count


def _look(pid: int, world: str, elapsed: float, submitted: int, settled: int) -> dict[str, Any]:
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        "at_s": round(elapsed, 1),
        "world": world,
        "in_flight": submitted - settled,
        "settled": settled,
        "rss_mib": round(_rss_mib(pid), 1),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - names only
        "threads": int(status.partition("Threads:")[2].split()[0]),
    }


def _tell(sample: dict[str, Any]) -> None:
    print(
        f"{sample['at_s'] / 60:6.1f}  {sample['world']:12}  {sample['in_flight']:9}  {sample['settled']:7}  "
        f"{sample['rss_mib']:10}  {sample['descriptors']:11}  {sample['threads']:7}",
        flush=True,
    )


def _problems(samples: list[dict[str, Any]], outcomes: Outcomes, jobs: dict[str, int], submitted: int) -> Any:  # noqa: ANN401 - texts
    print(f"ends: {dict(outcomes.ends)}; tasks {submitted}; jobs {sum(jobs.values())}")
    if twice := [task for task, times in outcomes.times.items() if times != 1]:
        yield f"{len(twice)} tasks ended more than once: {twice[:3]}"
    if paid := [tag for tag, count in jobs.items() if count != 1]:
        yield f"{len(paid)} tasks have more than one job: {paid[:3]}"
    # The first fifth warms up: every list has its size then, every page of the store its place.
    steady = samples[len(samples) // 5 : -1]
    third = len(steady) // 3
    for what, slack in (("rss_mib", 1.10), ("descriptors", 1.05), ("threads", 1.0)):
        early, late = (max(sample[what] for sample in part) for part in (steady[:third], steady[-third:]))
        print(f"{what}: at most {early} in the first third after the warm-up, {late} in the last")
        if late > early * slack:
            yield f"{what} grows: {early} -> {late}"


def _put(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), method="PUT")  # noqa: S310 - our own
    with urllib.request.urlopen(request):  # noqa: S310 - our own
        pass


if __name__ == "__main__":
    sys.exit(main())
