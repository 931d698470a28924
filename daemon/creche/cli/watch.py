"""`creche watch`: outcomes as they happen, with bars of what is running where a person looks."""

from __future__ import annotations

from itertools import islice
from typing import TypedDict

import click

from creche.cli.app import Settings, common_options
from creche.cli.arguments import LABEL
from creche.cli.output import Bars, print_json, state_line, warn
from creche.cli.waiting import LOOK_S, QUIET_LOOK_S
from creche.client import Client, Json, Unreachable

RUNNING = ("waiting", "processing", "paused", "cancelling")
MOST_BARS = 20


class Wanted(TypedDict):
    """Which tasks are watched."""

    algorithm: str | None
    user: str | None
    labels: dict[str, str]


@click.command("watch")
@click.option("--since", metavar="CURSOR", help="Begin behind this cursor instead of now.")
@click.option("--algorithm", help="Only tasks of this algorithm.")
@click.option("--user", help="Only tasks of this user.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="Only tasks with this label; may be repeated.")
@click.option("--once", metavar="N", type=click.IntRange(min=1), help="Stop after N outcomes.")
@common_options
@click.pass_obj
def watch_command(
    settings: Settings,
    /,
    *,
    since: str | None,
    algorithm: str | None,
    user: str | None,
    labels: tuple[tuple[str, str], ...],
    once: int | None,
) -> None:
    """Print one line for every task that comes to an end, until interrupted.

    With --json a line is a task as the API gives it. A restart of the daemon meanwhile is waited out, and nothing
    is missed by it.
    """
    client = settings.client()
    wanted = Wanted(algorithm=algorithm, user=user, labels=dict(labels))
    seen = 0
    with Bars() as bars:
        for page in client.follow(since, step_s=LOOK_S if bars.shown else QUIET_LOOK_S, **wanted):
            if page["resync"] or page["results"]:
                bars.hide()
            if page["resync"]:
                warn("outcomes before these are no longer kept; `creche list` shows the tasks that are")
            for task in page["results"]:
                print_json(task) if settings.json else click.echo(_line(task))
                seen += 1
                if seen == once:
                    return
            if bars.shown:
                bars.show(_running(client, wanted))


def _running(client: Client, wanted: Wanted) -> list[Json]:
    try:
        return list(islice(client.tasks(status=RUNNING, page_size=MOST_BARS, **wanted), MOST_BARS))
    except Unreachable:
        # The daemon restarts; following goes on until it is back or has been away for too long.
        return []


def _line(task: Json) -> str:
    return f"{task['settled_at'][11:19]}  {task['algorithm']}  {state_line(task)}"
