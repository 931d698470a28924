"""`creche submit`: one task from options, or many from lines of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from creche.cli import Exit, worse
from creche.cli.app import Settings, common_options
from creche.cli.arguments import FILE, KEPT, LABEL, Duration, job_of, named, parse_json, read_text
from creche.cli.output import opened, print_json, result_in, state_line, warn, write_json
from creche.cli.waiting import wait_for
from creche.client import ApiError, Client, Json

_ONE_TASK = ("input_file", "data", "job", "key")


@click.command("submit")
@click.argument("algorithm", required=False)
@click.option("--input", "input_file", type=FILE, help="The job's content: a JSON file, or - for standard input.")
@click.option("--data", metavar="JSON", help="The job's content, inline.")
@click.option("--job", metavar="ID", help="Take over a job that exists at the provider instead of creating one.")
@click.option("--keep", "kept", type=KEPT, multiple=True, help="With --job: a value the recipe keeps; may be repeated.")
@click.option("--key", help="Submitting again with the same key returns the first task. Default: random.")
@click.option("--user", help="On whose behalf.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label; may be repeated.")
@click.option("--deadline", type=Duration(), help='How long the job may take, such as "90s" or "2h".')
@click.option("--priority", type=click.IntRange(-100, 100), help="Who gets a free slot first; higher is earlier.")
@click.option("--ndjson", type=FILE, help="Submit many: a file (or -) with one task, as JSON, per line.")
@click.option("--wait", is_flag=True, help="Wait until the task is at rest, and print its result.")
@click.option("--timeout", type=Duration(), help="With --wait: wait no longer than this.")
@click.option("--output", type=FILE, help="With --wait: write the result here; with --ndjson one task per line.")
@common_options
@click.pass_obj
def submit_command(settings: Settings, /, algorithm: str | None, ndjson: Path | None, **options: Any) -> Exit:  # noqa: ANN401 - options
    """Submit a task to ALGORITHM and print its id.

    A line of --ndjson is a task as the API takes it: {"input": …, "key": …}. ALGORITHM, --user, --label, --deadline and
    --priority stand for what a line leaves out. All lines are read before the first is submitted.
    """
    _check(algorithm, ndjson, options)
    common = _common(algorithm, options)
    if ndjson is not None:
        return _submit_many(settings.client(), list(_lines(ndjson, common)), options, as_json=settings.json)
    return _submit_one(settings.client(), common | _content(options), options, as_json=settings.json)


def _check(algorithm: str | None, ndjson: Path | None, options: Json) -> None:
    given = [name for name in _ONE_TASK if options[name] is not None]
    if ndjson is not None and given:
        raise click.UsageError("--ndjson brings tasks of its own: leave out --input, --data, --job, --key")
    if options["kept"] and options["job"] is None:
        raise click.UsageError("--keep needs --job")
    if ndjson is None:
        if algorithm is None:
            raise click.UsageError("name the ALGORITHM to submit to; `creche algorithms` lists them")
        if len(set(given) - {"key"}) != 1:
            raise click.UsageError("give one of --input, --data, --job and --ndjson")
    if not options["wait"] and (options["output"] is not None or options["timeout"] is not None):
        raise click.UsageError("--output and --timeout need --wait")


def _common(algorithm: str | None, options: Json) -> Json:
    fields = {"algorithm": algorithm, "user": options["user"], "labels": dict(options["labels"]) or None}
    fields |= {"deadline": options["deadline"], "priority": options["priority"]}
    return {name: value for name, value in fields.items() if value is not None}


def _content(options: Json) -> Json:
    content: Json = {} if options["key"] is None else {"key": options["key"]}
    if options["job"] is not None:
        return content | {"job": job_of(options["job"], options["kept"])}
    if options["data"] is not None:
        return content | {"input": parse_json(options["data"], "--data")}
    path: Path = options["input_file"]
    return content | {"input": parse_json(read_text(path), named(path))}


def _lines(path: Path, common: Json) -> Iterator[Json]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        task = parse_json(line, named(path), line=number)
        if not isinstance(task, dict):
            raise click.UsageError(f"{named(path)}:{number}: expected a task, as a JSON object")
        task = common | task
        if "algorithm" not in task:
            raise click.UsageError(f'{named(path)}:{number}: no "algorithm", and no ALGORITHM was given')
        yield task


def _submit_one(client: Client, fields: Json, options: Json, *, as_json: bool) -> Exit:
    with opened(options["output"]) as file:
        task = client.submit(**fields)
        if not options["wait"]:
            print_json(task) if as_json else click.echo(task["id"])
            return Exit.OK
        # The id first: whatever happens to this process, the task can be found again.
        warn(f"task {task['id']} is {task['status']}")

        def finish(task: Json) -> None:
            if as_json:
                print_json(task)
            if task["status"] != "succeeded":
                warn(f"task {state_line(task)}")
            elif file is not None:
                write_json(file, result_in(task, client))
            elif not as_json:
                print_json(result_in(task, client))

        return wait_for(client, [task["id"]], options["timeout"], finish)


def _submit_many(client: Client, tasks: list[Json], options: Json, *, as_json: bool) -> Exit:
    with opened(options["output"]) as file:
        worst = Exit.OK
        ids = []
        for number, answer in enumerate(client.submit_many(tasks), start=1):
            if isinstance(answer, ApiError):
                worst = Exit.REFUSED
                warn(f"task {number} of {len(tasks)} was refused: {answer}")
                if as_json:
                    print_json(answer.problem)
                continue
            ids.append(answer["id"])
            if not options["wait"]:
                print_json(answer) if as_json else click.echo(answer["id"])
        if not options["wait"]:
            return worst
        warn(f"waiting for {len(ids)} {'task' if len(ids) == 1 else 'tasks'}")

        def finish(task: Json) -> None:
            if file is not None:
                write_json(file, task)
            elif as_json:
                print_json(task)
            else:
                click.echo(state_line(task))

        return worse(worst, wait_for(client, ids, options["timeout"], finish))
