"""Thousands of hours of the whole daemon, and bugs that must not get through them. By hand: `scripts/simulate`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.run import run_worlds

ROOT = Path(__file__).parent.parent.parent

WORLDS = 500
FOUND_WITHIN = 300
FLEETS = 8
FLEETS_UNTIL_FOUND = 40
FLEET_QUICKLY_FOUND = ["only-own-outcomes", "wishes-ignored"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_paid_twice() -> None:
    """Whatever happens to the daemon, its disk, its clock, its network and its providers."""
    results = list(run_worlds(range(WORLDS), jobs=2))
    for result in results:
        assert not result.violation, f"{result.violation}\n{result.story}\nagain: scripts/simulate --seed {result.seed}"
    assert len(results) == WORLDS


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", sorted(PLANTED))
def test_a_planted_bug_is_found(plant: str) -> None:
    """The simulation would not miss it."""
    results = list(run_worlds(range(FOUND_WITHIN), jobs=2, plant=plant, stop_at=1))
    assert results[-1].violation, f"{plant}: not found within {FOUND_WITHIN} worlds"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_fleet_loses_nothing_and_pays_nothing_twice() -> None:
    """Three daemons on the real server's rules, whatever happens to them, to the server, and on the way to it."""
    results = list(run_worlds(range(FLEETS), jobs=2, fleets=True))
    for result in results:
        again = f"scripts/simulate --fleet --seed {result.seed}"
        assert not result.violation, f"{result.violation}\n{result.story}\nagain: {again}"
    assert len(results) == FLEETS


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", FLEET_QUICKLY_FOUND)
def test_a_bug_planted_in_a_fleet_is_found(plant: str) -> None:
    """Those that take a minute are for `scripts/simulate --fleet --plant`."""
    results = list(run_worlds(range(FLEETS_UNTIL_FOUND), jobs=2, plant=plant, stop_at=1, fleets=True))
    assert results[-1].violation, f"{plant}: not found within {FLEETS_UNTIL_FOUND} worlds"


@pytest.mark.slow
def test_a_seed_is_one_history() -> None:
    """Event by event, in another process and with other hashes of texts."""
    stories = []
    for hash_seed in ("1", "2"):
        command = (sys.executable, "-m", "tests.simulation.run", "--seed", "5", "--whole")
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": "daemon:."}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - our own
        stories.append(done.stdout.splitlines())
    assert len(stories[0]) > 50
    assert stories[0] == stories[1]
