"""Configuration as operators meet it: every mistake at once, and changes without a restart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.process.running import Daemon, Simulator, StartDaemon

SOURCES = Path(__file__).parent.parent.parent / "daemon"

FIVE_MISTAKES = """
[socket]
path = "creche.sock"
mode = 660
[tcp]
prot = 8787
token = "hunter2-in-plain-text"
[store]
keep_for = "forever"
[algorithms.flux]
recipe = "replicat"
"""
MORE = """
[algorithms.more]
recipe = "simulator"
base = "{url}"
poll_every = "200ms"
"""
QUICK = {"simulate": {"queue": "0s", "run": "0s"}}
PLACES = ("socket.mode", "tcp.prot", "tcp.token", "store.keep_for", "algorithms.flux.recipe")


def creche(*args: str) -> subprocess.CompletedProcess[str]:
    """A command that must end by itself."""
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "creche", *args],
        env={"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize("command", ["serve", "check"])
def test_all_mistakes_at_once(tmp_path: Path, command: str) -> None:
    """Exit code 78, and a line for each of five mistakes with file and key; secrets are not repeated."""
    file = tmp_path / "config.toml"
    file.write_text(FIVE_MISTAKES, encoding="utf-8")
    ran = creche(command, "--config", str(file))
    lines = ran.stderr.splitlines()
    assert (ran.returncode, ran.stdout) == (78, "")
    assert [any(line.startswith(f"creche: {file}: {place}: ") for line in lines) for place in PLACES] == [True] * 5
    assert len(lines) == 5
    assert "hunter2" not in ran.stderr
    assert 'did you mean "port"?' in ran.stderr
    assert 'did you mean "replicate"?' in ran.stderr


def test_syntax_error_names_its_line(tmp_path: Path) -> None:
    """A file that is no TOML is refused with the line where that shows."""
    file = tmp_path / "config.toml"
    file.write_text('[socket]\npath = "a"\nmode = = 1\n', encoding="utf-8")
    ran = creche("serve", "--config", str(file))
    assert ran.returncode == 78
    assert f"{file}: no valid TOML: " in ran.stderr
    assert "line 3" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is a mistake, not a reason to take the defaults."""
    ran = creche("serve", "--config", str(tmp_path / "nowhere.toml"))
    assert (ran.returncode, len(ran.stderr.splitlines())) == (78, 1)
    assert "nowhere.toml: cannot be read: No such file or directory" in ran.stderr


def change(daemon: Daemon, text: str) -> None:
    """Write the configuration anew and have it read."""
    daemon.config.write_text(text, encoding="utf-8")
    daemon.reload()


def _names(daemon: Daemon) -> set[str]:
    return {algorithm["name"] for algorithm in daemon.client.algorithms()}


def test_new_algorithm_without_a_restart(start_daemon: StartDaemon, simulator: Simulator) -> None:
    """After SIGHUP an added algorithm takes tasks, and the process is the same."""
    daemon = start_daemon()
    node = daemon.client.status()["node"]
    change(daemon, daemon.config.read_text() + MORE.format(url=simulator.url))
    task = daemon.client.submit("more", input=QUICK)
    assert daemon.client.wait(task["id"], 10)["status"] == "succeeded"
    assert _names(daemon) == {"sim", "more"}
    assert daemon.client.status()["node"] == node


def test_limits_without_a_restart(
    start_daemon: StartDaemon, simulator: Simulator, eventually: Callable[..., Any]
) -> None:
    """A limit that is raised lets those in that waited for a slot."""
    more = MORE.format(url=simulator.url)
    daemon = start_daemon(more + "in_flight = 1\n")
    daemon.submit_many(5, algorithm="more", run_s=3600)
    eventually(lambda: simulator.stats()["created"] == 1)
    assert daemon.client.status()["tasks"].get("accepted") == 4
    change(daemon, daemon.config.read_text().replace("in_flight = 1", "in_flight = 4"))
    eventually(lambda: simulator.stats()["created"] == 4)
    assert daemon.client.status()["tasks"].get("accepted") == 1


def test_a_bad_file_changes_nothing(start_daemon: StartDaemon) -> None:
    """A file with mistakes is told, with all of them, and the old configuration stays in force."""
    daemon = start_daemon()
    more = f'\n[algorithms.more]\nrecipe = "none"\nbaes = "x"\npoll_grow = {"9" * 400}\n'
    change(daemon, daemon.config.read_text() + more)
    daemon.claim("not reloaded: ")
    assert [line for line in daemon.logged("error") if "algorithms.more.recipe" in line]
    assert [line for line in daemon.logged("error") if "algorithms.more.baes" in line]
    assert [line for line in daemon.logged("error") if "algorithms.more.poll_grow" in line]
    assert _names(daemon) == {"sim"}
    task = daemon.client.submit("sim", input=QUICK)
    assert daemon.client.wait(task["id"], 10)["status"] == "succeeded"


def test_what_needs_a_restart_says_so(start_daemon: StartDaemon) -> None:
    """Changes that cannot be taken over are named."""
    daemon = start_daemon()
    change(daemon, daemon.config.read_text().replace("port = 0", "port = 1"))
    assert [line for line in daemon.logged("warning") if "restart" in line and "tcp" in line]


def test_tasks_of_a_removed_algorithm_wait(
    start_daemon: StartDaemon, simulator: Simulator, eventually: Callable[..., Any]
) -> None:
    """A task whose algorithm leaves the configuration waits and says why; back again, it goes on with its job."""
    more = MORE.format(url=simulator.url)
    daemon = start_daemon(more)
    without, whole = daemon.config.read_text().replace(more, ""), daemon.config.read_text()
    task_id = daemon.client.submit("more", input={"simulate": {"queue": "0s", "run": "1s"}})["id"]
    job = eventually(lambda: daemon.client.get(task_id).get("job"))
    change(daemon, without)
    task = eventually(lambda: found if (found := daemon.client.get(task_id)).get("condition") else None)
    assert "no longer in the configuration" in task["last_error"]
    assert daemon.client.status()["conditions"] == {"more": {task["condition"]: 1}}
    assert daemon.call("POST", "/v1/tasks", {"algorithm": "more", "input": {}}).status == 422
    change(daemon, whole)
    task = daemon.client.wait(task_id, 10)
    assert (task["status"], task["job"]["id"]) == ("succeeded", job["id"])
    assert simulator.stats()["created"] == 1


def test_tasks_of_a_removed_algorithm_survive_a_restart(
    start_daemon: StartDaemon, simulator: Simulator, eventually: Callable[..., Any]
) -> None:
    """Started without the algorithm of an unfinished task, the daemon keeps the task until the algorithm is back."""
    more = MORE.format(url=simulator.url)
    daemon = start_daemon(more)
    whole = daemon.config.read_text()
    task_id = daemon.client.submit("more", input={"simulate": {"queue": "0s", "run": "500ms"}})["id"]
    eventually(lambda: daemon.client.get(task_id).get("job"))
    daemon.stop()
    daemon.config.write_text(whole.replace(more, ""), encoding="utf-8")
    daemon.start()
    eventually(lambda: daemon.client.get(task_id).get("condition"))
    assert "creche_" in daemon.call("GET", "/metrics").body.decode()
    change(daemon, whole)
    assert daemon.client.wait(task_id, 10)["status"] == "succeeded"
