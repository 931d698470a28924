"""Runs worlds, one or thousands: `scripts/simulate`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import trio
from loguru import logger
from trio._core import _run as trio_run
from trio.testing import MockClock

from creche.engine import fleet as engine_fleet
from creche.engine import lag, pulse
from tests.disk import Disk
from tests.redis_servers import Server
from tests.simulation import fleet
from tests.simulation.history import History
from tests.simulation.planted import FLEET_PLANTED, PLANTED
from tests.simulation.story import Violation
from tests.simulation.world import World, empty

ROOT = Path(__file__).parent.parent.parent

PATIENCE_S = 60.0
"""How long a world may take, in real seconds: one that goes round in circles is a violation, too."""

TOO_LONG_S = 30_000.0
"""How long a world may take, in its own seconds."""

MOST_FAILURES = 3


class Result(NamedTuple):
    """What became of one world: what was violated, if anything, and the story."""

    seed: int
    violation: str
    task: str | None
    story: str
    lines: int


def run_world(seed: int, folder: Path, server: Server | None = None) -> Result:
    """Live through the world of a seed, in a folder of its own (on a disk that is quick, best in memory).

    With a `server` it is a fleet's.
    """
    story = None
    violation, task = "", None

    async def run() -> None:
        nonlocal story
        async with trio.open_nursery() as nursery:
            world, history = _world(seed, folder, disk, nursery, server)
            story = world.story
            try:
                with trio.fail_after(TOO_LONG_S):
                    await history.happen()
            finally:
                world.close()
                nursery.cancel_scope.cancel()

    with _repeatable(seed), _patience(), Disk() as disk:
        try:
            trio.run(run, clock=MockClock(autojump_threshold=0))
        except BaseExceptionGroup as group:
            found = _violation_in(group)
            if found is None:
                violation = "the world fell over:\n" + "".join(traceback.format_exception(group))
            else:
                violation, task = str(found), found.task
        except (TimeoutError, trio.TrioInternalError) as exc:
            violation = f"the world did not end within {PATIENCE_S:.0f} s of real time:\n" + "".join(
                traceback.format_exception(exc)
            )
    assert story is not None
    return Result(seed, violation, task, story.about(task), len(story.lines))


def _world(seed: int, folder: Path, disk: Disk, nursery: trio.Nursery, server: Server | None) -> tuple[World, History]:
    if server is None:
        world = World(seed, folder, disk, nursery)
        return world, History(world)
    fleet_world = fleet.FleetWorld(seed, folder, disk, nursery, server)
    return fleet_world, fleet.FleetHistory(fleet_world)


def _violation_in(error: BaseException) -> Violation | None:
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := _violation_in(part)) is not None), None)
    return error if isinstance(error, Violation) else None


@contextlib.contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """The same seed, the same world: Trio's scheduling and every secret follow from it, and rare beats save time."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable one is wanted
    trio_run._r.seed(seed)
    with (
        mock.patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        mock.patch.object(secrets, "token_hex", lambda size: chance.randbytes(size).hex()),
        mock.patch.object(secrets, "token_bytes", chance.randbytes),
        mock.patch.object(lag, "EVERY_S", 900.0),
        mock.patch.object(pulse, "BEAT_EVERY_S", 5.0),
        mock.patch.object(engine_fleet, "NEWS_WAIT_S", 0),
        mock.patch.object(engine_fleet, "PAUSE_S", 1.0),
    ):
        yield


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TimeoutError(f"the world did not end within {PATIENCE_S:.0f} s of real time")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def work_folder() -> Path:
    """A new folder, in memory where that is possible."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder of our own is made in it
    return Path(tempfile.mkdtemp(prefix="creche-worlds-", dir=parent))


def _remove(folder: Path) -> None:
    empty(folder)
    folder.rmdir()


def run_worlds(
    seeds: range, *, jobs: int, plant: str | None = None, stop_at: int = MOST_FAILURES, fleets: bool = False
) -> Iterator[Result]:
    """Run the worlds of all seeds in several processes; ends early when `stop_at` of them have failed."""
    failures = 0
    with contextlib.ExitStack() as ends:
        workers = [
            ends.enter_context(_worker(range(seeds.start + k, seeds.stop, jobs), plant, fleets=fleets))
            for k in range(jobs)
        ]
        for number, seed in enumerate(seeds):
            stdout = workers[number % jobs].stdout
            assert stdout is not None
            line = stdout.readline()
            if not line:
                raise RuntimeError(f"the process with the world of seed {seed} has ended")
            yield (result := Result(*json.loads(line)))
            failures += bool(result.violation)
            if failures == stop_at:
                break


@contextlib.contextmanager
def _worker(seeds: range, plant: str | None, *, fleets: bool) -> Iterator[subprocess.Popen[str]]:
    folder = work_folder()
    numbers = f"{seeds.start}:{seeds.stop}:{seeds.step}"
    command = [sys.executable, "-m", "tests.simulation.run", "--worker", numbers, "--folder", str(folder)]
    command += ["--plant", plant] if plant else []
    command += ["--fleet"] if fleets else []
    environ = {**os.environ, "PYTHONPATH": "daemon:."}
    # A session of its own: a server that it has started ends with it.
    with subprocess.Popen(  # noqa: S603 - our own
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for place in (folder, _server_folder(folder)):
                shutil.rmtree(place, ignore_errors=True)


def _work(seeds: range, folder: Path, plant: str | None, *, fleets: bool) -> int:
    """One line of JSON for each world."""
    logger.remove()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _server(folder, fleets=fleets) as server:
        for seed in seeds:
            with _planted(plant):
                result = run_world(seed, folder, server)
            print(json.dumps(result._replace(story=result.story if result.violation else "")), flush=True)  # noqa: T201
    return 0


@contextlib.contextmanager
def _server(folder: Path, *, fleets: bool) -> Iterator[Server | None]:
    if not fleets:
        yield None
        return
    place = _server_folder(folder)
    try:
        with fleet.fleet_server(place) as server:
            yield server
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _server_folder(folder: Path) -> Path:
    """Not in the world's own folder, which every world empties."""
    return folder.with_name(f"{folder.name}-server")


