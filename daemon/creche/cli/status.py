"""`creche status` and `creche algorithms`: how the daemon is, and what it can do."""

from __future__ import annotations

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
    tasks = ", ".join(f"{count} {name}" for name, count in status["tasks"].items() if count)
    heartbeats = status["heartbeats"]
    print_fields(
        [
            ("daemon", f"creche {status['version']}, {state}, up {span(status['uptime_s'])}"),
            ("node", status["node"]),
            ("tasks", tasks or "none"),
            ("live", str(status["live"])),
            ("listeners", str(status["listeners"])),
            ("store", status["store"]["fault"] or "ok"),
            ("heartbeats", f"{heartbeats['kind']}, {heartbeats['fault'] or 'ok'}"),
            *((f"condition of {name}", condition) for name, condition in status["conditions"].items()),
            *(("fault", fault) for fault in status["faults"]),
        ]
    )


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
                f"{algorithm['in_flight']}/{algorithm['limit']}" if algorithm.get("limit") else algorithm["in_flight"],
                algorithm["waiting"],
                span(algorithm["deadline_s"]),
                algorithm.get("condition") or "ok",
                algorithm.get("title"),
            ]
            for algorithm in algorithms
        ),
    )
