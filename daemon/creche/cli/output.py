"""How things look: tables and bars on a terminal, plain aligned text in a pipe, JSON where asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import click

from creche.client import Client, Json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "server_failed": "red",
    "timed_out": "red",
    "unknown": "bold magenta",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "processing": "cyan",
}


def on_terminal() -> bool:
    """Whether a person looks at the output."""
    return sys.stdout.isatty()


def print_json(value: object) -> None:
    """One value on one line, at once."""
    click.echo(json.dumps(value, ensure_ascii=False))


def opened(path: Path | None) -> AbstractContextManager[IO[Any] | None]:
    """The output, opened before anything is done: a mistaken path must not show only when the work is over."""
    if path is None:
        return nullcontext()
    try:
        return click.open_file(str(path), "w", encoding="utf-8")
    except OSError as exc:
        raise click.UsageError(f"cannot write {path}: {exc.strerror}") from exc


def write_json(file: IO[Any], value: object) -> None:
    """One value on one line, at once."""
    file.write(json.dumps(value, ensure_ascii=False) + "\n")
    file.flush()


def result_in(task: Json, client: Client) -> object:
    """The result of a task that succeeded; a large one is asked for by itself."""
    return client.result(task["id"]) if "result_file" in task else task.get("result")


def warn(message: str) -> None:
    """A line on standard error."""
    click.echo(f"creche: {clean(message)}", err=True)


def clean(text: object) -> str:
    """One line without control characters: what a provider says must not steer a terminal or break a table."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(str(text).split()))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under a head. A cell that is a status gets its colour on a terminal."""
    cells = [[clean("" if cell is None else cell) for cell in row] for row in rows]
    if on_terminal():
        _print_rich(head, cells)
        return
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in ([name.upper() for name in head], *cells):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(head: Sequence[str], cells: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - rich takes long to import, and only terminals need it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for index, name in enumerate(head):
        table.add_column(name, no_wrap=index == 0, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    Console().print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair per line; pairs without a value are left out."""
    shown = [(name, clean(value)) for name, value in fields if value not in (None, "", {}, [])]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {value}")


def told(task: Json) -> str:
    """What is worth knowing about a task besides its status, in a few words."""
    words = [task.get("reason"), task.get("message"), task.get("condition"), task.get("note")]
    if task.get("partial"):
        words.append("partial result")
    progress = task.get("progress")
    if progress is not None and "settled_at" not in task:
        words.append(f"{progress:.0%}")
    return ": ".join(str(word) for word in words if word)


def state_line(task: Json) -> str:
    """A task on one line."""
    return "  ".join(part for part in (task["id"], task["status"], clean(told(task))) if part)


def age(moment: str | None) -> str:
    """How long ago a time of the API was: "5s", "12m", "3h", "2d"."""
    if moment is None:
        return ""
    then = datetime.fromisoformat(moment)
    return span((datetime.now(UTC) - then).total_seconds())


def span(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, size_s in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size_s:
            return f"{seconds / size_s:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


class Bars:
    """Progress bars of the tasks that are being waited for; nothing at all where no person looks. Use it with `with`.

    Whoever prints a line hides them before; the next `show` brings them back below it.
    """

    def __init__(self) -> None:
        self._rows: dict[str, TaskID] = {}
        self._progress = _progress() if on_terminal() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.hide()

    @property
    def shown(self) -> bool:
        """Whether there are bars at all."""
        return self._progress is not None

    def hide(self) -> None:
        """Take the bars away until the next `show`."""
        if self._progress is not None and self._progress.live.is_started:
            self._progress.stop()

    def show(self, tasks: Iterable[Json]) -> None:
        """Show exactly these tasks."""
        if self._progress is None:
            return
        self._progress.start()
        current = {task["id"]: task for task in tasks}
        for gone in [task_id for task_id in self._rows if task_id not in current]:
            self._progress.remove_task(self._rows.pop(gone))
        for task_id, task in current.items():
            fields: dict[str, Any] = {
                "description": task_id,
                "status": task["status"],
                "told": clean(task.get("condition") or task.get("note") or ""),
            }
            row = self._rows.get(task_id)
            if row is None:
                row = self._rows[task_id] = self._progress.add_task(total=None, **fields)
            progress = task.get("progress")
            self._progress.update(row, total=None if progress is None else 1.0, completed=progress or 0.0, **fields)


def _progress() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - as above

    return Progress(
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[status]}", style="cyan", markup=False),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}", markup=False),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        refresh_per_second=5,
    )