def _planted(plant: str | None) -> contextlib.AbstractContextManager[Any]:
    return (PLANTED | FLEET_PLANTED)[plant]() if plant is not None else contextlib.nullcontext()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="scripts/simulate", description="Simulated worlds: the whole daemon, a seed each."
    )
    parser.add_argument("--seeds", type=int, default=500, help="how many worlds (default: 500)")
    parser.add_argument("--from", type=int, default=0, dest="start", metavar="SEED", help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, help="one world only")
    parser.add_argument("--whole", action="store_true", help="with its whole story, also where nothing is wrong")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    parser.add_argument("--plant", choices=sorted(PLANTED | FLEET_PLANTED), help="with this bug planted")
    parser.add_argument("--fleet", action="store_true", help="each world has three daemons that share a server")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        return _work(range(*map(int, given.worker.split(":"))), given.folder, given.plant, fleets=given.fleet)
    if given.seed is not None:
        return _replay(given.seed, given.plant, whole=given.whole, fleets=given.fleet)
    begun = time.monotonic()
    count = failed = lines = 0
    seeds = range(given.start, given.start + given.seeds)
    for result in run_worlds(seeds, jobs=given.jobs, plant=given.plant, fleets=given.fleet):
        count += 1
        lines += result.lines
        if result.violation:
            failed += 1
            _report(result, given.plant, fleets=given.fleet)
        if count % 500 == 0:
            print(f"{count} worlds, {time.monotonic() - begun:.0f} s", flush=True)  # noqa: T201
    took_s = time.monotonic() - begun
    print(  # noqa: T201
        f"{count} worlds, {failed} violations, {lines} events, at least {count} simulated hours, {took_s:.0f} s "
        f"with {given.jobs} processes"
    )
    return 1 if failed else 0


def _replay(seed: int, plant: str | None, *, whole: bool, fleets: bool) -> int:
    logger.remove()
    folder = work_folder()
    try:
        with _planted(plant), _server(folder, fleets=fleets) as server:
            result = run_world(seed, folder, server)
    finally:
        _remove(folder)
    if result.violation:
        _report(result, plant, fleets=fleets)
    else:
        print((result.story + "\n" if whole else "") + f"seed {seed}: no violation, {result.lines} events")  # noqa: T201
    return 1 if result.violation else 0


def _report(result: Result, plant: str | None, *, fleets: bool) -> None:
    about = f" (task {result.task})" if result.task else ""
    again = f"scripts/simulate --seed {result.seed}" + (f" --plant {plant}" if plant else "")
    again += " --fleet" if fleets else ""
    print(f"seed {result.seed}: {result.violation}{about}\n{result.story}\nagain: {again}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
