"""Several daemons on one Valkey: all answer alike, and whichever dies, nothing is lost or done twice."""

from __future__ import annotations

import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process.fleet import IMPATIENT, MakeNode, fleet, nodes, tasks_by_node, wait_for_members
from tests.process.receiver import SECRET, Receiver
from tests.process.running import eventually
from tests.redis_servers import AOF, Server, cluster, sentinels, wait_until

if TYPE_CHECKING:
    from tests.process.running import Daemon, Json, Listener, Simulator

ADOPTED_S = 15.0
"""By who is as impatient as `IMPATIENT`."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Valkey that keeps what it was told."""
    with Server(tmp_path / "valkey", *AOF) as running:
        yield running


@pytest.fixture
def make_node(server: Server, simulator: Simulator) -> Iterator[MakeNode]:
    """Makes nodes, which end with the test."""
    with nodes(server.url, simulator.url) as make:
        yield make


@pytest.fixture
def pair(make_node: MakeNode) -> tuple[Daemon, Daemon]:
    """Two nodes that know each other."""
    one, other = make_node(), make_node()
    one.start()
    other.start()
    wait_for_members(one, 2)
    return one, other


def submit(node: Daemon, **script: object) -> str:
    return str(node.client.submit("sim", input={"simulate": {"queue": "0s", **script}})["id"])


def submit_and_wait(node: Daemon) -> str:
    task_id = submit(node, run="0s")
    assert node.client.wait(task_id)["status"] == "succeeded"
    return task_id


def assert_once(simulator: Simulator, start: str, count: int, heard: list[str]) -> None:
    """Each task has had one job, and its outcome was heard once."""
    assert Counter(simulator.jobs_by_tag(f"{start}-").values()) == {1: count}
    assert Counter(Counter(heard).values()) == {1: count}


# -- any node will do ----------------------------------------------------------------------------------


def test_a_task_is_seen_from_every_node(pair: tuple[Daemon, Daemon], listen: Callable[..., Listener]) -> None:
    """Listed, shown, waited for and heard of elsewhere; the same key finds it there, too."""
    one, other = pair
    with listen(other.tcp_url) as ears:
        task = {"key": "k", "input": {"simulate": {"queue": "0s", "run": "1s"}}}
        task_id = one.client.submit("sim", **task)["id"]
        assert other.client.submit("sim", **task)["id"] == task_id
        assert [row["id"] for row in other.client.tasks(status=["unfinished"])] == [task_id]
        began = time.monotonic()
        assert other.client.wait(task_id)["status"] == "succeeded"
        assert time.monotonic() - began < 4
        assert ears.hears(1) == [task_id]
    assert other.client.get(task_id)["status"] == "succeeded"
    assert [row["id"] for row in one.outcomes()] == [row["id"] for row in other.outcomes()] == [task_id]


def test_a_cursor_of_one_node_is_good_on_all(pair: tuple[Daemon, Daemon], listen: Callable[..., Listener]) -> None:
    """Whoever loses its node resumes at another, without gap or repeat."""
    one, other = pair
    with listen(one.tcp_url) as before:
        first = [submit(one, run="0s"), submit(other, run="0s")]
        assert sorted(before.hears(2)) == sorted(first)
    second = submit(one, run="0s")
    with listen(other.tcp_url, since=before.cursor) as after:
        assert after.hears(1) == [second]


def test_a_task_can_be_cancelled_at_any_node(pair: tuple[Daemon, Daemon]) -> None:
    """The one that minds it does so; the other one's answer shows it."""
    one, other = pair
    task_id = submit(one, run="10m")
    assert other.client.cancel(task_id)["status"] in {"cancelling", "cancelled"}
    assert other.client.wait(task_id, timeout_s=10)["status"] == "cancelled"
    reply = other.call("POST", f"/v1/tasks/{submit_and_wait(one)}/cancel")
    assert (reply.status, reply.json["code"]) == (409, "wrong_status")


