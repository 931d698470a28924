"""The machine and its processes: what it is, who runs on which core, what a process cost so far."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import trio

import creche

S = TypeVar("S")
T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0))
MEASURED, OTHERS = CORES[0], CORES[-1]
"""The core of what is measured, and that of everything else: provider, Valkey, load."""


_bound = True


def bind_nobody() -> None:
    """For a smoke test, where no figure counts and time does: from now on all may use every core."""
    global _bound  # noqa: PLW0603 - said once, before anything starts
    _bound = False


class BenchError(Exception):
    """A run that cannot be measured; the text says why."""


class Cost(NamedTuple):
    """What a process and its children cost so far."""

    cpu_s: float
    rss_bytes: int


class Child:
    """A process of the bench, bound to one core from its first instruction on; its output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, *, core: int, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core} if _bound else CORES)  # of this thread; inherited
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - commands of the bench
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env={**os.environ, **env}
                )
        finally:
            os.sched_setaffinity(0, before)
        self._watched = psutil.Process(self._process.pid)

    def cost(self) -> Cost:
        """User and system time and resident memory, with those of all children. Raises `BenchError` if it has ended."""
        self.check()
        cpu_s, rss_bytes = 0.0, 0
        for process in (self._watched, *self._watched.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_s += times.user + times.system
                if process is self._watched:
                    cpu_s += times.children_user + times.children_system
                rss_bytes += process.memory_info().rss
        return Cost(cpu_s, rss_bytes)

    def check(self) -> None:
        """Raise `BenchError` if it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended by itself ({self._process.returncode}): {self.tail()}")

    def tail(self) -> str:
        """The last line of its output."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def stop(self, *, within_s: float = 30.0) -> float:
        """SIGTERM; returns the seconds that it took to end. One that does not is killed."""
        children = self._watched.children(recursive=True) if self._process.poll() is None else []
        began = time.monotonic()
        self._process.terminate()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        took_s = time.monotonic() - began
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        return took_s


def each(function: Callable[[S], T], items: Sequence[S], *, at_once: int) -> list[T]:
    """The function of every item. One at a time stays in this thread, so that an interrupt ends it at once."""
    if at_once == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(function, items))


def wait_for(probe: Callable[[], T], what: str, *, within_s: float = 30.0, step_s: float = 0.02) -> T:
    """What `probe` returns once that is true. Raises `BenchError` when it takes too long."""
    until = time.monotonic() + within_s
    while not (found := probe()):
        if time.monotonic() > until:
            raise BenchError(f"not within {within_s:g} s: {what}")
        time.sleep(step_s)
    return found


def conditions() -> dict[str, Any]:
    """What a reader must know to judge figures of this machine."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu_model(),
        "cores": len(CORES),
        "measured_core": MEASURED,
        "other_core": OTHERS,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": dict(_versions()),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    yield "creche", creche.__version__
    yield "python", platform.python_version()
    yield "trio", trio.__version__
    yield "sqlite", sqlite3.sqlite_version
    if shutil.which("go"):
        yield "go", _output("go", "env", "GOVERSION").removeprefix("go")
    if shutil.which("gcc"):
        yield "gcc", _output("gcc", "-dumpfullversion")
    peers = ROOT / ".venvs/bench/bin/python"
    if peers.exists():
        code = "import importlib.metadata as m; print(*(f'{d.name} {d.version}' for d in m.distributions()), sep='\\n')"
        installed = dict(line.split() for line in _output(str(peers), "-c", code).splitlines())
        for name in ("httpx", "httpx2", "aiohttp", "celery", "saq"):
            if name in installed:
                yield name, installed[name]


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603 - as above
    return done.stdout.strip()
