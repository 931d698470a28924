"""`creche check` and `backup`: about the files of a daemon that may or may not run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from creche.cli import Exit
from creche.cli.app import Settings, common_options
from creche.cli.arguments import CONFIG_FILE
from creche.cli.output import print_json, warn

if TYPE_CHECKING:
    from creche.config import Config
    from creche.edges.store_backup import Contents

_FILE = click.Path(path_type=Path, dir_okay=False)
_CONFIGURED = "that of the configuration"


@click.command("check")
@CONFIG_FILE
@click.option(
    "--store",
    is_flag=False,
    flag_value=_CONFIGURED,
    metavar="[FILE]",
    help="Instead check the store that the configuration names, or this one, or a backup.",
)
@click.option("--print", "printing", is_flag=True, help="Instead print the configuration that is in force, as TOML.")
@common_options
@click.pass_obj
def check_command(settings: Settings, /, config: Path | None, store: str | None, *, printing: bool) -> Exit:
    """Look at the configuration and at all that a daemon needs around it: what is wrong, and what to do.

    With --store read every byte of a store instead, and say what is in it and what is wrong. The daemon may run.
    """
    if store is not None:
        return _check_store(settings, _configured_store(config) if store == _CONFIGURED else Path(store))
    from creche.config import load  # noqa: PLC0415 - only needed here

    in_force = load(config, os.environ)
    if printing:
        return _print(settings, in_force)
    from creche.service_check import look_around  # noqa: PLC0415 - as above

    found = list(look_around(in_force, time.time()))
    for finding in found:
        if settings.json:
            print_json(msgspec.to_builtins(finding))
            continue
        click.echo(f"{finding.state:5}  {finding.what:13}  {finding.said}")
        if finding.hint:
            click.echo(f"{'':22}-> {finding.hint}")
    return Exit.NOT_SUCCEEDED if any(finding.state == "wrong" for finding in found) else Exit.OK


def _print(settings: Settings, config: Config) -> Exit:
    from creche.config_render import as_toml, tables  # noqa: PLC0415 - as above

    in_force = tables(config)
    print_json(in_force) if settings.json else click.echo(as_toml(in_force))
    return Exit.OK


def _check_store(settings: Settings, path: Path) -> Exit:
    from creche.edges.store_backup import verify  # noqa: PLC0415 - as above

    contents, problems = verify(path)
    if settings.json:
        print_json({"path": str(path), **contents._asdict(), "problems": problems})
    else:
        click.echo(f"{path}: {_told(contents)}; {'no problem' if not problems else 'DAMAGED'}")
    for problem in problems:
        warn(problem)
    if problems:
        warn("restore a backup (docs/how-to/back-up.md), or move the store away to start empty")
    return Exit.NOT_SUCCEEDED if problems else Exit.OK


@click.command("backup")
@click.argument("to", metavar="FILE", type=_FILE)
@CONFIG_FILE
@click.option("--store", type=_FILE, help="The store to copy; without it that of the configuration.")
@common_options
@click.pass_obj
def backup_command(settings: Settings, /, to: Path, config: Path | None, store: Path | None) -> None:
    """Copy the store into a new FILE, and its large results into FILE.results. The daemon may run meanwhile."""
    from creche.edges.store_backup import back_up  # noqa: PLC0415 - as above

    path = store or _configured_store(config)
    contents = back_up(path, to, time.time())
    if settings.json:
        print_json({"path": str(to), **contents._asdict()})
    else:
        click.echo(f"{to}: {_told(contents)}")


def _told(contents: Contents) -> str:
    return f"{contents.tasks} tasks, {contents.unfinished} of them unfinished, {contents.files} results in files"


def _configured_store(config: Path | None) -> Path:
    from creche.config import load  # noqa: PLC0415 - as above

    store = load(config, os.environ).store
    if store.url is not None:
        raise click.ClickException(
            "the configured store is a fleet's, in Redis or Valkey: copy it with the server's own means, or name a FILE"
        )
    return store.path