def test_any_node_delivers_webhooks(make_node: MakeNode) -> None:
    """Whoever settled the task may be gone by the time the receiver is back."""
    receiver = Receiver()
    receiver.status = 500
    hook = (
        f'[webhooks.books]\nurl = "http://127.0.0.1:{receiver.port}/hook"\nsecret = "${{env:SECRET}}"\nprivate = true\n'
    )
    one, other = (make_node(hook, environ={"SECRET": SECRET}) for _ in range(2))
    try:
        one.start()
        other.start()
        task_id = submit_and_wait(one)
        eventually(lambda: f"{task_id}.books" in receiver.ids)
        eventually(lambda: other.client.webhooks()["deliveries"][0].get("attempts"))
        one.kill()
        receiver.status = 200
        assert other.client.retry_webhooks() == []
        other.client.retry_webhooks([f"{task_id}.books"])  # unless it was due just now
        assert receiver.hears(1) == [task_id]
        eventually(lambda: other.client.webhooks()["pending"] == 0)
    finally:
        receiver.end()


def test_an_unknown_task_is_resolved_at_any_node(make_node: MakeNode, simulator: Simulator) -> None:
    """A decision that cannot be is refused there; one that can be is done where the task is."""
    recipe = """
[create]
url = "/v1/jobs"
body = "$input"
id = "/id"
[poll]
url = "/v1/jobs/{job}"
status = "/status"
[poll.statuses]
waiting = ["queued"]
processing = ["running"]
succeeded = ["succeeded"]
"""
    careful = f'[algorithms.careful]\nrecipe = "careful.toml"\nbase = "{simulator.url}"\npoll_every = "200ms"\n'
    one, other = (make_node(careful, files={"careful.toml": recipe}) for _ in range(2))
    one.start()
    other.start()
    simulator.world(lose_replies=1)
    task_id = one.client.submit("careful", input={"simulate": {"queue": "0s", "run": "0s"}})["id"]
    assert other.client.wait(task_id, timeout_s=10)["status"] == "unknown"
    simulator.world()
    refused = other.call("POST", f"/v1/tasks/{task_id}/resolve", {"action": "attach"})
    assert (refused.status, refused.json["code"]) == (400, "invalid_request")
    job = simulator.create(queue="0s", run="0s")
    assert other.client.resolve(task_id, "attach", job=job)["status"] != "unknown"
    assert other.client.wait(task_id, timeout_s=10)["status"] == "succeeded"
    assert one.client.get(task_id)["job"]["id"] == job


def test_listeners_hear_of_changes_at_other_nodes(pair: tuple[Daemon, Daemon], listen: Callable[..., Listener]) -> None:
    """Those who ask for updates."""
    one, other = pair
    with listen(other.tcp_url, query="updates=1") as ears:
        time.sleep(1)  # until it follows them: it begins to when the question for other news comes back
        task_id = submit(one, run="2s")
        ears.hears(1)
    updates = [message["task"] for message in ears.messages if message["type"] == "update"]
    assert {task["id"] for task in updates} == {task_id}


# -- one ends ------------------------------------------------------------------------------------------


def test_a_node_that_stops_hands_its_tasks_over(
    pair: tuple[Daemon, Daemon], simulator: Simulator, listen: Callable[..., Listener]
) -> None:
    """At once: another has them within two seconds or so; no job is made twice, no outcome is missed."""
    one, other = pair
    with listen(other.tcp_url) as ears:
        start = one.submit_many(100, run_s=2, spread_s=4)
        one.stop()
        wait_for_members(other, 1)
        eventually(lambda: fleet(other)["adopted"] > 50 and not fleet(other)["orphans"], 3)
        heard = ears.hears(100, 30)
    assert_once(simulator, start, 100, heard)


@pytest.mark.slow
def test_what_dead_and_frozen_nodes_had_is_taken_over(
    make_node: MakeNode, simulator: Simulator, listen: Callable[..., Listener]
) -> None:
    """One is killed, one hangs for a while and goes on: the third has all their tasks soon, all settle once, its
    listener hears all. The one that comes back writes nothing, and joins anew.
    """
    killed, frozen, left = nodes_ = [make_node(command=IMPATIENT) for _ in range(3)]
    for node in nodes_:
        node.start()
    wait_for_members(left, 3)
    with listen(left.tcp_url) as ears:
        starts = [node.submit_many(60, run_s=14, spread_s=4) for node in nodes_]
        time.sleep(1)
        frozen.signal(signal.SIGSTOP)
        killed.kill()
        began = time.monotonic()
        while left.client.status()["unfinished"] < 180:
            assert time.monotonic() - began < ADOPTED_S, tasks_by_node(left)
            time.sleep(0.1)
        assert (len(fleet(left)["nodes"]), fleet(left)["adopted"]) == (1, 120)
        frozen.signal(signal.SIGCONT)
        wait_for_members(left, 2)
        heard = ears.hears(180, 60)
    assert Counter(Counter(heard).values()) == {1: 180}
    for start in starts:
        assert Counter(simulator.jobs_by_tag(f"{start}-").values()) == {1: 60}
    status = frozen.client.status()
    assert status["fleet"]["member"] == f"{status['node']}-2"
    assert frozen.run("--json", "list", "--status", "unfinished").stdout == ""
    assert [row["id"] for row in frozen.outcomes()] == heard


