"""What is done to the daemon and its surroundings, each at a moment drawn at random."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from tests.process.running import START_S, Daemon, Simulator, eventually

DISK_BYTES = 64 << 20


class Strike(threading.Thread):
    """One strike, and then the daemon's end by SIGKILL or SIGTERM, while the clients work on."""

    def __init__(self, body: Callable[[], None]) -> None:
        super().__init__()
        self._body = body
        self.fault: BaseException | None = None

    def run(self) -> None:
        """Strike; what goes wrong is kept for whoever joins."""
        try:
            self._body()
        except BaseException as exc:  # noqa: BLE001 - handed on by `finish`
            self.fault = exc

    def finish(self) -> None:
        """Wait for its end, and raise what went wrong in it."""
        self.join()
        if self.fault is not None:
            raise self.fault


class Strikes:
    """All kinds. `disk` is the small file system on which the store is, None where none could be made."""

    def __init__(self, daemon: Daemon, simulator: Simulator, chance: random.Random, disk: Path | None) -> None:
        self._daemon = daemon
        self._simulator = simulator
        self._chance = chance
        self._disk = disk
        self.kinds: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "kill": contextlib.nullcontext,
            "stop": contextlib.nullcontext,
            "freeze": self._frozen,
            "outage": self._away,
            "lost": self._lossy,
            "descriptors": self._without_descriptors,
        }
        if disk is not None:
            self.kinds["full"] = self._full

    def begin(self, kind: str) -> Strike:
        """Strike at the daemon, which was just launched; at the end it is dead."""
        chance = self._chance
        # Who finds nothing to start with says so and ends; that is no strike at what was accepted.
        early = chance.random() < 0.1 and kind not in {"descriptors", "full"}
        before_s = chance.uniform(0, 0.6 if early else 1.0)
        during_s = chance.uniform(0.2, 1.5)
        inside = chance.random() < 0.5
        gently = kind == "stop" or (kind != "kill" and chance.random() < 0.5)

        def strike() -> None:
            if not early:
                eventually(lambda: self._daemon.ready, START_S)
            time.sleep(before_s)
            with self.kinds[kind]():
                if kind not in {"kill", "stop"}:
                    time.sleep(during_s)
                if inside:
                    self._end(gently=gently, early=early)
            if not inside:
                self._end(gently=gently, early=early)

        thread = Strike(strike)
        thread.start()
        return thread

    def _end(self, *, gently: bool, early: bool) -> None:
        if gently:
            self._daemon.terminate()
            self._daemon.signal(signal.SIGCONT)
            code = self._daemon.wait(20)
            # Before it minds signals, SIGTERM ends it at once.
            assert code == 0 or (early and code == -signal.SIGTERM), f"a stop ended with {code}"
        else:
            self._daemon.kill()

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        self._daemon.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemon.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        self._simulator.world(outage="1m", outage_status=self._chance.choice([None, 429, 503]))
        try:
            yield
        finally:
            self._simulator.world()

    @contextlib.contextmanager
    def _lossy(self) -> Iterator[None]:
        self._simulator.world(lose_replies=0.3, latency="50ms")
        try:
            yield
        finally:
            self._simulator.world()

    @contextlib.contextmanager
    def _without_descriptors(self) -> Iterator[None]:
        """No more files and sockets than there are."""
        pid = self._daemon.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
        try:
            yield
        finally:
            if self._daemon.running:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    @contextlib.contextmanager
    def _full(self) -> Iterator[None]:
        """The store's file system has no room."""
        assert self._disk is not None
        filler = self._disk / "filler"
        try:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 12))
            yield
        finally:
            filler.unlink()


def small_disk(folder: Path) -> Path | None:
    """A file system of its own for the store, where `scripts/test-chaos` was allowed a namespace to mount it in."""
    if "CRECHE_CHAOS_MOUNTS" not in os.environ:
        return None
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk], check=True)  # noqa: S603, S607
    return disk
