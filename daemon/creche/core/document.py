"""Reading TOML tables so that every mistake is found at once, with its place and a suggestion.

A `Table` hands out values by key and type. A wrong value is noted in the shared list of mistakes and the default
is handed out instead, so that reading goes on; `close` notes the keys that nobody asked for. Durations are written
"3s", "500ms", "1h30m", sizes "64KiB", "4MiB".
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

T = TypeVar("T")

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MAX_DURATION_S = 100 * 366 * 86400.0
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_RATE_UNITS = {"s": 1, "m": 60, "h": 3600}
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,30})?)/(s|m|h)")
_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
MAX_SIZE_BYTES = 1 << 40
_SIZE = re.compile(r"(\d{1,15})\s*(B|KiB|MiB|GiB)")
MAX_INTEGER = 10**12
"""More than anything that is counted here, and little enough for whatever a number is handed to."""

_JSON_INTEGERS = range(-(1 << 63), 1 << 64)
_SHOWN_LENGTH = 40
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def parse_duration(text: str) -> float:
    """Seconds from "3s", "500ms", "1h30m", "2d". Raises ValueError with a sentence that says what is expected."""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError('expected a duration such as "3s", "500ms", "1h30m" or "7d"')
    seconds = sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
    if seconds > MAX_DURATION_S:
        raise ValueError("expected a duration of at most a hundred years")
    return seconds


def format_duration(seconds: float) -> str:
    """The text that `parse_duration` reads as exactly these seconds, in one unit."""
    for unit in ("d", "h", "m", "s"):
        if seconds % _DURATION_UNITS[unit] == 0 and (seconds or unit == "s"):
            return f"{seconds / _DURATION_UNITS[unit]:.0f}{unit}"
    in_ms = f"{seconds * 1000:.0f}ms"
    return in_ms if seconds < 1 and parse_duration(in_ms) == seconds else f"{Decimal(repr(seconds)):f}s"


def parse_rate(text: str) -> float:
    """Times per second from "10/s", "600/m", "0.5/h". Raises ValueError with a sentence that says what is expected."""
    match = _RATE.fullmatch(text)
    if match is None or not float(match[1]) > 0:
        raise ValueError('expected a rate such as "10/s", "600/m" or "1000/h"')
    return float(match[1]) / _RATE_UNITS[match[2]]


def format_rate(per_s: float | None) -> str:
    """The text that `parse_rate` reads as exactly this rate; empty for no limit."""
    if per_s is None:
        return ""
    for unit, seconds in _RATE_UNITS.items():
        text = f"{per_s * seconds:.0f}/{unit}"
        if _RATE.fullmatch(text) and not text.startswith("0") and parse_rate(text) == per_s:
            return text
    return f"{Decimal(repr(per_s)):f}/s"


def parse_size(text: str) -> int:
    """Bytes from "64KiB", "4MiB", "512B". Raises ValueError with a sentence that says what is expected."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError('expected a size such as "64KiB", "4MiB" or "1GiB"')
    size = int(match[1]) * _SIZE_UNITS[match[2]]
    if size > MAX_SIZE_BYTES:
        raise ValueError("expected a size of at most 1024GiB")
    return size


def format_size(size_bytes: int) -> str:
    """The text that `parse_size` reads as exactly these bytes, in the largest unit that needs no fraction."""
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size_bytes % _SIZE_UNITS[unit] == 0)
    return f"{size_bytes // _SIZE_UNITS[unit]}{unit}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """' (did you mean "x"?)' for a word that resembles a known one, else a list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f' (did you mean "{close[0]}"?)'
    return f" (known: {', '.join(known)})" if known else ""


def _shown(value: object) -> str:
    match value:
        case list():
            return "a list"
        case dict():
            return "a table"
        case bool():
            return str(value).lower()
        case int() if value not in _JSON_INTEGERS:
            return "a longer number"
        case str():
            return f'"{value}"' if len(value) <= _SHOWN_LENGTH else "a longer text"
        case _:
            return str(value)


