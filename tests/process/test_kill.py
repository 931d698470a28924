"""SIGKILL, at any time: after the next start every task settles once, and no job is made twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.process.running import Daemon, Listener, Simulator, StartDaemon

# As the shipped recipe, but creates carry nothing by which the provider would know a repeated one.
CAREFUL_RECIPE = """
[create]
url = "/v1/jobs"
body = "$input"
repeat = "none"
id = "/id"

[poll]
url = "/v1/jobs/{job}"
status = "/status"
result = "/output"

[poll.statuses]
waiting = ["queued"]
processing = ["running"]
succeeded = ["succeeded"]
"""
CAREFUL = """
[algorithms.careful]
recipe = "careful.toml"
base = "{url}"
poll_every = "200ms"
"""


@pytest.fixture
def careful(start_daemon: StartDaemon, simulator: Simulator) -> Daemon:
    """A daemon with an algorithm of which no create may be repeated."""
    return start_daemon(CAREFUL.format(url=simulator.url), files={"careful.toml": CAREFUL_RECIPE})


def test_nothing_is_lost_or_doubled_with_jobs_running(
    start_daemon: StartDaemon, simulator: Simulator, listen: Callable[..., Listener]
) -> None:
    """Killed with 200 tasks in flight: each job is made once, each task settles once, a listener misses nothing."""
    daemon = start_daemon()
    with listen(daemon.tcp_url) as before:
        start = daemon.submit_many(200, run_s=0.5, spread_s=2.0)
        before.hears(20)
        daemon.kill()
        assert before.ended.wait(10)
    assert 20 <= len(before.ids) < 200
    daemon.start()
    with listen(daemon.tcp_url, since=before.cursor) as after:
        after.hears(200 - len(before.ids), 30)
        heard = before.ids + after.ids
    assert Counter(heard) == Counter(task["id"] for task in daemon.outcomes())
    assert len(set(heard)) == 200
    assert {task["status"] for task in before.tasks + after.tasks} == {"succeeded"}
    assert simulator.stats()["created"] == 200
    assert simulator.jobs_by_tag(start) == {f"{start}-{number}": 1 for number in range(200)}
    assert daemon.client.status()["unfinished"] == 0


def test_creates_on_the_wire_are_repeated_with_their_token(
    start_daemon: StartDaemon, simulator: Simulator, eventually: Callable[..., Any]
) -> None:
    """Killed between create and answer: the next start repeats the creates, and the provider knows them again."""
    daemon = start_daemon()
    simulator.world(latency="400ms")
    start = daemon.submit_many(100)
    eventually(lambda: simulator.stats()["created"] == 100)
    daemon.kill()
    simulator.world()
    daemon.start()
    eventually(lambda: len(daemon.outcomes()) == 100)
    assert simulator.stats()["duplicates"] > 0
    assert simulator.jobs_by_tag(start) == {f"{start}-{number}": 1 for number in range(100)}
    assert {task["status"] for task in daemon.outcomes()} == {"succeeded"}


def test_killed_again_and_again(
    start_daemon: StartDaemon, simulator: Simulator, eventually: Callable[..., Any]
) -> None:
    """Every kill finds tasks in all states, some of them for the second time: still one job and one outcome each."""
    daemon = start_daemon()
    simulator.world(latency="50ms")
    starts = []
    for round_ in range(2):
        starts.append(daemon.submit_many(60, spread_s=2.0))
        eventually(lambda wanted=60 * round_ + 30: simulator.stats()["created"] >= wanted)
        daemon.kill()
        daemon.start()
    outcomes = eventually(lambda: found if len(found := daemon.outcomes()) == 120 else None)
    assert len({task["id"] for task in outcomes}) == 120
    for start in starts:
        assert set(simulator.jobs_by_tag(start).values()) == {1}
    assert simulator.stats()["created"] == 120


def test_what_may_exist_waits_for_a_person(
    careful: Daemon, simulator: Simulator, eventually: Callable[..., Any]
) -> None:
    """Where no create may be repeated, a kill leaves `unknown` tasks, told loudly; each decision leads to an end."""
    simulator.world(latency="400ms")
    careful.submit_many(3, algorithm="careful")
    eventually(lambda: simulator.stats()["created"] == 3)
    careful.kill()
    simulator.world()
    careful.start()
    tasks = eventually(lambda: found if len(found := list(careful.client.tasks(status=["unknown"]))) == 3 else None)
    attached, anew, dropped = (str(task["id"]) for task in tasks)
    warnings = careful.logged("warning")
    assert all(any(task["id"] in line and "creche resolve" in line for line in warnings) for task in tasks)
    assert careful.client.get(attached, 30)["status"] == "unknown", "a wait ends where only a person can go on"
    assert careful.run("wait", attached).returncode == 6
    assert simulator.stats()["created"] == 3, "none was made by itself"

    found = simulator.create(queue="0s", run="0s", output="found at the provider")
    assert careful.run("resolve", attached, "attach", found).returncode == 0
    assert careful.run("resolve", anew, "create").returncode == 0
    assert careful.run("resolve", dropped, "drop").returncode == 0
    task = careful.client.wait(attached, 10)
    assert (task["status"], task["result"], task["job"]["id"]) == ("succeeded", "found at the provider", found)
    assert careful.client.wait(anew, 10)["status"] == "succeeded"
    task = careful.client.wait(dropped, 10)
    assert (task["status"], task["reason"]) == ("cancelled", "dropped")
    assert simulator.stats()["created"] == 5, "three before the kill, one by a person, one by decision"
    assert careful.run("resolve", anew, "create").returncode == 3, "a task that has ended cannot be resolved"


def test_unknown_tasks_stay_so_over_restarts(
    careful: Daemon, simulator: Simulator, eventually: Callable[..., Any]
) -> None:
    """Nobody decides by restarting."""
    simulator.world(latency="400ms")
    careful.submit_many(2, algorithm="careful")
    eventually(lambda: simulator.stats()["created"] == 2)
    careful.kill()
    simulator.world()
    for _ in range(2):
        careful.start()
        eventually(lambda: careful.client.status()["tasks"] == {"unknown": 2})
        careful.stop()
    assert simulator.stats()["creates"] == 2


def test_a_stop_waits_for_creates_on_the_wire(
    careful: Daemon, simulator: Simulator, eventually: Callable[..., Any]
) -> None:
    """SIGTERM lets creates that are on the wire come to their answer: nothing is left unknown."""
    simulator.world(latency="500ms")
    careful.submit_many(20, algorithm="careful")
    eventually(lambda: simulator.stats()["created"] == 20)
    careful.stop()
    simulator.world()
    careful.start()
    outcomes = eventually(lambda: found if len(found := careful.outcomes()) == 20 else None)
    assert {task["status"] for task in outcomes} == {"succeeded"}
    assert simulator.stats()["creates"] == 20


def test_a_stop_sends_no_more_creates(
    start_daemon: StartDaemon, simulator: Simulator, eventually: Callable[..., Any]
) -> None:
    """A create that waits for a connection at the stop was never sent: the next start sends it, it is not unknown."""
    extra = CAREFUL.format(url=simulator.url) + "[upstream]\nconnections = 1\n"
    daemon = start_daemon(extra, files={"careful.toml": CAREFUL_RECIPE})
    simulator.world(latency="1s")
    daemon.submit_many(8, algorithm="careful")
    eventually(lambda: simulator.stats()["creates"] == 1)
    daemon.stop()
    assert simulator.stats()["creates"] == 1
    simulator.world()
    daemon.start()
    outcomes = eventually(lambda: found if len(found := daemon.outcomes()) == 8 else None)
    assert {task["status"] for task in outcomes} == {"succeeded"}
