"""The command line against the real daemon."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.process.running import Daemon, StartDaemon

GOOD = {"prompt": "a heron", "simulate": {"queue": "0s", "run": "0s"}}
BAD = {"simulate": {"queue": "0s", "run": "0s", "end": "failed", "message": "no luck"}}
ENDLESS = {"simulate": {"run": "1h"}}


@pytest.fixture(scope="module")
def daemon(start_shared_daemon: StartDaemon) -> Daemon:
    return start_shared_daemon()


@pytest.fixture(scope="module", autouse=True)
def demo(daemon: Daemon) -> Iterator[subprocess.Popen[str]]:
    """`creche demo`, which takes its time while this module's other tests run."""
    with daemon.begin("demo") as process:
        yield process
        process.terminate()


def values(ran: subprocess.CompletedProcess[str]) -> list[Any]:
    """The JSON values that a command printed, one per line."""
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_submit_and_wait(daemon: Daemon) -> None:
    """`submit --wait` prints the result alone on standard output, and the id on standard error."""
    ran = daemon.run("submit", "sim", "--data", json.dumps(GOOD), "--wait")
    assert (ran.returncode, values(ran)) == (0, ["a heron"])
    assert ran.stderr.startswith("creche: task ")


def test_submit_and_wait_for_a_failure(daemon: Daemon) -> None:
    """A task that fails makes exit code 1, and its reason is told."""
    ran = daemon.run("submit", "sim", "--data", json.dumps(BAD), "--wait")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "no luck" in ran.stderr


def test_submit_with_output(daemon: Daemon, tmp_path: Path) -> None:
    """`--output` takes the result; nothing else is in the file."""
    source, target = tmp_path / "input.json", tmp_path / "result.json"
    source.write_text(json.dumps(GOOD), encoding="utf-8")
    ran = daemon.run("submit", "sim", "--input", str(source), "--wait", "--output", str(target))
    assert (ran.returncode, ran.stdout) == (0, "")
    assert json.loads(target.read_text(encoding="utf-8")) == "a heron"


def test_many_from_standard_input(daemon: Daemon) -> None:
    """Lines of JSON become tasks, in order; the worst end of any is the exit code."""
    lines = "".join(json.dumps({"input": content}) + "\n" for content in (GOOD, BAD, GOOD))
    ran = daemon.run("submit", "sim", "--ndjson", "-", "--wait", "--json", stdin=lines)
    assert [task["status"] for task in values(ran)] == ["succeeded", "failed", "succeeded"]
    assert ran.returncode == 1


def test_refused(daemon: Daemon) -> None:
    """What the daemon refuses is told in its words, with exit code 3."""
    ran = daemon.run("submit", "simm", "--data", "{}")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert 'did you mean "sim"?' in ran.stderr


def test_list_show_cancel(daemon: Daemon) -> None:
    """A task can be found by its labels, shown with its input, and cancelled."""
    ran = daemon.run("submit", "sim", "--data", json.dumps(ENDLESS), "--label", "test=list", "--user", "ada")
    task_id = ran.stdout.strip()
    [listed] = values(daemon.run("list", "--label", "test=list", "--status", "unfinished", "--json"))
    assert (listed["id"], listed["user"]) == (task_id, "ada")
    [shown] = values(daemon.run("show", task_id, "--input", "--json"))
    assert shown["input"] == ENDLESS
    assert task_id in daemon.run("show", task_id).stdout
    assert daemon.run("cancel", task_id).returncode == 0
    ran = daemon.run("wait", task_id, "--json")
    assert (ran.returncode, values(ran)[0]["status"]) == (1, "cancelled")
    assert daemon.run("show", "nobody").returncode == 3


def test_wait_no_longer_than(daemon: Daemon) -> None:
    """`wait --timeout` ends with code 5, and the task goes on."""
    task_id = daemon.client.submit("sim", input=ENDLESS)["id"]
    ran = daemon.run("wait", task_id, "--timeout", "300ms")
    assert ran.returncode == 5
    assert "settled_at" not in daemon.client.get(task_id)
    daemon.client.cancel(task_id)


def test_status_and_algorithms(daemon: Daemon) -> None:
    """What the API shows can be had as JSON, and as a table."""
    [status] = values(daemon.run("status", "--json"))
    assert (status["ready"], status["faults"]) == (True, [])
    algorithms = values(daemon.run("algorithms", "--json"))
    assert [algorithm["name"] for algorithm in algorithms] == ["sim"]
    assert daemon.run("status").returncode == 0
    assert "sim" in daemon.run("algorithms").stdout


def test_watch(daemon: Daemon, eventually: Callable[..., Any]) -> None:
    """`watch --once N` prints the outcomes that happen from its start on, and ends."""
    ended: list[subprocess.CompletedProcess[str]] = []
    watching = threading.Thread(
        target=lambda: ended.append(daemon.run("watch", "--once", "2", "--user", "eve", "--json"))
    )
    watching.start()
    process = psutil.Process(daemon.process.pid)
    # The listening socket, and the connection of the one who watches.
    eventually(lambda: [socket.laddr for socket in process.net_connections("unix")].count(str(daemon.socket)) == 2)
    ids = [daemon.client.submit("sim", input=GOOD, user=user)["id"] for user in ("eve", "adam", "eve")]
    watching.join(30)
    [ran] = ended
    assert ran.returncode == 0
    assert {task["id"] for task in values(ran)} == {ids[0], ids[2]}


def test_watch_since(daemon: Daemon) -> None:
    """`watch --since` begins behind a cursor."""
    cursor = daemon.client.status()["cursor"]
    task_id = daemon.client.submit("sim", input=GOOD)["id"]
    ran = daemon.run("watch", "--since", cursor, "--once", "1", "--algorithm", "sim", "--json")
    assert [task["id"] for task in values(ran)] == [task_id]


def test_nobody_there(daemon: Daemon, tmp_path: Path) -> None:
    """Without a daemon at the socket the exit code is 4, and the socket is named."""
    ran = daemon.run("--socket", str(tmp_path / "no.sock"), "status")
    assert ran.returncode == 4
    assert "no.sock" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_demo(demo: subprocess.Popen[str]) -> None:
    """The demo runs without a terminal, shows every kind of end, and leaves nothing behind."""
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 0, out + err
    for status in ("succeeded", "failed", "cancelled", "timed_out"):
        assert status in out
    [folder] = re.findall(r"Everything was in (\S+):", out)
    assert not Path(folder).exists()
