"""The command as a whole: help, start, errors, interruption, terminals; where it matters, as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from creche import __version__
from creche.cli import Exit
from creche.cli.app import COMMANDS

if TYPE_CHECKING:
    from tests.cli.conftest import FakeDaemon, Run

SOURCE = Path(__file__).parent.parent.parent / "daemon"
TASK = {"id": "t1", "algorithm": "flux", "status": "succeeded", "accepted_at": "2026-11-23T10:00:00Z", "result": 1}
STATUS = {
    "node": "n1",
    "version": "0.1.0",
    "started_at": "2026-11-23T10:00:00Z",
    "uptime_s": 7300.0,
    "ready": True,
    "draining": False,
    "tasks": {"processing": 2, "waiting": 5},
    "unfinished": 7,
    "conditions": {"flux": {"unauthorized": 3}},
    "listening": ["/run/creche/creche.sock", "http://127.0.0.1:8787"],
    "listeners": 0,
    "heartbeats": "redis",
    "cursor": "ab-12",
    "faults": ["heartbeats: no connection"],
}
ALGORITHM = {
    "name": "flux",
    "recipe": "replicate",
    "title": "Replicate",
    "base": "https://api.example",
    "in_flight": 3,
    "limit": 10,
    "waiting": 4,
    "deadline_s": 3600.0,
    "poll_every_s": 3.0,
    "conditions": {"throttled": 2},
    "can_create": True,
    "can_cancel": True,
}


@contextmanager
def process(
    daemon: FakeDaemon,
    *args: str,
    code: str | None = None,
    stdout: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """The command as a process; ended if it does not end by itself"""
    inherited = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    own = {"PYTHONPATH": str(SOURCE), "CRECHE_SOCKET": str(daemon.path), "TERM": "xterm-256color", "COLUMNS": "100"}
    command = [sys.executable, *(["-m", "creche"] if code is None else ["-c", code]), *args]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, env={**inherited, **own, **(env or {})}, stdout=stdout, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def test_help_names_every_command_and_exit_code(creche: Run) -> None:
    """`creche --help` lists all commands, and what every exit code means."""
    ran = creche("--help")
    commands, _, codes = ran.out.partition("Exit codes:")
    assert ran.code == 0
    assert [name for name in COMMANDS if f"  {name} " not in commands] == []
    assert {int(line.split()[0]) for line in codes.strip().splitlines() if line.split()[0].isdecimal()} == set(Exit)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_every_command_has_help(creche: Run, name: str) -> None:
    """Each command is found and explains itself."""
    ran = creche(name, "--help")
    assert (ran.code, ran.out.partition("\n")[0].split()[:3]) == (0, ["Usage:", "creche", name])


@pytest.mark.parametrize("args", [["nonsense"], ["list", "--nonsense"], ["wait"], ["list", "--limit", "0"]])
def test_a_wrong_command_line_exits_with_2(creche: Run, args: list[str]) -> None:
    """A mistake in the command line goes to standard error with a usage line."""
    ran = creche(*args)
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: creche" in ran.err


def test_an_unreachable_daemon_exits_with_4(creche: Run, short_tmp: Path) -> None:
    """The message names the socket that was tried and how to start a daemon; --socket goes before the environment."""
    ran = creche("list", "--socket", str(short_tmp / "other.sock"))
    assert (ran.code, ran.out) == (4, "")
    assert str(short_tmp / "other.sock") in ran.err
    assert "creche serve" in ran.err


def test_a_refusal_exits_with_3(creche: Run) -> None:
    """What the daemon refuses is told with its code."""
    ran = creche("show", "none")
    assert (ran.code, ran.err) == (3, "creche: task_not_found: no /v1/tasks/none\n")


def test_status_is_told_in_words(creche: Run, daemon: FakeDaemon) -> None:
    """The state, the tasks, and every fault and condition are named."""
    daemon.on("GET", "/v1/status", (200, STATUS))
    out = creche("status").out
    for words in (
        "creche 0.1.0, ready, up 2h",
        "2 processing, 5 waiting",
        "3 unauthorized",
        "heartbeats: no connection",
    ):
        assert words in out
    assert creche("status", "--json").values == [STATUS]


def test_algorithms_are_a_table(creche: Run, daemon: FakeDaemon) -> None:
    """Each algorithm is a line with its load and condition."""
    daemon.on("GET", "/v1/algorithms", (200, {"algorithms": [ALGORITHM]}))
    row = creche("algorithms").out.splitlines()[1]
    assert row.split() == ["flux", "replicate", "3/10", "4", "1h", "2", "throttled", "Replicate"]
    assert creche("algorithms", "--json").values == [ALGORITHM]


def test_check_prints_what_is_in_force(creche: Run) -> None:
    """Without mistakes the configuration is printed, one value per line, or as one JSON object."""
    ran = creche("check")
    assert ran.code == 0
    assert {"tcp.enabled = True", "socket.mode = 0660", "algorithms = none"} <= set(ran.out.splitlines())
    assert creche("check", "--json").values[0]["tcp.enabled"] == "True"


def test_check_prints_every_mistake(creche: Run, tmp_path: Path) -> None:
    """With mistakes each has its line, and the exit code is 78."""
    path = tmp_path / "config.toml"
    path.write_text("[socket]\nmodes = 1\n[stroe]\n")
    ran = creche("check", "--config", str(path))
    assert (ran.code, ran.out) == (78, "")
    assert "did you mean" in ran.err
    assert len(ran.err.splitlines()) == 2


def test_the_commands_start_light(daemon: FakeDaemon) -> None:
    """Neither the version nor a submit loads what takes long: no event loop, no tables, no HTTP library."""
    daemon.on("POST", "/v1/tasks", (202, TASK))
    code = (
        "import sys; from creche.cli.app import main\n"
        "codes = [main(['--version']), main(['submit', 'flux', '--data', '1'])]\n"
        "print(codes, *{'trio', 'rich', 'msgspec', 'asyncio', 'ssl', 'http.client', 'loguru'} & sys.modules.keys())"
    )
    with process(daemon, code=code) as running:
        out, err = running.communicate(timeout=20)
    assert (out, err) == (f"creche {__version__}\nt1\n[0, 0]\n", "")


def test_interruption_is_quiet(daemon: FakeDaemon) -> None:
    """Ctrl-C while waiting ends with 130 and without a traceback."""
    daemon.on("GET", "/v1/tasks/t1", "hang")
    with process(daemon, "wait", "t1") as running:
        assert daemon.arrived.acquire(timeout=20)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err.strip()) == (130, "", "")


def test_a_simulated_provider_runs_until_interrupted(daemon: FakeDaemon) -> None:
    """`creche simulate` says where it listens, and Ctrl-C ends it quietly."""
    with process(daemon, "simulate", "--port", "0") as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("http://127.0.0.1:")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (130, "", "")


def test_a_reader_that_goes_is_no_error(daemon: FakeDaemon) -> None:
    """When nobody reads the output any more, the command ends with 141 and says nothing."""
    daemon.on("GET", "/v1/tasks", (200, {"tasks": [TASK] * 100, "after": "t1"}))
    with process(daemon, "list", "--json", "--limit", "1000000") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert json.loads(running.stdout.readline()) == TASK
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait(timeout=20) == 141


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}], ids=["colours", "NO_COLOR"])
def test_a_terminal_gets_a_table(daemon: FakeDaemon, env: dict[str, str]) -> None:
    """On a terminal a status has its colour, unless NO_COLOR is set."""
    daemon.on("GET", "/v1/tasks", (200, {"tasks": [TASK], "after": None}))
    out = on_terminal(daemon, "list", env=env)
    assert "succeeded" in out
    assert ("\x1b[32m" in out) == (not env)


def test_a_terminal_gets_bars_while_waiting(daemon: FakeDaemon) -> None:
    """On a terminal a wait shows the task's progress, and its end above it."""
    running = {**TASK, "status": "processing", "progress": 0.5}
    daemon.on("GET", "/v1/tasks/t1", (200, running), (200, running), (200, TASK))
    out = on_terminal(daemon, "wait", "t1")
    assert "processing" in out
    assert "━" in out
    assert "t1  succeeded" in out
    assert daemon.requests[0].query == [("wait", "1.000s")]


