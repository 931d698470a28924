"""Query parameters of the API, read strictly: an unknown or unreadable one is an error that says what is expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import msgspec

from creche.core.document import parse_duration, suggestion
from creche.core.task import ENDS, Status, Task
from creche.core.wire import MAX_LABELS
from creche.errors import InvalidRequest


class Query:
    """The parameters of one request. `known` are those that the route understands."""

    def __init__(self, pairs: Iterable[tuple[str, str]], *, known: Iterable[str]) -> None:
        self._values: dict[str, list[str]] = {}
        known = tuple(known)
        for name, value in pairs:
            if name not in known:
                raise InvalidRequest(f'unknown query parameter "{name}"{suggestion(name, known)}')
            self._values.setdefault(name, []).append(value)

    def texts(self, name: str) -> list[str]:
        """All values of a parameter that may be repeated."""
        return self._values.get(name, [])

    def text(self, name: str) -> str | None:
        """The value of a parameter that may be given once."""
        values = self.texts(name)
        if len(values) > 1:
            raise InvalidRequest(f'query parameter "{name}" is given {len(values)} times')
        return values[0] if values and values[0] else None

    def flag(self, name: str) -> bool:
        """`1`, `true` or `yes`; `0`, `false`, `no` or absent."""
        value = (self.text(name) or "no").lower()
        if value not in {"1", "true", "yes", "0", "false", "no"}:
            raise InvalidRequest(f'query parameter "{name}": expected 1 or 0, got "{value}"')
        return value in {"1", "true", "yes"}

    def integer(self, name: str, default: int, *, at_most: int) -> int:
        """A whole number from 1 to `at_most`."""
        value = self.text(name)
        if value is None:
            return default
        if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= at_most:  # noqa: PLR2004
            raise InvalidRequest(f'query parameter "{name}": expected 1 to {at_most}, got "{value[:40]}"')
        return int(value)

    def seconds(self, name: str, *, at_most_s: float) -> float:
        """A duration such as "30s", or a number of seconds; 0 when absent. Longer ones are shortened to `at_most_s`."""
        value = self.text(name)
        if value is None:
            return 0.0
        try:
            return min(float(value) if value.isdecimal() else parse_duration(value), at_most_s)
        except ValueError as exc:
            raise InvalidRequest(f'query parameter "{name}": {exc}, got "{value[:40]}"') from exc


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks a listener or a list is about; of each kind, any of the values, or all tasks when there is none."""

    PARAMETERS: ClassVar = ("algorithm", "user", "label", "task")

    algorithms: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    labels: Mapping[str, str] = {}
    tasks: frozenset[str] = frozenset()

    @classmethod
    def from_query(cls, query: Query) -> TaskFilter:
        """From `algorithm`, `user`, `label=NAME:VALUE`, `task`, each of which may be repeated."""
        return cls(
            algorithms=frozenset(query.texts("algorithm")),
            users=frozenset(query.texts("user")),
            labels=labels_of(query),
            tasks=frozenset(query.texts("task")),
        )

    def __hash__(self) -> int:
        return hash((self.algorithms, self.users, frozenset(self.labels.items()), self.tasks))

    def matches(self, task: Task) -> bool:
        """Whether the filter lets a task through. All labels must match."""
        return (
            (not self.algorithms or task.algorithm in self.algorithms)
            and (not self.users or task.user in self.users)
            and (not self.tasks or task.id in self.tasks)
            and all(task.labels.get(name) == value for name, value in self.labels.items())
        )


def labels_of(query: Query) -> dict[str, str]:
    """The `label=NAME:VALUE` parameters, no more than a task can have."""
    pairs = query.texts("label")
    if len(pairs) > MAX_LABELS:
        raise InvalidRequest(f'query parameter "label" is given {len(pairs)} times; at most {MAX_LABELS} are allowed')
    labels = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon:
            raise InvalidRequest(f'query parameter "label": expected NAME:VALUE, got "{pair[:40]}"')
        labels[name] = value
    return labels


def statuses_of(query: Query) -> frozenset[Status]:
    """The `status` parameters; `unfinished` stands for every status that is no end."""
    statuses: set[Status] = set()
    for word in (word for value in query.texts("status") for word in value.split(",")):
        if word == "unfinished":
            statuses |= set(Status) - ENDS
        elif word in set(Status):
            statuses.add(Status(word))
        else:
            raise InvalidRequest(f'query parameter "status": unknown "{word[:40]}"{suggestion(word, Status)}')
    return frozenset(statuses)
