"""What a client says to the daemon and what it makes of the answers: no socket, no clock, no waiting.

A plan is a generator. It yields a `Request` and gets the `Reply` back, or an `Unreachable` raised at that place; it
yields `Pause` to let time pass and `Emit` to hand out an item; what it returns is the value of the call.
`client.Client` runs plans over a blocking socket, `client_trio.AsyncClient` in Trio: whatever repeats, pages or gives
up stands here, once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from creche.client_http import ANSWER_S, ApiError, ClientError, Json, Reply, Request, TooSlow, Unreachable, foreign

T = TypeVar("T")

Query = Iterable[tuple[str, str]]

AT_REST = frozenset({"succeeded", "failed", "cancelled", "timed_out", "server_failed", "unknown"})
"""The statuses in which nothing more happens by itself."""

BATCH_TASKS = 1000
BATCH_BYTES = 1 << 20
"""A batch ends at whichever comes first. A task that is larger travels alone."""

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True)
class Pause:
    """Let `seconds` pass."""

    seconds: float


@dataclass(frozen=True)
class Emit:
    """Hand out one item of a plan that has many."""

    item: Any


@dataclass(frozen=True)
class Done:
    """The plan is over; `value` is what it returned."""

    value: Any


Step = Request | Pause | Emit
Plan = Generator[Step, Reply | None, T]


def advance(plan: Plan[Any], answer: Reply | Unreachable | None) -> Step | Done:
    """Answer a plan's last step and get its next one."""
    try:
        return plan.throw(answer) if isinstance(answer, Unreachable) else plan.send(answer)
    except StopIteration as stop:
        return Done(stop.value)


