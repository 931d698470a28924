"""Who is compared: each minds TASKS jobs of one provider, asks for each 3 s after its last answer, on one core."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from machine import ROOT, BenchError, Child
from stage import BENCH, Stage, build

PEERS = BENCH / "peers"
PEERS_PYTHON = ROOT / ".venvs/bench/bin/python"
FOR_EVER = {"prompt": "a heron"}
POLL_EVERY_S = 3.0
STEPS = 30
START_LIMIT_S = 60.0


@dataclass(frozen=True)
class Contender:
    """One that minds. `most_tasks` is what it is asked to carry; `goals` are the ratios that creche shall reach."""

    name: str
    about: str
    start: Callable[[Stage, int], Child]
    missing: Callable[[], str | None]
    most_tasks: int
    tls: bool
    goals: tuple[tuple[Callable[[int, bool], bool], float], ...] = ()

    def goal(self, tasks: int, *, tls: bool) -> float | None:
        """The most that creche's CPU per poll may be, as a part of this contender's."""
        return next((goal for applies, goal in self.goals if applies(tasks, tls)), None)


def _start_creche(stage: Stage, tasks: int) -> Child:
    """Over the first interval, like all others: polls that come in one crowd would be cheaper."""
    daemon = stage.daemon()
    began = time.monotonic()
    for step in range(STEPS):
        if time.monotonic() > began + START_LIMIT_S:
            raise BenchError(f"took {tasks * step // STEPS} of {tasks} tasks within {START_LIMIT_S:g} s, no more")
        time.sleep(max(0.0, began + POLL_EVERY_S * step / STEPS - time.monotonic()))
        daemon.submit(FOR_EVER for _ in range(tasks * step // STEPS, tasks * (step + 1) // STEPS))
    return daemon.process


def _start_goroutines(stage: Stage, tasks: int) -> Child:
    source = PEERS / "goroutines.go"
    program = build("goroutines", "go", str(source), source=source)
    trust = {"SSL_CERT_FILE": str(stage.folder / "ca.pem")} if stage.tls else {}
    return stage.spawn("goroutines", [str(program), stage.url, str(tasks), str(stage.valkey)], GOMAXPROCS="1", **trust)


def _start_floor(stage: Stage, tasks: int) -> Child:
    source = PEERS / "floor.c"
    program = build("floor", "gcc", "-O2", str(source), source=source)
    return stage.spawn("floor", [str(program), str(stage.port), str(tasks)])


def _script(script: str, **env: str) -> Callable[[Stage, int], Child]:
    def start(stage: Stage, tasks: int) -> Child:
        command = [str(PEERS_PYTHON), str(PEERS / script), stage.url, str(tasks), str(stage.valkey)]
        return stage.spawn(script.removesuffix(".py"), command, **env)

    return start


def _never() -> None:
    return None


def _go() -> str | None:
    return None if shutil.which("go") else "go is not installed (apt-get install golang-go)"


def _gcc() -> str | None:
    return None if shutil.which("gcc") else "gcc is not installed (apt-get install gcc libc6-dev)"


def _peers() -> str | None:
    return None if PEERS_PYTHON.exists() else "its packages are not installed (scripts/bench --setup-peers)"


def _few(limit: int) -> Callable[[int, bool], bool]:
    return lambda tasks, _: tasks <= limit


def _any(_tasks: int, _tls: bool) -> bool:  # noqa: FBT001 - a condition of `goals`
    return True


def _tls(_tasks: int, tls: bool) -> bool:  # noqa: FBT001 - as above
    return tls


CRECHE = Contender(
    "creche", "the whole daemon: SQLite, heartbeats, API, limits", _start_creche, _never, most_tasks=1 << 30, tls=True
)
FLOOR = Contender(
    "floor",
    "a bare epoll loop in C: no heartbeats, no JSON, no errors",
    _start_floor,
    _gcc,
    most_tasks=1 << 30,
    tls=False,
    goals=((lambda tasks, _: tasks >= 6000, 4.0),),  # noqa: PLR2004 - below, waking dominates
)
CONTENDERS = (
    CRECHE,
    Contender(
        "goroutines",
        "net/http, a goroutine and a heartbeat goroutine per task, one P",
        _start_goroutines,
        _go,
        most_tasks=1 << 30,
        tls=True,
        goals=((_tls, 0.8), (_few(500), 0.6), (_any, 0.5)),
    ),
    Contender(
        "asyncio-aiohttp",
        "a task and a heartbeat task per job, one session",
        _script("asyncio_aiohttp.py"),
        _peers,
        most_tasks=2000,
        tls=False,
        goals=((_few(500), 1 / 6),),
    ),
    Contender(
        "asyncio-httpx",
        "the same with httpx, limits raised",
        _script("asyncio_httpx.py", HTTPX="httpx"),
        _peers,
        most_tasks=500,
        tls=False,
        goals=((_any, 1 / 20),),
    ),
    Contender(
        "asyncio-httpx2",
        "the same with httpx2, limits raised",
        _script("asyncio_httpx.py", HTTPX="httpx2"),
        _peers,
        most_tasks=500,
        tls=False,
    ),
    Contender(
        "celery",
        "self.retry(countdown=3), 50 threads, no heartbeats",
        _script("celery_retry.py"),
        _peers,
        most_tasks=500,
        tls=False,
        goals=((_any, 1 / 50),),
    ),
    Contender(
        "saq",
        "each job enqueues itself for 3 s later, no heartbeats",
        _script("saq_reenqueue.py"),
        _peers,
        most_tasks=500,
        tls=False,
    ),
    FLOOR,
)