class Table:
    """One table of a document. `place` is its dotted path, "" for the root; `mistakes` is shared by the document."""

    def __init__(self, data: Mapping[str, Any], place: str, mistakes: list[str], source: str) -> None:
        self._data = data
        self._asked: set[str] = set()
        self._mistakes = mistakes
        self._source = source
        self.place = place

    def at(self, key: str) -> str:
        """The dotted path of a key of this table."""
        name = key if _BARE_KEY.fullmatch(key) else f'"{key}"'
        return f"{self.place}.{name}" if self.place else name

    def wrong(self, key: str, message: str) -> None:
        """Note a mistake about one key."""
        self._mistakes.append(f"{self._source}: {self.at(key)}: {message}")

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def keys(self) -> list[str]:
        """The keys that are there, in the order of the file."""
        return list(self._data)

    def value(self, key: str, default: T, convert: Callable[[Any], T]) -> T:
        """The converted value, or the default when the key is absent or `convert` raises ValueError."""
        self._asked.add(key)
        if key not in self._data:
            return default
        try:
            return convert(self._data[key])
        except ValueError as exc:
            self.wrong(key, f"{exc}, got {_shown(self._data[key])}")
        except OverflowError:
            self.wrong(key, f"expected less, got {_shown(self._data[key])}")
        return default

    def required(self, key: str, about: str) -> None:
        """Note a mistake when the key is absent; `about` says what belongs there."""
        if key not in self._data:
            self.wrong(key, f"missing; {about}")

    def text(self, key: str, default: str = "") -> str:
        return self.value(key, default, _text)

    def choice(self, key: str, default: str, allowed: Iterable[str]) -> str:
        allowed = tuple(allowed)

        def convert(value: object) -> str:
            if value not in allowed:
                raise ValueError(f"expected one of {', '.join(allowed)}")
            return str(value)

        return self.value(key, default, convert)

    def flag(self, key: str, *, default: bool = False) -> bool:
        return self.value(key, default, _flag)

    def integer(self, key: str, default: int, *, at_least: int = 0, at_most: int = MAX_INTEGER) -> int:
        def convert(value: object) -> int:
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError("expected a whole number")  # noqa: TRY004 - one kind of error for all mistakes
            if value < at_least:
                raise ValueError(f"expected a number of at least {at_least}")
            if value > at_most:
                raise ValueError(f"expected a number of at most {at_most}")
            return value

        return self.value(key, default, convert)

    def number(self, key: str, default: float, *, at_least: float = 0.0) -> float:
        def convert(value: object) -> float:
            if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value < math.inf:
                raise ValueError(f"expected a number of at least {at_least:g}")
            return float(value)

        return self.value(key, default, convert)

    def duration(self, key: str, default_s: float, *, at_least_s: float = 0.0) -> float:
        def convert(value: object) -> float:
            if not isinstance(value, str):
                raise ValueError('expected a duration in quotes such as "3s" or "1h"')  # noqa: TRY004
            seconds = parse_duration(value)
            if seconds < at_least_s:
                raise ValueError(f"expected at least {at_least_s:g}s")
            return seconds

        return self.value(key, default_s, convert)

    def rate(self, key: str, default_per_s: float | None = None) -> float | None:
        """Times per second; None for no limit, which is what the empty text says."""

        def convert(value: object) -> float | None:
            if not isinstance(value, str):
                raise ValueError('expected a rate in quotes such as "10/s" or "600/m"')  # noqa: TRY004
            return parse_rate(value) if value else None

        return self.value(key, default_per_s, convert)

    def size(self, key: str, default_bytes: int, *, at_least: int = 1) -> int:
        def convert(value: object) -> int:
            if not isinstance(value, str):
                raise ValueError('expected a size in quotes such as "4MiB"')  # noqa: TRY004
            size = parse_size(value)
            if size < at_least:
                raise ValueError(f"expected at least {at_least} bytes")
            return size

        return self.value(key, default_bytes, convert)

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        return self.value(key, default, _texts)

    def text_map(self, key: str) -> dict[str, str]:
        return self.value(key, {}, _text_map)

    def table(self, key: str) -> Table:
        """A table below this one; an empty one when it is absent or something else stands there."""
        data: Mapping[str, Any] = self.value(key, {}, _table)
        return Table(data, self.at(key), self._mistakes, self._source)

    def tables(self, key: str) -> list[Table]:
        """An array of tables."""
        rows: list[Mapping[str, Any]] = self.value(key, [], _tables)
        return [Table(row, f"{self.at(key)}[{index}]", self._mistakes, self._source) for index, row in enumerate(rows)]

    def close(self, *, also: Iterable[str] = ()) -> None:
        """Note every key that nobody asked for. `also` are known keys which this reader leaves alone."""
        known = self._asked | set(also)
        for key in self._data:
            if key not in known:
                self.wrong(key, "unknown key" + suggestion(key, known))


def scalar(value: object) -> str | int | float | bool:
    """A value that can be put into a URL, a header or JSON. Raises ValueError."""
    if not isinstance(value, str | int | float | bool):
        raise ValueError("expected a text, a number or a boolean")  # noqa: TRY004
    if isinstance(value, int) and value not in _JSON_INTEGERS:
        raise ValueError("expected a number of at most 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text in quotes")  # noqa: TRY004
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")  # noqa: TRY004
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("expected a list of texts")
    return tuple(value)


def _text_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("expected a table of texts")
    return dict(value)


def _table(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a table")  # noqa: TRY004
    return value


def _tables(value: object) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("expected an array of tables")
    return value