# -- the server ----------------------------------------------------------------------------------------


def test_the_server_is_killed_and_comes_back(
    pair: tuple[Daemon, Daemon], server: Server, simulator: Simulator, listen: Callable[..., Listener]
) -> None:
    """Submits in between are refused and say why; what is minded goes on, and is written once it is back."""
    one, other = pair
    with listen(other.tcp_url) as ears:
        start = one.submit_many(50, run_s=1, spread_s=3)
        server.kill()
        reply = one.call("POST", "/v1/tasks", {"algorithm": "sim", "input": {}})
        assert (reply.status, reply.json["code"]) == (503, "store_unavailable")
        time.sleep(2)
        assert one.client.status()["unfinished"] == 50
        server.start()
        heard = ears.hears(50, 30)
    assert_once(simulator, start, 50, heard)
    assert one.client.status()["faults"] == []


def test_what_the_server_has_lost_is_put_back(pair: tuple[Daemon, Daemon], server: Server) -> None:
    """As a failover may lose what was written last: the node that minds the task still has it, and nothing is paid
    twice.
    """
    one, other = pair
    task = one.client.submit("sim", key="k", input={"simulate": {"queue": "0s", "run": "12s", "tag": "lost"}})
    eventually(lambda: one.client.get(task["id"])["status"] == "processing")
    for key in server.client.scan_iter("{creche}:*"):
        if key.startswith(("{creche}:by:", "{creche}:owned:")):
            server.client.zrem(key, task["id"])
    server.client.delete(f"{{creche}}:t:{task['id']}", "{creche}:keys")
    assert other.call("GET", f"/v1/tasks/{task['id']}").status == 404
    eventually(lambda: other.call("GET", f"/v1/tasks/{task['id']}").status == 200, 12)
    assert other.client.wait(task["id"])["status"] == "succeeded"
    assert (
        other.client.submit("sim", key="k", input={"simulate": {"queue": "0s", "run": "12s", "tag": "lost"}})["id"]
        == task["id"]
    )


def test_a_server_that_hangs(pair: tuple[Daemon, Daemon], server: Server) -> None:
    """Nobody waits for it for ever: what needs it is refused within seconds, and works when it goes on."""
    one, _ = pair
    server.pause()
    began = time.monotonic()
    reply = one.call("POST", "/v1/tasks", {"algorithm": "sim", "input": {}})
    assert (reply.status, time.monotonic() - began < 8) == (503, True)
    server.resume()
    deadline = time.monotonic() + 10
    while one.call("POST", "/v1/tasks", {"algorithm": "sim", "input": {}}).status != 202:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def submit_until(node: Daemon, keys: Iterator[str], until: Callable[[list[str]], bool]) -> tuple[list[str], set[int]]:
    """Submit one task after another: the keys of those that were accepted, and with what all were answered."""
    accepted: list[str] = []
    statuses: set[int] = set()
    while not until(accepted):
        key = next(keys)
        task = {"algorithm": "sim", "key": key, "input": {"simulate": {"queue": "0s", "run": "2s", "tag": key}}}
        reply = node.call("POST", "/v1/tasks", task)
        statuses.add(reply.status)
        if reply.status == 202:
            accepted.append(key)
        time.sleep(0.02)
    return accepted, statuses


def assert_all_settle(node: Daemon, simulator: Simulator, accepted: list[str], start: str) -> None:
    """Whatever was accepted ends well, and has had one job; so does what was not answered, if it is there."""
    eventually(lambda: accepted and not list(node.client.tasks(status=["unfinished"])), 60)
    ends = {task["key"]: task["status"] for task in node.outcomes()}
    assert {ends.get(key) for key in accepted} == {"succeeded"}
    assert set(simulator.jobs_by_tag(start).values()) == {1}


