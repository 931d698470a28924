"""The `creche` command: finds the module of a command, and turns every error into a line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import creche.cli
from creche import __version__
from creche.cli import Exit
from creche.errors import ConfigError, CrecheError

if TYPE_CHECKING:
    from creche.client import Client

COMMANDS = {
    "serve": ("daemon", "Run the daemon."),
    "check": ("store", "Read the configuration and say what is in force, or all that is wrong."),
    "recipes": ("recipes", "List, show, check and try recipes."),
    "backup": ("store", "Copy the store, while the daemon runs."),
    "simulate": ("daemon", "Run a provider to rehearse with."),
    "demo": ("demo", "Show it all at work on this machine, without an account anywhere."),
    "submit": ("submit", "Submit a task, or many."),
    "wait": ("tasks", "Wait until tasks are at rest."),
    "watch": ("watch", "Show outcomes as they happen."),
    "list": ("tasks", "List tasks, newest first."),
    "show": ("tasks", "Show a task and its result."),
    "result": ("tasks", "Print the result of a task."),
    "cancel": ("tasks", "Ask for tasks to be cancelled."),
    "resolve": ("tasks", "Decide about an unknown task."),
    "webhooks": ("webhooks", "List messages that are yet to be delivered, and send them again."),
    "status": ("status", "Show how the daemon is."),
    "algorithms": ("status", "Show what can be submitted to."),
}


@dataclass
class Settings:
    """What the options common to all commands say."""

    socket: Path | None = None
    json: bool = False

    def client(self) -> Client:
        """A client of the daemon that is meant."""
        from creche.client import Client  # noqa: PLC0415 - neither --version nor --help needs it

        return Client(self.socket)


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, _parameter: click.Parameter, value: object) -> None:
        settings = ctx.ensure_object(Settings)
        if value:
            setattr(settings, name, value)

    return keep


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--socket and --json, which may stand before the command's name or behind it."""
    path = click.Path(path_type=Path)
    about = "The daemon's socket; else CRECHE_SOCKET, else the usual places."
    command = click.option("--json", is_flag=True, expose_value=False, callback=_keep("json"), help="Print JSON.")(
        command
    )
    return click.option("--socket", type=path, expose_value=False, callback=_keep("socket"), help=about)(command)


class App(click.Group):
    """A group that imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command `NAME` is `NAME_command` of its module."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"creche.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A name that is no command's gets the one that it resembles."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from creche.core.document import suggestion  # noqa: PLC0415 - only for mistakes

            ctx.fail(f'no command is called "{args[0]}"{suggestion(args[0], COMMANDS)}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Exit:
        """Run the command. The one place where errors become words and exit codes."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The interpreter flushes once more at its end; that must not complain either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.CLOSED
        except CrecheError as exc:
            return _report(exc)
        return Exit.OK if code is None else code


def _report(exc: CrecheError) -> Exit:
    from creche.client import ApiError, TooSlow, Unreachable  # noqa: PLC0415 - as above

    for line in str(exc).splitlines():
        click.echo(f"creche: {line}", err=True)
    match exc:
        case ApiError():
            return Exit.REFUSED
        case Unreachable():
            return Exit.UNREACHABLE
        case TooSlow():
            return Exit.TIMEOUT
        case ConfigError():
            return Exit.CONFIG
        case _:
            return Exit.NOT_SUCCEEDED


_EPILOG = "\b\n" + (creche.cli.__doc__ or "").partition("\n\nExit codes:")[2].strip("\n").replace("\n\n", "\n\b\n")


@click.group(cls=App, epilog=f"Exit codes:\n\n{_EPILOG}", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="creche %(version)s")
@common_options
def app() -> None:
    """Minds long-running AI jobs: hand a task over, hear when it is done.

    The commands talk to the daemon over its Unix socket. --json and --socket may also stand behind the command.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line (None: the process's own) and return its exit code. What users do gives no traceback."""
    try:
        return int(app.main(args, prog_name="creche", standalone_mode=False))
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
