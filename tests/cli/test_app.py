"""The command as a whole: help, start, errors, interruption, terminals; where it matters, as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
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


def test_a_command_that_is_mistyped_is_recognised(creche: Run) -> None:
    """The name that was meant is suggested."""
    assert 'no command is called "sumbit" (did you mean "submit"?)' in creche("sumbit").err


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


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"faults": []}, 0, "well yes"),
        ({"faults": ["store: disk full"]}, 1, "wrong store: disk full"),
        ({"faults": [], "draining": True}, 1, "wrong it stops"),
        ({"faults": [], "ready": False}, 1, "wrong it is not ready"),
        ({"faults": [], "tasks": {"unknown": 2}}, 0, "to decide 2 unknown"),
    ],
)
def test_status_says_whether_it_is_well(
    creche: Run, daemon: FakeDaemon, changes: dict[str, object], code: int, words: str
) -> None:
    """In words and by the exit code; what a person must decide, or a provider that is away, makes it not unwell."""
    daemon.on("GET", "/v1/status", (200, {**STATUS, **changes}))
    ran = creche("status")
    assert ran.code == code
    assert words in " ".join(ran.out.split())


def test_algorithms_are_a_table(creche: Run, daemon: FakeDaemon) -> None:
    """Each algorithm is a line with its load and condition."""
    daemon.on("GET", "/v1/algorithms", (200, {"algorithms": [ALGORITHM]}))
    row = creche("algorithms").out.splitlines()[1]
    assert row.split() == ["flux", "replicate", "3/10", "4", "1h", "2", "throttled", "Replicate"]
    assert creche("algorithms", "--json").values == [ALGORITHM]


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


def test_interruption_tells_how_to_go_on(daemon: FakeDaemon) -> None:
    """Ctrl-C while waiting ends with 130 and one line that says how to wait for the same task again."""
    daemon.on("GET", "/v1/tasks/t1", "hang")
    with process(daemon, "wait", "t1") as running:
        assert daemon.arrived.acquire(timeout=20)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err.strip()) == (
        130,
        "",
        "creche: the task goes on: creche wait t1",
    )


def test_a_simulated_provider_runs_until_interrupted(daemon: FakeDaemon) -> None:
    """`creche simulate` says where it listens, and Ctrl-C ends it quietly."""
    with process(daemon, "simulate", "--port", "0") as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("http://127.0.0.1:")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (130, "", "")


def test_a_simulated_provider_tells_that_its_port_is_taken(creche: Run) -> None:
    """In the system's words."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = creche("simulate", "--port", str(port))
    assert (ran.code, ran.err) == (1, f"creche: cannot listen on port {port}: Address already in use\n")


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
    assert has_row(out, "t1  succeeded")
    assert daemon.requests[0].query == [("wait", "1.000s")]


def test_a_result_has_a_row_of_its_own(daemon: FakeDaemon) -> None:
    """On a terminal the bars are gone before the result of `submit --wait` is printed."""
    running = {**TASK, "status": "processing", "progress": 0.5}
    daemon.on("POST", "/v1/tasks", (202, {**TASK, "status": "accepted"}))
    daemon.on("GET", "/v1/tasks/t1", (200, running), (200, running), (200, {**TASK, "result": "a heron"}))
    out = on_terminal(daemon, "submit", "flux", "--data", "1", "--wait", told="creche: task t1 is accepted\n")
    assert "━" in out
    assert has_row(out, '"a heron"')


def test_bars_come_back_below_what_was_printed(daemon: FakeDaemon) -> None:
    """Of several tasks each end is a row, and the next one's bar follows."""
    for name in ("t1", "t2"):
        task = {**TASK, "id": name}
        daemon.on("GET", f"/v1/tasks/{name}", (200, {**task, "status": "processing"}), (200, task))
    out = on_terminal(daemon, "wait", "t1", "t2")
    assert has_row(out, "t1  succeeded")
    assert has_row(out, "t2  succeeded")
    assert out.index("t1  succeeded") < out.rindex("processing")


def test_a_terminal_gets_bars_while_watching(daemon: FakeDaemon) -> None:
    """On a terminal a watch shows what is running below what has ended."""
    ended = {**TASK, "settled_at": "2026-11-23T10:01:00Z"}
    pages = [(200, {"results": results, "cursor": "c", "resync": False}) for results in ([], [], [ended])]
    daemon.on("GET", "/v1/results", *pages)
    daemon.on("GET", "/v1/tasks", (200, {"tasks": [{**TASK, "id": "t2", "status": "processing"}], "after": None}))
    out = on_terminal(daemon, "watch", "--once", "1")
    assert "t2" in out
    assert has_row(out, "10:01:00  flux  t1  succeeded")


def has_row(out: str, text: str) -> bool:
    """Whether a terminal shows a row of just this text: before it only what erases the row, behind it a line break."""
    return re.search(rf"(?:^|[\r\n])(?:\x1b\[[0-9;?]*[A-Za-z])*{re.escape(text)}\r?\n", out) is not None


def on_terminal(daemon: FakeDaemon, *args: str, env: Mapping[str, str] | None = None, told: str = "") -> str:
    """What a command writes to a terminal; `told` is what it says on standard error."""
    ours, theirs = pty.openpty()
    with process(daemon, *args, stdout=theirs, env=env) as running:
        os.close(theirs)
        written = b"".join(_read_terminal(ours))
        assert running.stderr is not None
        assert running.stderr.read() == told
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
