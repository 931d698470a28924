"""How the demo looks: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from typing import Any, Protocol, Self

import click

from creche.cli.output import COLOURS, clean, told
from creche.client import Json


class View(Protocol):
    """Shows the tasks while the `with` block lasts."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def submitted(self, task_id: str, algorithm: str, about: str) -> None:
        """A task was accepted."""

    def heard(self, message: Json) -> None:
        """The listener got a message."""


class LinesView:
    """A line for every change of status, in the order in which the listener hears them."""

    def __init__(self) -> None:
        self._about: dict[str, str] = {}
        self._status: dict[str, str] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def submitted(self, task_id: str, algorithm: str, about: str) -> None:
        self._about[task_id] = about
        click.echo(f"  0.0 s  {task_id}  {algorithm:<7}  submitted      {about}")

    def heard(self, message: Json) -> None:
        task = message["task"]
        if self._status.get(task["id"]) == task["status"]:
            return
        self._status[task["id"]] = task["status"]
        about = told(task) if message["type"] == "result" and told(task) else self._about.get(task["id"], "")
        elapsed_s = time.monotonic() - self._began
        line = f"{elapsed_s:5.1f} s  {task['id']}  {task['algorithm']:<7}  {task['status']:<13}  {clean(about)}"
        click.echo(line)


WIDE = 100
"""From this many columns on there is room for the ids of the tasks."""


class LiveView:
    """A table with progress bars. Where there is little room what is told is cut, never a status."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - rich takes long to import, and only terminals need it
        from rich.live import Live  # noqa: PLC0415 - as above

        self._rows: dict[str, tuple[str, str, Json]] = {}
        self._console = Console()
        self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def submitted(self, task_id: str, algorithm: str, about: str) -> None:
        self._rows[task_id] = (algorithm, about, {"status": "accepted"})

    def heard(self, message: Json) -> None:
        task = message["task"]
        algorithm, about, _ = self._rows.get(task["id"], (task["algorithm"], "", {}))
        self._rows[task["id"]] = (algorithm, about, task)

    def _table(self) -> Any:  # noqa: ANN401 - a rich table, imported late
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - as above
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
        wide = self._console.width >= WIDE
        for head in ("task", "algorithm", "about", "status", "progress", "")[not wide :]:
            # Columns that may wrap are those that shrink; their texts are cut instead.
            table.add_column(head, no_wrap=head not in {"about", ""})
        for task_id, (algorithm, about, task) in self._rows.items():
            status = task["status"]
            bar = ProgressBar(total=1.0, completed=task.get("progress") or 0.0, width=16)
            note = told(task) if "settled_at" in task else task.get("last_error") or ""
            style = COLOURS.get(status, "dim")
            about_text = Text(about, no_wrap=True, overflow="ellipsis")
            note_text = Text(clean(note), style="dim", no_wrap=True, overflow="ellipsis")
            cells = (task_id, algorithm, about_text, Text(status, style=style), bar, note_text)
            table.add_row(*cells[not wide :])
        return table
