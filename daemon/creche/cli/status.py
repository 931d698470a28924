"""`creche status` and `creche algorithms`: how the daemon is, and what it can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from creche.cli.app import Settings, common_options
from creche.cli.output import print_fields, print_json, print_table, span


@click.command("status")
@common_options
@click.pass_obj
def status_command(settings: Settings, /) -> None:
    """Show how the daemon is: its tasks, its faults, the conditions of its providers."""
    status = settings.client().status()
    if settings.json:
        print_json(status)
        return
    state = "draining" if status["draining"] else "ready" if status["ready"] else "not ready"
    print_fields(
        [
            ("daemon", f"creche {status['version']}, {state}, up {span(status['uptime_s'])}"),
            ("node", status["node"]),
            ("unfinished tasks", _counts(status["tasks"]) or "none"),
            *((f"condition of {name}", _counts(counts)) for name, counts in status["conditions"].items()),
            ("listening at", ", ".join(status["listening"])),
            ("listeners", str(status["listeners"])),
            ("heartbeats", f"kept in {status['heartbeats']}"),
            ("cursor", status["cursor"]),
            *(("fault", fault) for fault in status["faults"]),
            *_fleet(status.get("fleet")),
        ]
    )


def _fleet(fleet: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What there is to say of all nodes together."""
    if fleet is None:
        return
    yield "tasks of the fleet", _counts(fleet["tasks"]) or "none"
    if fleet["waiting"]:
        yield "without a node", f"{fleet['waiting']} tasks, until one has room"
    for node, count in fleet["orphans"].items():
        yield "orphans", f"{count} tasks of {node}, which is gone"
    for node in fleet["nodes"]:
        here = f"heard of {span(node['silent_s'])} ago"
        if node["id"] == fleet["member"]:
            here = f"this one, its lease holds for {span(fleet['lease_s'])}"
        yield "node", f"{node['id']} on {node['host']}, {node['tasks']} of {node['capacity']} tasks, {here}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


@click.command("algorithms")
@common_options
@click.pass_obj
def algorithms_command(settings: Settings, /) -> None:
    """Show what can be submitted to, how much is in flight, and how the provider is."""
    algorithms = settings.client().algorithms()
    if settings.json:
        for algorithm in algorithms:
            print_json(algorithm)
        return
    head = ("name", "recipe", "in flight", "waiting", "deadline", "condition", "title")
    print_table(
        head,
        (
            [
                algorithm["name"],
                algorithm["recipe"],
                f"{algorithm['in_flight']}/{algorithm['limit'] or '-'}",
                algorithm["waiting"],
                span(algorithm["deadline_s"]),
                _counts(algorithm["conditions"]) or "ok",
                algorithm["title"],
            ]
            for algorithm in algorithms
        ),
    )
