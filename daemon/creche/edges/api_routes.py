"""The table of routes: which handler serves a method and a path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

from creche.core.exchange import Request, Response
from creche.core.query import Query
from creche.core.wire import problem_response

Handler = Callable[[Request, Query, str], Awaitable[Response]]


class Route(msgspec.Struct, frozen=True):
    """One row. `path` may hold `{id}`; `takes` and `gives` are the structs of the bodies, where they are JSON. What
    `is_open` needs no token. `query` None: whatever comes is for the page that is answered.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    query: tuple[str, ...] | None = ()
    takes: type | None = None
    gives: type | None = None
    writes: bool = False
    is_open: bool = False


class Routes:
    """Finds routes by method and path."""

    def __init__(self, table: Sequence[Route]) -> None:
        self._plain: dict[str, dict[str, Route]] = {}
        self._with_id: dict[tuple[str, str], dict[str, Route]] = {}
        for route in table:
            before, braces, after = route.path.partition("{id}")
            rows = self._with_id.setdefault((before, after), {}) if braces else self._plain.setdefault(before, {})
            rows[route.method] = route

    def find(self, request: Request) -> tuple[Route, str] | Response:
        """The route and the id in the path, or a 404 or 405."""
        method = "GET" if request.method == "HEAD" else request.method
        allowed: set[str] = set()
        for rows, task_id in self._rows(request.path):
            if method in rows:
                return rows[method], task_id
            allowed |= rows.keys()
        if not allowed:
            return problem_response(404, "no_such_route", "nothing is at this path; /openapi.json lists what is")
        response = problem_response(405, "method_not_allowed", f"expected {', '.join(sorted(allowed))}")
        return msgspec.structs.replace(response, headers=(("Allow", ", ".join(sorted(allowed))),))

    def _rows(self, path: str) -> Iterator[tuple[dict[str, Route], str]]:
        """Every row that the path fits: a task may be called like a part of another path."""
        if path in self._plain:
            yield self._plain[path], ""
        for (before, after), rows in self._with_id.items():
            task_id = path[len(before) : len(path) - len(after)]
            if path == before + task_id + after and task_id and "/" not in task_id:
                yield rows, task_id
