"""The measurement that all comparisons rest on: what a poll costs a contender who minds N tasks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from contenders import CRECHE, POLL_EVERY_S, Contender
from machine import BenchError, each, wait_for
from report import Figure, Missing, Report, say
from stage import Stage, tls_is_missing

SATURATED = 0.9
"""Whoever uses this much of a core may be the one that others wait for."""

KEEPS_PACE = 0.95
"""The part of the polls that are due."""


@dataclass(frozen=True)
class Setting:
    """What is asked of everyone alike."""

    tasks: int
    latency_ms: int
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.tasks:,} tasks, {self.latency_ms} ms" + (", TLS" if self.tls else "")

    @property
    def due_per_s(self) -> float:
        """Polls per second of one who asks 3 s after each answer."""
        return self.tasks / (POLL_EVERY_S + self.latency_ms / 1000)


@dataclass(frozen=True)
class Pace:
    """How long and how often it is measured, once each task was polled and polls kept their pace for `warm_s`."""

    seconds: float
    runs: int
    warm_s: float
    patience_s: float


@dataclass(frozen=True)
class Run:
    """One measurement. Waits are the times from a job's answer to its next poll, as the provider saw them, if any."""

    seconds: float
    polls: int
    cpu_s: float
    rss_mib: float
    wait_p50_s: float | None
    wait_p99_s: float | None

    @property
    def cpu_us_per_poll(self) -> float:
        """All processor time of the contender, divided by its polls."""
        return self.cpu_s / self.polls * 1e6


def measure(contender: Contender, setting: Setting, pace: Pace) -> Run:
    """Mind, warm up, measure. Raises `BenchError`."""
    with Stage(latency_ms=setting.latency_ms, tls=setting.tls) as stage:
        child = contender.start(stage, setting.tasks)
        until = time.monotonic() + pace.patience_s
        while stage.books()["seen"] < setting.tasks and time.monotonic() < until:
            child.check()
            time.sleep(0.1)
        _warm_up(stage, setting, pace)
        books, cost, began, provider_s = stage.books(), child.cost(), time.monotonic(), stage.provider.cost().cpu_s
        time.sleep(pace.seconds)
        # One who came to all of few jobs in a crowd may have none to ask about in a short time.
        wait_for(lambda: stage.books()["polls"] > books["polls"], "a poll", within_s=pace.patience_s)
        after, spent, took_s = stage.books(), child.cost(), time.monotonic() - began
        if stage.provider.cost().cpu_s - provider_s > SATURATED * took_s:
            raise BenchError("the provider could not keep up: nothing was measured but it")
        waits = _difference(books["waits"], after["waits"])
        return Run(
            seconds=took_s,
            polls=after["polls"] - books["polls"],
            cpu_s=spent.cpu_s - cost.cpu_s,
            rss_mib=spent.rss_bytes / 2**20,
            wait_p50_s=_quantile(waits, 0.5),
            wait_p99_s=_quantile(waits, 0.99),
        )


def _warm_up(stage: Stage, setting: Setting, pace: Pace) -> None:
    """Until polls keep their pace, or patience ends: over TLS whoever has no connections yet needs a while."""
    until = time.monotonic() + pace.patience_s
    keeps_pace = pace.warm_s == 0
    while not keeps_pace and time.monotonic() < until:
        polls, began = stage.books()["polls"], time.monotonic()
        time.sleep(pace.warm_s)
        rate = (stage.books()["polls"] - polls) / (time.monotonic() - began)
        keeps_pace = rate >= KEEPS_PACE * setting.due_per_s


