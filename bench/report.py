"""What a run of the bench found: figures with their goals, as JSON and as tables."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

_BEGAN = time.monotonic()


@dataclass(frozen=True)
class Missing:
    """Something that was not measured, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Figure:
    """One number with its goal. `value` None: could not be measured."""

    what: str
    at: str
    value: float | None
    unit: str
    goal: float | None = None
    at_least: bool = False
    runs: list[float] = field(default_factory=list)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or no value."""
        if self.goal is None or self.value is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass
class Report:
    """All of it. `minding` has a row for each contender and setting."""

    conditions: dict[str, Any]
    minding: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As it is written to a file."""
        return {
            "conditions": self.conditions,
            "minding": self.minding,
            "figures": [{**asdict(figure), "met": figure.met} for figure in self.figures],
            "missing": [asdict(one) for one in self.missing],
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Report:
        """As it was read from a file."""
        figures = [Figure(**{key: value for key, value in one.items() if key != "met"}) for one in found["figures"]]
        missing = [Missing(**one) for one in found["missing"]]
        return cls(found["conditions"], found["minding"], figures, missing)

    def as_markdown(self) -> str:
        """Tables that can be read on a terminal and in the docs."""
        parts = [_conditions(self.conditions)]
        if self.minding:
            head = ["contender", "at", "polls/s (due)", "CPU per poll", "of a core", "memory", "wait p50 / p99"]
            parts.append(_table(head, [_minding_row(row) for row in self.minding]))
        if self.figures:
            head = ["what", "at", "found", "goal", ""]
            parts.append(_table(head, [_figure_row(figure) for figure in self.figures]))
        if self.missing:
            parts.append("Missing:\n\n" + "\n".join(f"- {one.name}: {one.why}" for one in self.missing))
        return "\n\n".join(parts) + "\n"


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"bench: {time.monotonic() - _BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)


def _conditions(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['when']}: {found['cpu']}, {found['cores']} cores ({found['measured_core']} measured, "
        f"{found['other_core']} provider and Valkey), {found['memory_gib']} GiB, Linux {found['kernel']}, "
        f"load {found['load_before']} before and {found.get('load_after', '?')} after, "
        f"medians of {found['runs']} runs of {found['seconds']:g} s. {versions}."
    )


def _minding_row(row: dict[str, Any]) -> list[str]:
    at = f"{row['tasks']:,} tasks, {row['latency_ms']} ms" + (", TLS" if row["tls"] else "")
    return [
        row["contender"],
        at,
        f"{row['polls_per_s']:,.0f} ({row['due_per_s']:,.0f})",
        f"{row['cpu_us_per_poll']:,.0f} µs",
        f"{100 * row['core_share']:.0f} %",
        f"{row['rss_mib']:.0f} MiB",
        " / ".join("-" if wait is None else f"{wait:.2f}" for wait in (row["wait_p50_s"], row["wait_p99_s"])) + " s",
    ]


def _figure_row(figure: Figure) -> list[str]:
    goal = "" if figure.goal is None else f"{'≥' if figure.at_least else '≤'} {_number(figure.goal)} {figure.unit}"
    value = "not measured" if figure.value is None else f"{_number(figure.value)} {figure.unit}"
    return [figure.what, figure.at, value, goal, {None: "", True: "met", False: "missed"}[figure.met]]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])
