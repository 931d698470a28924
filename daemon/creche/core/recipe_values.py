"""What single values of a recipe mean. Each conversion raises ValueError with what was expected."""

from __future__ import annotations

import re

from creche.core.reading import JobStatus, Progress, Source, as_text
from creche.core.template import is_pointer


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
        if pattern is not None:
            _check_pattern(pattern)
        if "header" in value:
            return Source(header=value["header"].lower(), pattern=pattern)
        return Source(pointer=as_pointer(value.get("pointer", "")), pattern=pattern)
    return Source(pointer=as_pointer(value))


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as exc:
        raise ValueError(f"the pattern cannot be read: {exc}") from exc
    if groups < 1:
        raise ValueError("the pattern needs a (group) around the value")


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
    """Which values are to stand at which pointers."""
    if not isinstance(value, dict):
        raise ValueError('expected a table such as {"/status" = ["a", "b"]}')  # noqa: TRY004
    rows = []
    for pointer, wanted in value.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        rows.append((as_pointer(pointer), frozenset(as_text(item) for item in values)))
    return tuple(rows)


def as_ends(value: object) -> frozenset[JobStatus]:
    """Some of the ends that a job can have."""
    ends = {status.value: status for status in JobStatus if not status.running}
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) and word in ends for word in words):
        raise ValueError(f"expected some of {', '.join(sorted(ends))}")
    return frozenset(ends[str(word)] for word in words)
