"""`creche serve`, `check` and `simulate`: what runs here instead of talking to a daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import click

from creche.cli import Exit
from creche.cli.app import Settings, common_options
from creche.cli.output import clean, print_json

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("serve")
@click.option(
    "--config",
    type=_FILE,
    envvar="CRECHE_CONFIG",
    show_envvar=True,
    help="The configuration file; without it the defaults are in force.",
)
def serve_command(config: Path | None) -> int:
    """Run the daemon in the foreground until SIGTERM or SIGINT."""
    from creche.service import run  # noqa: PLC0415 - the whole daemon

    return run(config)


@click.command("check")
@click.option(
    "--config",
    type=_FILE,
    envvar="CRECHE_CONFIG",
    show_envvar=True,
    help="The configuration file; without it the defaults are in force.",
)
@common_options
@click.pass_obj
def check_command(settings: Settings, /, config: Path | None) -> None:
    """Read the configuration and print what is in force, or every mistake in it. Secrets are not shown."""
    from creche.config import load  # noqa: PLC0415 - only needed here

    in_force = dict(_leaves("", load(config, os.environ)))
    if settings.json:
        print_json(in_force)
        return
    for place, value in in_force.items():
        click.echo(f"{place} = {clean(value)}")


def _leaves(place: str, value: object) -> Iterator[tuple[str, str]]:
    """Every single value with its dotted place."""
    from msgspec import Struct  # noqa: PLC0415 - only needed here

    from creche.core.recipe import Recipe  # noqa: PLC0415 - only needed here

    match value:
        case Recipe():
            yield place, value.name
        case Struct():
            for name in value.__struct_fields__:
                yield from _leaves(f"{place}.{name}".removeprefix("."), getattr(value, name))
        case Mapping() if value:
            for name, item in value.items():
                yield from _leaves(f"{place}.{name}", item)
        case AbstractSet() | tuple() if value:
            yield place, ", ".join(sorted(map(str, value)))
        case Mapping() | AbstractSet() | tuple() | None:
            yield place, "none"
        case int() if place.endswith(".mode"):
            yield place, f"{value:04o}"
        case _:
            yield place, str(value)


@click.command("simulate")
@click.option("--port", type=click.IntRange(0, 65535), default=8790, show_default=True, help="0 takes a free one.")
@click.option("--key", help="The API key to demand. Default: none.")
@click.option("--seed", type=int, default=0, show_default=True, help="What chance does follows from it.")
def simulate_command(port: int, key: str | None, seed: int) -> Exit:
    """Run a provider on loopback to rehearse with, until interrupted: latencies, outages, lost replies, odd answers."""
    import trio  # noqa: PLC0415 - takes long to import

    from creche.simulator import serve  # noqa: PLC0415 - as above

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            url = await nursery.start(lambda task_status: serve(port=port, key=key, seed=seed, task_status=task_status))
            click.echo(url)

    code = Exit.OK
    try:
        trio.run(run)
    except* KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except* OSError as group:
        click.echo(f"creche: cannot listen on port {port}: {group.exceptions[0]}", err=True)
        code = Exit.NOT_SUCCEEDED
    return code
