"""What single values of a recipe mean. Each conversion raises ValueError with what was expected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from creche.core.reading import JobStatus, Progress, Source, as_text
from creche.core.template import SPREAD, is_pointer


def as_pointer(value: object) -> str:
    """An RFC 6901 pointer."""
    if not isinstance(value, str) or not is_pointer(value):
        raise ValueError('expected a JSON pointer such as "/status" ("" is the whole body)')
    return value


def as_pointers(value: object) -> tuple[str, ...]:
    """One pointer, or several."""
    return tuple(as_pointer(item) for item in (value if isinstance(value, list) else [value]))


def as_source(value: object) -> Source | None:
    """Where a value stands: a pointer, or a table."""
    if isinstance(value, dict):
        known = {"pointer", "header", "pattern"}
        if value.keys() - known or not all(isinstance(item, str) for item in value.values()):
            raise ValueError('expected texts for "pointer" or "header", and "pattern"')
        pattern = value.get("pattern")
        if pattern is not None and re.compile(as_pattern(pattern)).groups < 1:
            raise ValueError("the pattern needs a (group) around the value")
        if "header" in value:
            return Source(header=value["header"].lower(), pattern=pattern)
        return Source(pointer=as_pointer(value.get("pointer", "")), pattern=pattern)
    return Source(pointer=as_pointer(value))


def as_pattern(value: object) -> str:
    """A regular expression."""
    if not isinstance(value, str):
        raise ValueError("expected a regular expression in quotes")  # noqa: TRY004
    try:
        re.compile(value)
    except re.error as exc:
        raise ValueError(f"the pattern cannot be read: {exc}") from exc
    return value


def as_day(value: object) -> str:
    """A day, as a text or as TOML has it."""
    text = value.isoformat() if isinstance(value, date) else value
    try:
        return date.fromisoformat(str(text)).isoformat()
    except ValueError:
        raise ValueError('expected a day such as "2027-01-31"') from None


def as_body(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """A body template: anything, but what is to be spread must stand for something."""
    if isinstance(value, dict):
        spread = value.get(SPREAD, "$")
        if not isinstance(spread, str) or not spread.startswith("$") or spread.startswith("$$"):
            raise ValueError('expected a name such as "$input" for the member "..."')
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        as_body(child)
    return value


def as_tree(value: object) -> Mapping[str, Any]:
    """A table with anything in it."""
    if not isinstance(value, dict):
        raise ValueError("expected a table")  # noqa: TRY004
    return value


def as_progress(value: object) -> Progress | None:
    """Where the progress stands, and what it is divided by."""
    if isinstance(value, dict):
        if value.keys() - {"pointer", "of"}:
            raise ValueError('expected "pointer" and "of"')
        of = value.get("of", 1.0)
        if not isinstance(of, str | int | float) or isinstance(of, bool):
            raise ValueError('expected a number or a pointer for "of"')  # noqa: TRY004
        whole = as_pointer(of) if isinstance(of, str) else float(of)
        return Progress(pointer=as_pointer(value.get("pointer")), of=whole)
    return Progress(pointer=as_pointer(value))


def as_http_statuses(value: object) -> frozenset[int]:
    """One status, several, or whole classes of them."""
    statuses: set[int] = set()
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and re.fullmatch("[1-5]xx", item):
            first = int(item[0]) * 100
            statuses.update(range(first, first + 100))
        elif isinstance(item, int) and not isinstance(item, bool) and 100 <= item <= 599:  # noqa: PLR2004
            statuses.add(item)
        else:
            raise ValueError('expected HTTP statuses such as 404 or "4xx"')
    return frozenset(statuses)


def as_equals(value: object) -> tuple[tuple[str, frozenset[str]], ...]:
    """Which values are to stand at which pointers: one at least for each."""
    rows = as_values(value)
    if not all(wanted for _, wanted in rows):
        raise ValueError("expected a value, or some in a list, for each pointer")
    return rows


def as_values(value: object) -> tuple[tuple[str, frozenset[str]], ...]:
    """Which values may stand at which pointers; an empty list is for none at all."""
    if not isinstance(value, dict):
        raise ValueError('expected a table such as {"/status" = ["a", "b"]}')  # noqa: TRY004
    rows = []
    for pointer, wanted in value.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        if any(isinstance(item, dict | list) for item in values):
            raise ValueError("expected texts, numbers, true or false")
        rows.append((as_pointer(pointer), frozenset(as_text(item) for item in values)))
    return tuple(rows)


def as_ends(value: object) -> frozenset[JobStatus]:
    """Some of the ends that a job can have."""
    ends = {status.value: status for status in JobStatus if not status.running}
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) and word in ends for word in words):
        raise ValueError(f"expected some of {', '.join(sorted(ends))}")
    return frozenset(ends[str(word)] for word in words)
