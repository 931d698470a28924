"""The manual page in the form of man(7), made of what the commands say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

import creche.cli
from creche.cli.app import app

_EXITS = (creche.cli.__doc__ or "").partition("Exit codes:")[2].strip("\n")


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield '.\\" Written by scripts/man.'
    yield '.TH CRECHE 1 "" "creche" "User Commands"'
    yield from (".SH NAME", "creche \\- minds long-running AI jobs: submit, wait, tell")
    yield from (".SH SYNOPSIS", ".B creche", "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]...")
    yield from (".SH DESCRIPTION", *_text(app.help or ""))
    yield ".SH OPTIONS"
    yield from _options(app)
    yield ".SH COMMANDS"
    for name, command in _commands(app, ()):
        arguments = " ".join(part for part in command.collect_usage_pieces(_context(command)))
        yield f'.SS "creche {" ".join(name)} {_plain(arguments)}"'
        yield from _text(command.help or "")
        yield from _options(command)
    yield from (".SH EXIT STATUS", ".nf", *(_plain(line.strip()) for line in _EXITS.splitlines()), ".fi")
    yield from (".SH FILES", ".TP", ".I /etc/creche/config.toml", "The configuration of the system's daemon.")
    yield from (".TP", ".I /run/creche/creche.sock", "Its socket. Members of the group creche may submit.")
    yield from (".TP", ".I /var/lib/creche/creche.db", "Its store.")
    yield from (".SH ENVIRONMENT", ".TP", ".B CRECHE_SOCKET", "The socket of the daemon, where --socket names none.")


def _context(command: click.Command) -> click.Context:
    """As within the whole command line, whose settings hold for all commands."""
    return click.Context(command, **app.context_settings)


def _commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = _context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        elif command is not None and not command.hidden:
            yield (*path, name), command


def _options(command: click.Command) -> Iterator[str]:
    context = _context(command)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield from (".TP", f".B {_plain(record[0])}", _plain(record[1]) or "\\&")


def _text(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield _plain(" ".join(paragraph.replace("\b", "").split()))


def _plain(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
