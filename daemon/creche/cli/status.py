"""`creche status` and `creche algorithms`: how the daemon is, and what it can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from creche.cli import Exit
from creche.cli.app import Settings, common_options
from creche.cli.output import print_fields, print_json, print_table, span


@click.command("status")
@common_options
@click.pass_obj
def status_command(settings: Settings, /) -> Exit:
    """Show whether the daemon is well: its tasks, its faults, the conditions of its providers. Exit code 1 if not."""
    status = settings.client().status()
    wrong = list(_wrong(status))
    code = Exit.NOT_SUCCEEDED if wrong else Exit.OK
    if settings.json:
        print_json(status)
        return code
    state = "draining" if status["draining"] else "ready" if status["ready"] else "not ready"
    print_fields(
        [
            ("well", "no" if wrong else "yes"),
            *(("wrong", what) for what in wrong),
            *(("to decide", what) for what in _to_decide(status)),
            ("daemon", f"creche {status['version']}, {state}, up {span(status['uptime_s'])}"),
            ("node", status["node"]),
            ("unfinished tasks", _counts(status["tasks"]) or "none"),
            *((f"condition of {name}", _counts(counts)) for name, counts in status["conditions"].items()),
            ("listening at", ", ".join(status["listening"])),
            ("listeners", str(status["listeners"])),
            ("heartbeats", f"kept in {status['heartbeats']}"),
            ("cursor", status["cursor"]),
            *_fleet(status.get("fleet")),
        ]
    )
    return code


def _wrong(status: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the daemon itself; providers that are away are not."""
    if status["draining"]:
        yield "it stops, and takes no tasks"
    elif not status["ready"] and not status["faults"]:
        yield "it is not ready"
    yield from status["faults"]
    for node, count in ((status.get("fleet") or {}).get("orphans") or {}).items():
        yield f"{count} tasks of {node}, which is gone, wait for a node with room"


def _to_decide(status: dict[str, Any]) -> Iterator[str]:
    """What waits for a person."""
    if count := status["tasks"].get("unknown"):
        yield f"{count} unknown: nobody can tell whether their jobs exist; `creche list --status unknown`"


def _fleet(fleet: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What there is to say of all nodes together."""
    if fleet is None:
        return
    yield "tasks of the fleet", _counts(fleet["tasks"]) or "none"
    if fleet["waiting"]:
        yield "without a node", f"{fleet['waiting']} tasks, until one has room"
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