def test_a_terminal_gets_bars_while_watching(daemon: FakeDaemon) -> None:
    """On a terminal a watch shows what is running below what has ended."""
    ended = {**TASK, "settled_at": "2026-11-23T10:01:00Z"}
    pages = [(200, {"results": results, "cursor": "c", "resync": False}) for results in ([], [], [ended])]
    daemon.on("GET", "/v1/results", *pages)
    daemon.on("GET", "/v1/tasks", (200, {"tasks": [{**TASK, "id": "t2", "status": "processing"}], "after": None}))
    out = on_terminal(daemon, "watch", "--once", "1")
    assert "t2" in out
    assert "10:01:00  flux  t1  succeeded" in out


def on_terminal(daemon: FakeDaemon, *args: str, env: Mapping[str, str] | None = None) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    with process(daemon, *args, stdout=theirs, env=env) as running:
        os.close(theirs)
        written = b"".join(_read_terminal(ours))
        assert running.stderr is not None
        assert running.stderr.read() == ""
        assert running.wait(timeout=20) == 0
    return written.decode()


def _read_terminal(descriptor: int) -> Iterator[bytes]:
    try:
        while some := os.read(descriptor, 65536):
            yield some
    except OSError:  # a terminal whose other side is closed ends with EIO
        return
    finally:
        os.close(descriptor)
