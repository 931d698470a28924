"""Arguments that several commands share, and JSON from the command line with errors that say where."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from creche.core.document import parse_duration

FILE = click.Path(path_type=Path, allow_dash=True, dir_okay=False)


class Duration(click.ParamType[float]):
    """Seconds, from "90s" or "1h30m"."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, or a usage error."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Pair(click.ParamType[tuple[str, str]]):
    """A pair, from "name=value". `example` is what a message shows as expected."""

    name = "name=value"

    def __init__(self, example: str) -> None:
        self._example = example

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The pair, or a usage error."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"expected {self._example}", param, ctx)
        return name, text


LABEL = Pair('a label such as "team=video"')
KEPT = Pair('a kept value such as "status_url=https://…"')


def job_of(job: str, kept: Iterable[tuple[str, str]]) -> str | dict[str, Any]:
    """A job that exists, as the API takes it: its id, with the values that its recipe keeps where there are any."""
    keep = dict(kept)
    return {"id": job, "keep": keep} if keep else job


def read_text(path: Path) -> str:
    """The text of a file, or of standard input for "-". Raises `click.UsageError`."""
    try:
        return (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode("utf-8-sig")
    except OSError as exc:
        raise click.UsageError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise click.UsageError(f"{named(path)} is not UTF-8 text (byte {exc.start})") from exc


def named(path: Path) -> str:
    """What to call a file in a message."""
    return "standard input" if str(path) == "-" else str(path)


def parse_json(text: str, source: str, *, line: int = 1) -> Any:  # noqa: ANN401 - any JSON
    """The value of a JSON text that begins on a line of its source. Raises `click.UsageError` with line and column."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as exc:
        message = f"{source}:{line + exc.lineno - 1}:{exc.colno}: not valid JSON: {exc.msg}"
        raise click.UsageError(message) from exc
    except (ValueError, RecursionError) as exc:
        raise click.UsageError(f"{source}:{line}: not valid JSON: {exc}") from exc


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"the number {text} is too large")
    return number


CONFIG_FILE = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CRECHE_CONFIG",
    show_envvar=True,
    help="The configuration file; without it the defaults are in force.",
)
"""For what runs here instead of talking to a daemon."""
