"""How soon the tasks of a node that is killed, and of one that hangs for a minute, are minded by others."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.checks import Wrong
from tests.process.fleet import fleet, nodes, wait_for_members
from tests.process.running import Daemon, Listener, Simulator, eventually, simulator_url
from tests.redis_servers import AOF, Server

TASKS = 3000
RUN_S, SPREAD_S = 75.0, 30.0
"""Longer than it takes to find out who is dead."""

ADOPTED_WITHIN_S = 45.0
FROZEN_S = 60.0


def measure() -> int:
    """A node is killed; then, with as many tasks again, one is frozen for a minute. Prints what came of it."""
    with contextlib.ExitStack() as ends:
        folder = Path(tempfile.mkdtemp(prefix="creche-", dir="/tmp"))
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        server = ends.enter_context(Server(folder / "valkey", *AOF))
        url = ends.enter_context(simulator_url())
        make = ends.enter_context(nodes(server.url, url))
        simulator = Simulator(url)
        three = [make() for _ in range(3)]
        for node in three:
            node.start()
        wait_for_members(three[0], 3)
        struck = three[2]
        with _heard(three[:2]) as ears:
            starts = _submit(three)
            struck.kill()
            took_s = _adopted(three[:2], TASKS)
            _check(simulator, starts, ears, "killed", took_s)
        struck.start()
        wait_for_members(three[0], 3)
        with _heard(three[:2]) as ears:
            starts = _submit(three)
            struck.signal(signal.SIGSTOP)
            began = time.monotonic()
            took_s = _adopted(three[:2], TASKS)
            time.sleep(max(0.0, began + FROZEN_S - time.monotonic()))
            struck.signal(signal.SIGCONT)
            wait_for_members(three[0], 3)
            if struck.client.status()["unfinished"]:
                raise Wrong("the one that came back minds tasks, still")
            _check(simulator, starts, ears, "frozen", took_s)
    return 0


@contextlib.contextmanager
def _heard(listened_to: list[Daemon]) -> Iterator[list[Listener]]:
    with contextlib.ExitStack() as ends:
        yield [ends.enter_context(Listener(node.tcp_url)) for node in listened_to]


def _submit(three: list[Daemon]) -> list[str]:
    starts = [node.submit_many(TASKS // 3, run_s=RUN_S, spread_s=SPREAD_S) for node in three]
    eventually(lambda: fleet(three[0])["tasks"].get("processing") == TASKS, 60)
    return starts


def _adopted(left: list[Daemon], count: int) -> float:
    began = time.monotonic()
    while sum(node.client.status()["unfinished"] for node in left) < count:
        if time.monotonic() > began + ADOPTED_WITHIN_S:
            raise Wrong(f"not adopted within {ADOPTED_WITHIN_S:g} s")
        time.sleep(0.1)
    return time.monotonic() - began


def _check(simulator: Simulator, starts: list[str], ears: list[Listener], what: str, took_s: float) -> None:
    for number, listener in enumerate(ears):
        heard = Counter(listener.hears(TASKS, RUN_S + SPREAD_S + 60))
        if len(heard) != TASKS or set(heard.values()) != {1}:
            raise Wrong(f"listener {number} heard {len(heard)} of {TASKS}, most often {heard.most_common(1)}")
    jobs = Counter(count for start in starts for count in simulator.jobs_by_tag(f"{start}-").values())
    if jobs != {1: TASKS}:
        raise Wrong(f"jobs per task: {jobs}")
    ends = Counter(task["status"] for task in ears[0].tasks)
    print(  # noqa: T201
        f"one of three nodes {what} with {TASKS} tasks in flight: all of its tasks were minded by the others after "
        f"{took_s:.1f} s; each had one job, settled once ({dict(ends)}), and was heard once by the listeners of both",
        flush=True,
    )
