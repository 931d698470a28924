"""The demo where a person looks: what its table shows, and how it ends when it is made to."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from creche.cli.demo_view import LiveView

SOURCE = Path(__file__).parent.parent.parent / "daemon"
STATUSES = ("accepted", "creating", "processing", "server_failed", "timed_out")
LONG = "something that takes very many words to say " * 3


@contextmanager
def demo(folder: Path, *args: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """`creche demo` with its files below `folder`; all that it started is ended with it."""
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(folder), "TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-m", "creche", "demo", *args]
    with subprocess.Popen(command, env=env, stdout=stdout, stderr=subprocess.PIPE) as running:  # noqa: S603 - our own
        try:
            yield running
        finally:
            left = [running, *psutil.Process(running.pid).children()] if running.poll() is None else []
            for process in left:
                process.kill()


def ending(running: subprocess.Popen[bytes]) -> tuple[int, str, int]:
    """The exit code, standard error, and how many processes it had started are still there."""
    assert running.stderr is not None
    children = psutil.Process(running.pid).children()
    err = running.stderr.read().decode()
    code = running.wait(timeout=40)
    return code, err.strip(), sum(child.is_running() for child in children)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_every_status_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """However narrow the terminal and long the texts, algorithm and status can be read, and no row is broken."""
    monkeypatch.setenv("COLUMNS", str(width))
    view = LiveView()
    for number, status in enumerate(STATUSES):
        view.submitted(f"id{number}", "algorithm", LONG)
        task = {"id": f"id{number}", "algorithm": "algorithm", "status": status, "last_error": LONG}
        view.heard({"type": "update", "task": task})
    out = io.StringIO()
    Console(width=width, file=out).print(view._table())
    rows = [line for line in out.getvalue().splitlines() if line.strip()][2:]
    assert [next((status for status in STATUSES if f" {status} " in row), row) for row in rows] == list(STATUSES)
    assert all("algorithm " in row for row in rows)
    assert all(("id" in row.split()[0]) == (width > 100) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_leaves_nothing(short_tmp: Path, number: signal.Signals) -> None:
    """On a terminal, in the middle: exit code 130, no traceback, no process, no folder."""
    ours, theirs = pty.openpty()
    with demo(short_tmp, stdout=theirs) as running, closing(os.fdopen(ours, "rb", 0)) as screen:
        os.close(theirs)
        shown = b""
        while b"processing" not in shown:
            shown += screen.read(65536)
        running.send_signal(number)
        drain = threading.Thread(target=_read_all, args=(screen.read,))
        drain.start()
        assert ending(running) == (130, "", 0)
        drain.join()
    assert list(short_tmp.iterdir()) == []


@pytest.mark.slow
def test_a_demo_whose_reader_goes_ends(short_tmp: Path) -> None:
    """As `creche demo | head -2` does: exit code 141 and nothing left."""
    with demo(short_tmp) as running:
        assert running.stdout is not None
        for _ in range(6):
            running.stdout.readline()
        running.stdout.close()
        assert ending(running) == (141, "", 0)
    assert list(short_tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("redis://:geheim@127.0.0.1:1", 1, "Error: cannot reach redis://:***@127.0.0.1:1: "),
        ("foo", 2, "--redis: expected redis://HOST:PORT"),
    ],
)
def test_a_redis_that_is_not_there_is_told_first(short_tmp: Path, url: str, code: int, words: str) -> None:
    """Before anything is started, and without its password."""
    with demo(short_tmp, "--redis", url) as running:
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out) == (code, b"")
    assert words in err.decode()
    assert b"geheim" not in err
    assert list(short_tmp.iterdir()) == []


def _read_all(read: Callable[[int], bytes]) -> None:
    try:
        while read(65536):
            pass
    except OSError:  # a terminal whose other side is closed ends with EIO
        return