def compare(
    report: Report, contenders: list[Contender], settings: list[Setting], pace: Pace, *, at_once: int = 1
) -> None:
    """Measure everyone in every setting, side by side, and add rows and ratios to the report.

    `at_once` above 1 is for a smoke test, where no figure counts.
    """
    contenders, settings = _able(report, contenders, settings)
    plan = [
        (contender, setting)
        for _ in range(pace.runs)
        for setting in settings
        for contender in contenders
        if setting.tasks <= contender.most_tasks and (contender.tls or not setting.tls)
    ]
    outcomes = each(lambda step: _measure(*step, pace), plan, at_once=at_once)
    runs: dict[tuple[str, Setting], list[Run]] = {}
    broken: dict[tuple[str, Setting], str] = {}
    for (contender, setting), outcome in zip(plan, outcomes, strict=True):
        if isinstance(outcome, str):
            broken[contender.name, setting] = outcome
        else:
            runs.setdefault((contender.name, setting), []).append(outcome)
    for (name, setting), why in broken.items():
        runs.pop((name, setting), None)
        report.missing.append(Missing(f"{name}, {setting}", why))
    for (name, setting), found in runs.items():
        report.minding.append(_row(name, setting, found))
    for contender in contenders:
        for setting in settings:
            _add_ratio(report, contender, setting, runs)


def _able(
    report: Report, contenders: list[Contender], settings: list[Setting]
) -> tuple[list[Contender], list[Setting]]:
    """Those that can be measured; the others are named in the report."""
    able = []
    for contender in contenders:
        if why := contender.missing():
            report.missing.append(Missing(contender.name, why))
        else:
            able.append(contender)
    if any(setting.tls for setting in settings) and (why := tls_is_missing()):
        report.missing.append(Missing("TLS", why))
        settings = [setting for setting in settings if not setting.tls]
    return able, settings


def _measure(contender: Contender, setting: Setting, pace: Pace) -> Run | str:
    """A run, or why there is none."""
    try:
        run = measure(contender, setting, pace)
    except (BenchError, OSError) as exc:
        say(f"{setting}: {contender.name}: {exc}")
        return str(exc)
    say(
        f"{setting}: {contender.name}: {run.cpu_us_per_poll:.0f} µs per poll, "
        f"{run.polls / run.seconds:,.0f} polls/s of {setting.due_per_s:,.0f}, {run.rss_mib:.0f} MiB"
    )
    return run


def _add_ratio(
    report: Report, contender: Contender, setting: Setting, runs: dict[tuple[str, Setting], list[Run]]
) -> None:
    ours, theirs = runs.get((CRECHE.name, setting)), runs.get((contender.name, setting))
    if contender is CRECHE or not ours or not theirs:
        return
    ratios = [us.cpu_us_per_poll / them.cpu_us_per_poll for us, them in zip(ours, theirs, strict=True) if them.cpu_s]
    report.figures.append(
        Figure(
            what=f"CPU per poll, part of that of {contender.name}",
            at=str(setting),
            value=round(statistics.median(ratios), 4) if ratios else None,
            unit="x",
            goal=contender.goal(setting.tasks, tls=setting.tls),
            runs=[round(ratio, 4) for ratio in ratios],
        )
    )


def _row(name: str, setting: Setting, runs: list[Run]) -> dict[str, Any]:
    def median(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(statistics.median(known), 3) if known else None

    return {
        "contender": name,
        **asdict(setting),
        "due_per_s": round(setting.due_per_s, 1),
        "polls_per_s": median(run.polls / run.seconds for run in runs),
        "cpu_us_per_poll": median(run.cpu_us_per_poll for run in runs),
        "core_share": median(run.cpu_s / run.seconds for run in runs),
        "rss_mib": median(run.rss_mib for run in runs),
        "wait_p50_s": median(run.wait_p50_s for run in runs),
        "wait_p99_s": median(run.wait_p99_s for run in runs),
        "runs": [asdict(run) for run in runs],
    }


def _difference(before: list[list[int]], after: list[list[int]]) -> list[tuple[float, int]]:
    known = dict(map(tuple, before))
    return [(ms / 1000, count - known.get(ms, 0)) for ms, count in after if count > known.get(ms, 0)]


def _quantile(waits: list[tuple[float, int]], part: float) -> float | None:
    left = part * sum(count for _, count in waits)
    for seconds, count in waits:
        left -= count
        if left <= 0:
            return seconds
    return None


def wait_until_all_polled(stage: Stage, tasks: int, *, within_s: float) -> float:
    """Seconds until the provider has seen a poll of every task since the mark. Raises `BenchError`."""
    began = time.monotonic()
    wait_for(lambda: stage.books()["seen"] >= tasks, f"all of {tasks} tasks polled", within_s=within_s)
    return time.monotonic() - began