class Plans:
    """All calls of the API as plans. `reconnect_s` bounds how long a daemon may be away in the middle of a call."""

    def __init__(self, clock: Callable[[], float], reconnect_s: float) -> None:
        self._clock = clock
        self._reconnect_s = reconnect_s

    def ask(self, method: str, path: str, query: Query = (), body: Json | None = None) -> Plan[Any]:
        """One exchange, never repeated."""
        return self._once(Request(method, path, tuple(query), b"" if body is None else encode(body)))

    def submit(self, task: Json) -> Plan[Json]:
        request = Request("POST", "/v1/tasks", body=encode(_with_key(task)))
        task_out: Json = yield from self._repeat(request)
        return task_out

    def submit_many(self, tasks: Iterable[Json]) -> Plan[None]:
        for body in _batches(encode(_with_key(task)) for task in tasks):
            request = Request("POST", "/v1/tasks/batch", body=body, content_type="application/x-ndjson")
            for line in (yield from self._repeat(request, decode=_decode_lines)):
                yield Emit(ApiError(line) if isinstance(line["status"], int) else line)

    def get(self, task_id: str, wait_s: float | None, *, with_input: bool) -> Plan[Json]:
        return self._once(_get(task_id, wait_s, with_input=with_input))

    def states(self, task_id: str, timeout_s: float | None, step_s: float) -> Plan[None]:
        end_at = None if timeout_s is None else self._clock() + timeout_s
        met = False
        while True:
            wait_s = step_s if end_at is None else min(step_s, end_at - self._clock())
            task = yield from self._repeat(_get(task_id, wait_s), met=met, until=end_at)
            yield Emit(task)
            if task["status"] in AT_REST:
                return
            if end_at is not None and self._clock() >= end_at:
                raise TooSlow(task)
            met = True

    def tasks(self, query: Query, page_size: int) -> Plan[None]:
        fixed = [*query, ("limit", str(page_size))]
        after: str | None = None
        while True:
            page = yield from self.ask("GET", "/v1/tasks", [*fixed, ("after", after)] if after else fixed)
            for task in page["tasks"]:
                yield Emit(task)
            after = page["after"]
            if after is None:
                return

    def results(self, query: Query, since: str | None, wait_s: float | None) -> Plan[Json]:
        return self._once(_results(query, since, wait_s))

    def follow(self, query: Query, since: str | None, step_s: float) -> Plan[None]:
        # The first request does not wait: from here on there is a cursor, and nothing is missed whatever breaks.
        page = yield from self._repeat(_results(query, since, None))
        while True:
            yield Emit(page)
            page = yield from self._repeat(_results(query, page["cursor"], step_s), met=True)

    def _once(self, request: Request, decode: Callable[[bytes], Any] = json.loads) -> Plan[Any]:
        reply = yield request
        assert reply is not None  # noqa: S101 - a request is answered with a reply
        if reply.status >= 400:  # noqa: PLR2004
            raise _refusal(reply)
        try:
            return decode(reply.body)
        except ValueError as exc:
            raise foreign() from exc

    def _repeat(
        self,
        request: Request,
        *,
        met: bool = False,
        until: float | None = None,
        decode: Callable[[bytes], Any] = json.loads,
    ) -> Plan[Any]:
        """An exchange that may safely be repeated while the daemon is away: at most `reconnect_s`, not beyond `until`.

        A daemon that was never `met` is not waited for: more likely the path is wrong, or it was not started.
        """
        give_up_at: float | None = None
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return (yield from self._once(request, decode))
            except ClientError as exc:
                now = self._clock()
                met = met or (isinstance(exc, Unreachable) and exc.there)
                if give_up_at is None:
                    give_up_at = now + self._reconnect_s if until is None else min(now + self._reconnect_s, until)
                if not (met and exc.passing) or now + pause_s > give_up_at:
                    raise
            yield Pause(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def task_path(task_id: str, action: str = "") -> str:
    """The path of a task, or of something to do with it."""
    return f"/v1/tasks/{quote(task_id, safe='')}" + (f"/{action}" if action else "")


def filters(
    *,
    status: Iterable[str] = (),
    algorithm: str | None = None,
    user: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> list[tuple[str, str]]:
    """The query parameters that narrow a list of tasks."""
    query = [("status", word) for word in status]
    query += [(name, value) for name, value in (("algorithm", algorithm), ("user", user)) if value is not None]
    return query + [("label", f"{name}:{value}") for name, value in (labels or {}).items()]


def _get(task_id: str, wait_s: float | None, *, with_input: bool = False) -> Request:
    query = (("input", "1"),) if with_input else ()
    return _waiting(task_path(task_id), query, wait_s)


def _results(query: Query, since: str | None, wait_s: float | None) -> Request:
    return _waiting("/v1/results", query if since is None else [*query, ("since", since)], wait_s)


def _waiting(path: str, query: Query, wait_s: float | None) -> Request:
    if wait_s is None or wait_s <= 0:
        return Request("GET", path, tuple(query))
    return Request("GET", path, (*query, ("wait", f"{max(wait_s, 0.001):.3f}s")), limit_s=wait_s + ANSWER_S)


def encode(value: Json) -> bytes:
    """JSON on one line. Raises ValueError for NaN and infinities, TypeError for what JSON does not know."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def _with_key(task: Json) -> Json:
    # With a key, a submit whose answer was lost can be repeated: the daemon gives the first task again.
    return task if task.get("key") is not None else {**task, "key": os.urandom(16).hex()}


def _batches(lines: Iterable[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size_bytes = 0
    for line in lines:
        if batch and (len(batch) == BATCH_TASKS or size_bytes + len(line) > BATCH_BYTES):
            yield b"\n".join(batch) + b"\n"
            batch, size_bytes = [], 0
        batch.append(line)
        size_bytes += len(line) + 1
    if batch:
        yield b"\n".join(batch) + b"\n"


def _decode_lines(body: bytes) -> list[Json]:
    return [json.loads(line) for line in body.splitlines() if line]


def _refusal(reply: Reply) -> ApiError:
    try:
        problem = json.loads(reply.body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"code": "error", "detail": reply.body[:200].decode("utf-8", "replace")}
    return ApiError({**problem, "status": reply.status})