@pytest.mark.slow
def test_a_failover_loses_nothing(simulator: Simulator, tmp_path: Path) -> None:
    """With Sentinel, and `replicas = 1`: submits get 503 until there is a primary that has a replica again."""
    keys = (f"{tmp_path.name}-s{number}" for number in itertools.count())
    with sentinels(tmp_path, *AOF) as (url, primary, replica), nodes(url, simulator.url) as make_node:
        one, other = make_node(store="replicas = 1\n"), make_node(store="replicas = 1\n")
        one.start()
        other.start()
        after = time.monotonic() + 1
        accepted, statuses = submit_until(one, keys, lambda _: time.monotonic() > after)
        assert statuses == {202}
        primary.kill()
        wait_until(lambda: replica.client.info("replication")["role"] == "master", "the replica is promoted")
        primary.start()
        primary.client.replicaof("127.0.0.1", replica.port)  # as the Sentinels would do in a while
        later, statuses = submit_until(other, keys, lambda accepted: len(accepted) > 2)
        assert 503 in statuses
        last = time.monotonic() + 1
        more, statuses = submit_until(other, keys, lambda _: time.monotonic() > last)
        assert statuses == {202}
        assert_all_settle(one, simulator, accepted + later + more, f"{tmp_path.name}-s")


@pytest.mark.slow
def test_a_cluster_s_node_is_killed_and_comes_back(simulator: Simulator, tmp_path: Path) -> None:
    """The one that has the store's keys: in between submits get 503, and nothing is lost."""
    keys = (f"{tmp_path.name}-c{number}" for number in itertools.count())
    with cluster(tmp_path, *AOF) as (url, servers), nodes(url, simulator.url) as make_node:
        one, other = make_node(), make_node()
        one.start()
        other.start()
        after = time.monotonic() + 1
        accepted, statuses = submit_until(one, keys, lambda _: time.monotonic() > after)
        assert statuses == {202}
        [holder] = [server for server in servers if server.client.execute_command("DBSIZE")]
        holder.kill()
        gone = time.monotonic() + 2
        between, statuses = submit_until(one, keys, lambda _: time.monotonic() > gone)
        assert (between, statuses) == ([], {503})
        holder.start()
        later, _ = submit_until(other, keys, lambda accepted: len(accepted) > 2)
        assert_all_settle(other, simulator, accepted + later, f"{tmp_path.name}-c")


# -- room and limits -----------------------------------------------------------------------------------


def test_tasks_wait_for_a_node_with_room(make_node: MakeNode, simulator: Simulator) -> None:
    """What a full node is given waits, durably; one that joins takes it."""
    small = make_node("[tasks]\nmax = 5\n")
    small.start()
    start = small.submit_many(12, run_s=3)
    assert small.client.status()["unfinished"] == 5
    large = make_node()
    large.start()
    small_left: Json = small.client.status()
    assert small_left["unfinished"] <= 5
    deadline = time.monotonic() + 20
    while len(small.outcomes()) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert fleet(large)["adopted"] >= 5
    assert Counter(simulator.jobs_by_tag(f"{start}-").values()) == {1: 12}


def test_jobs_in_flight_are_limited_for_the_fleet(make_node: MakeNode, simulator: Simulator) -> None:
    """Both nodes together have never more than allowed, and both get some."""
    limited = f'[algorithms.few]\nrecipe = "simulator"\nbase = "{simulator.url}"\npoll_every = "200ms"\nin_flight = 6\n'
    pair = [make_node(limited) for _ in range(2)]
    for node in pair:
        node.start()
    starts = [node.submit_many(30, algorithm="few", run_s=1) for node in pair]
    most, both = 0, 0
    deadline = time.monotonic() + 40
    while len(pair[0].outcomes()) < 60:
        held = [node.client.algorithms()[1]["in_flight"] for node in pair]
        most, both = max(most, sum(held)), both + all(held)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 0 < most <= 6
    assert both
    for start in starts:
        assert Counter(simulator.jobs_by_tag(f"{start}-").values()) == {1: 30}
