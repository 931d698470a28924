"""The bench does not rot: everything in it runs, tiny, and says what it found. No test looks at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PEERS_IN_PYTHON = {"asyncio-aiohttp", "asyncio-httpx", "asyncio-httpx2", "celery", "saq"}
FIGURES = {
    "submit",
    "submit, p99",
    "outcome to listeners, p50",
    "outcome to listeners, p99",
    "outcome to those who read, p99",
    "memory that it took",
    "cut because they do not read",
    "stop",
    "start until ready",
    "start until all are minded again",
    "memory in all",
    "memory per task",
    "CPU per poll, part of that of few tasks",
    "polls within 100 ms of due",
    "oldest heartbeat",
    "CPU per poll that brings news",
    "requests per poll",
    "CPU per poll in batches",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def bench(*command: str, out: Path, **environ: str) -> tuple[str, dict[str, Any]]:
    """Run to the end: the tables, and the one JSON file."""
    done = subprocess.run(  # noqa: S603 - our own script
        [*command, "--smoke", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.json")
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_a_smoke_run_measures_whoever_is_there_and_names_the_others(tmp_path: Path) -> None:
    """Every contender has a row of figures or a reason why not, every case its figures, and there is a drawing."""
    tables, found = bench(str(ROOT / "scripts/bench"), out=tmp_path)
    if shutil.which("gcc") is None:
        assert found["minding"] == []  # no provider; more about that in the next test
        return
    rows = {row["contender"]: row for row in found["minding"]}
    missing = {one["name"].partition(",")[0] for one in found["missing"]}
    wanted = {"creche", "goroutines", "floor"} | PEERS_IN_PYTHON
    assert rows.keys() | missing >= wanted
    assert {"creche", "floor"} <= rows.keys(), found["missing"]
    for row in rows.values():
        assert row["polls_per_s"] > 0
        assert row["rss_mib"] > 0
        assert {"tasks", "latency_ms", "tls", "due_per_s", "cpu_us_per_poll", "runs"} <= row.keys()
    assert {figure["what"] for figure in found["figures"]} >= FIGURES
    for figure in found["figures"]:
        assert {"what", "at", "value", "unit", "goal", "met", "runs"} <= figure.keys()
    assert {"cpu", "cores", "kernel", "load_before", "load_after", "versions"} <= found["conditions"].keys()
    assert all(row["contender"] in tables for row in found["minding"])
    (drawing,) = tmp_path.glob("*.svg")
    assert drawing.read_text(encoding="utf-8").startswith("<svg ")


def test_a_machine_without_compilers_is_told_what_it_lacks(tmp_path: Path) -> None:
    """Without gcc and go nothing is measured, nothing is guessed, and nothing fails: both are named."""
    out = tmp_path / "out"
    tables, found = bench(sys.executable, str(ROOT / "bench/compare.py"), out=out, PATH=str(tmp_path))
    reasons = {one["name"]: one["why"] for one in found["missing"]}
    assert "go is not installed" in reasons["goroutines"]
    assert "gcc is not installed" in reasons["floor"]
    assert found["minding"] == found["figures"] == []
    assert "Missing:" in tables


def test_an_earlier_result_can_be_shown_again(tmp_path: Path) -> None:
    """--from prints the tables of a JSON file as they were."""
    tables, _ = bench(sys.executable, str(ROOT / "bench/compare.py"), out=tmp_path, PATH=str(tmp_path))
    (path,) = tmp_path.glob("*.json")
    again = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(ROOT / "bench/compare.py"), "--from", str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert again.stdout == tables


def test_a_fleet_can_be_measured() -> None:
    """What a task's life costs its server."""
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(ROOT / "bench/fleet.py"), "--tasks", "50"],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'bench'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "script calls per task" in done.stdout
    assert "bytes per task, settled" in done.stdout
