"""`creche wait`, `list`, `show`, `cancel`, `resolve`: what to do with tasks that exist."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import click

from creche.cli import Exit, worse
from creche.cli.app import Settings, common_options
from creche.cli.arguments import KEPT, LABEL, Duration, job_of
from creche.cli.output import age, opened, print_fields, print_json, print_table, state_line, told, warn, write_json
from creche.cli.waiting import wait_for
from creche.client import ApiError, Json
from creche.core.task import Status

PAGE = 100

STATUSES = [*(str(status) for status in Status), "unfinished"]
"""What can be asked for: `unfinished` stands for all that are no end."""


@click.command("wait")
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout", type=Duration(), help='Wait no longer than this for all of them, such as "90s" or "2h".')
@common_options
@click.pass_obj
def wait_command(settings: Settings, /, task_ids: tuple[str, ...], timeout: float | None) -> Exit:
    """Wait until each task is at rest; print one line for each, in the order given.

    A restart of the daemon meanwhile is waited out. Interrupting ends the waiting, not the tasks.
    """
    return wait_for(settings.client(), task_ids, timeout, print_json if settings.json else _print_state)


@click.command("list")
@click.option("--status", type=click.Choice(STATUSES), multiple=True, help="May be repeated.")
@click.option("--algorithm", help="Only tasks of this algorithm.")
@click.option("--user", help="Only tasks of this user.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="Only tasks with this label; may be repeated.")
@click.option("--limit", type=click.IntRange(min=1), default=PAGE, show_default=True, help="How many at most.")
@common_options
@click.pass_obj
def list_command(
    settings: Settings,
    /,
    *,
    status: tuple[str, ...],
    algorithm: str | None,
    user: str | None,
    labels: tuple[tuple[str, str], ...],
    limit: int,
) -> None:
    """List tasks, newest first; those that match all that is given."""
    pages = settings.client().tasks(
        status=status, algorithm=algorithm, user=user, labels=dict(labels), page_size=min(limit, PAGE)
    )
    tasks = islice(pages, limit)
    if settings.json:
        for task in tasks:
            print_json(task)
        return
    head = ("id", "algorithm", "status", "age", "user", "about")
    print_table(
        head, ([*map(task.get, head[:3]), age(task["accepted_at"]), task.get("user"), told(task)] for task in tasks)
    )


@click.command("show")
@click.argument("task_id", metavar="ID")
@click.option("--input", "with_input", is_flag=True, help="Show what was submitted, too.")
@common_options
@click.pass_obj
def show_command(settings: Settings, /, task_id: str, *, with_input: bool) -> None:
    """Show a task and its result."""
    task = settings.client().get(task_id, with_input=with_input)
    if settings.json:
        print_json(task)
        return
    job = task.get("job") or {}
    print_fields(
        [
            (name.replace("_", " "), value)
            for name, value in task.items()
            if name not in {"job", "labels", "input", "result", "result_file", "assets"}
        ]
        + [("labels", " ".join(f"{name}={value}" for name, value in task.get("labels", {}).items()))]
        + [("job", job.get("id")), ("job status", job.get("status"))]
        + [("result", f"{file['bytes']} bytes: creche result {task_id}") for file in [task.get("result_file")] if file]
        + [("file", asset.get("path") or f"not saved: {asset['error']}") for asset in task.get("assets", [])]
    )
    for name in ("input", "result"):
        if name in task:
            click.echo(f"{name}:\n{json.dumps(task[name], indent=2)}")


@click.command("result")
@click.argument("task_id", metavar="ID")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it here.")
@common_options
@click.pass_obj
def result_command(settings: Settings, /, task_id: str, output: Path | None) -> None:
    """Print the result of a task that succeeded, as JSON."""
    result = settings.client().result(task_id)  # before a file that is there is overwritten
    with opened(output) as file:
        print_json(result) if file is None else write_json(file, result)


@click.command("cancel")
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@common_options
@click.pass_obj
def cancel_command(settings: Settings, /, task_ids: tuple[str, ...]) -> Exit:
    """Ask for tasks to be cancelled. It is recorded at once; `creche wait` tells how each ends."""
    client = settings.client()
    worst = Exit.OK
    for task_id in task_ids:
        try:
            task = client.cancel(task_id)
        except ApiError as exc:
            warn(f"task {task_id}: {exc}")
            worst = worse(worst, Exit.REFUSED)
            continue
        print_json(task) if settings.json else _print_state(task)
    return worst


@click.command("resolve")
@click.argument("task_id", metavar="ID")
@click.argument("action", type=click.Choice(["attach", "create", "drop"]))
@click.argument("job", required=False)
@click.option(
    "--keep", "kept", type=KEPT, multiple=True, help="With attach: a value the recipe keeps; may be repeated."
)
@common_options
@click.pass_obj
def resolve_command(
    settings: Settings, /, task_id: str, action: str, job: str | None, kept: tuple[tuple[str, str], ...]
) -> None:
    """Decide about a task of which nobody can tell whether its job exists.

    Look at the provider first. `attach JOB`: this is the job. `create`: there is none (or a second one is all right),
    make one. `drop`: give the task up.
    """
    if (job is not None) != (action == "attach"):
        raise click.UsageError("attach needs the provider's JOB; create and drop take none")
    if kept and job is None:
        raise click.UsageError("--keep is for attach")
    task = settings.client().resolve(task_id, action, None if job is None else job_of(job, kept))
    print_json(task) if settings.json else _print_state(task)


def _print_state(task: Json) -> None:
    click.echo(state_line(task))
