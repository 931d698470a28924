"""The alert rules and the Grafana dashboard ask for metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "docs" / "monitoring"
OF_PROMETHEUS = {"instance", "job", "le", "status"}
"""Labels that Prometheus adds; `status` is ours."""


def documented() -> dict[str, set[str]]:
    """Names of series with their labels, as docs/reference/metrics.md has them, which a test compares with the code."""
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    found = {}
    for name, kind, labels in re.findall(r"^\| `(creche_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE):
        for series in [f"{name}{end}" for end in ("_bucket", "_sum", "_count")] if kind == "histogram" else [name]:
            found[series] = set(re.findall(r"`(\w+)`", labels))
    return found


def expressions() -> list[str]:
    board = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    return asked + [json.loads(text) for text in re.findall(r"^ +expr: (\".+\")$", rules, re.MULTILINE)]


@pytest.mark.parametrize("expression", expressions())
def test_it_asks_for_what_there_is(expression: str) -> None:
    """Each metric and each label."""
    known = documented()
    names = re.findall(r"\bcreche_\w+", expression)
    assert set(names) <= set(known)
    allowed = OF_PROMETHEUS.union(*(known[name] for name in names))
    grouped = [label.strip() for by in re.findall(r"\bby \(([^)]*)\)", expression) for label in by.split(",")]
    matched = re.findall(r"(\w+)=~?\"", expression)
    assert {*grouped, *matched} <= allowed


def test_every_rule_is_explained() -> None:
    """In docs/how-to/monitor-with-prometheus.md, and it has all that an alert needs."""
    rules = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    names = re.findall(r"- alert: (\w+)", rules)
    assert len(names) == len(set(names)) > 0
    page = (ROOT / "docs/how-to/monitor-with-prometheus.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`Creche.+?) \|", page, re.MULTILINE)
    assert names == re.findall(r"`(\w+)`", " ".join(rows))
    for field in ("expr: ", "for: ", "labels: ", "summary: ", "description: "):
        assert rules.count(f"{field}") == len(names), field
