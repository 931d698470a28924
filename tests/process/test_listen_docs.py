"""The programs of docs/how-to/listen.md, as they stand there; the one for browsers runs in scripts/test-browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.process.running import SOURCES, eventually

if TYPE_CHECKING:
    from tests.process.running import Daemon, StartDaemon

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "listen.md"
FOLLOWING, STREAMING = re.findall(r"^```python\n(.+?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


class Program:
    """One of them, in the daemon's folder; what it prints goes to a file."""

    def __init__(self, daemon: Daemon, text: str) -> None:
        self._daemon = daemon
        self._text = text
        self._out = daemon.folder / "printed"

    def __enter__(self) -> Self:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), "PYTHONUNBUFFERED": "1"}
        environ["CRECHE_SOCKET"] = str(self._daemon.socket)
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-c", self._text], cwd=self._daemon.folder, env=environ, stdout=out
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def prints(self, task_id: str) -> list[str]:
        """Wait until it has printed a line about a task; the tasks of all lines."""
        return eventually(lambda: found if task_id in (found := self._tasks()) else None)

    def _tasks(self) -> list[str]:
        return [line.split()[0] for line in self._out.read_text().splitlines() if " succeeded" in line]


def end(daemon: Daemon, task_id: str) -> None:
    daemon.client.submit("sim", id=task_id, input={"simulate": {"queue": "0s", "run": "0s"}})
    daemon.client.wait(task_id)


def test_the_one_that_follows_resumes(start_daemon: StartDaemon) -> None:
    """By the cursor that it keeps in a file, over its own death and a restart of the daemon."""
    daemon = start_daemon()
    text = FOLLOWING.replace('algorithm="flux"', 'algorithm="sim"')
    assert text != FOLLOWING
    end(daemon, "t1")
    with Program(daemon, text) as program:
        assert program.prints("t1") == ["t1"]
        end(daemon, "t2")
        assert program.prints("t2") == ["t1", "t2"]
        daemon.stop()
        daemon.start()
        end(daemon, "t3")
        assert program.prints("t3") == ["t1", "t2", "t3"]
        eventually(lambda: (daemon.folder / "cursor").read_text() == daemon.client.status()["cursor"])
    end(daemon, "t4")
    with Program(daemon, text) as program:
        assert program.prints("t4") == ["t4"]


def test_the_one_for_the_stream_resumes(start_daemon: StartDaemon) -> None:
    """By the cursor in its memory, over a restart of the daemon, without gap or repeat."""
    daemon = start_daemon()
    port = daemon.tcp_url.rpartition(":")[2]
    daemon.config.write_text(daemon.config.read_text().replace("port = 0", f"port = {port}"))
    with Program(daemon, STREAMING.replace("8787", port)) as program:
        eventually(lambda: daemon.client.status()["listeners"] == 1)
        end(daemon, "t1")
        assert program.prints("t1") == ["t1"]
        daemon.stop()
        daemon.start()
        end(daemon, "t2")
        assert program.prints("t2") == ["t1", "t2"]
