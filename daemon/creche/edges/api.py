"""The API: one table of routes; each handler takes a request and returns a value or raises one of our errors.

Adding a route touches the table, a struct of `core.wire` and the page docs/reference/api.md, which a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from loguru import logger

from creche import __version__
from creche.core import wire, wire_status, wire_webhooks
from creche.core.access import Access
from creche.core.exchange import Request, Response
from creche.core.query import Query, TaskFilter, labels_of, statuses_of
from creche.core.task import Succeeded, Task
from creche.edges.api_dashboard import INDEX, Dashboard
from creche.edges.api_events import MEDIA_TYPE, Events, resumes_at, wants_events
from creche.edges.api_openapi import describe
from creche.edges.api_routes import Route, Routes
from creche.engine.feed import Feed
from creche.engine.journal import Journal
from creche.engine.live import log_about
from creche.engine.outbox import Outbox
from creche.engine.ports import Accepted
from creche.engine.ports import Query as StoreQuery
from creche.engine.supervisor import Supervisor
from creche.errors import (
    CrecheError,
    InvalidRequest,
    KeyConflict,
    StoreUnavailable,
    TaskNotFound,
    UnavailableError,
    UnknownAlgorithm,
    WrongStatus,
)

MAX_WAIT_S = 300.0
"""Longer waits are cut to this; proxies and clients give up earlier anyway, and asking again is cheap."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_BATCH = 10_000
MAX_PAGE = 1000

_HTTP_STATUS: Mapping[type[CrecheError], int] = {
    InvalidRequest: 400,
    UnknownAlgorithm: 422,
    TaskNotFound: 404,
    KeyConflict: 409,
    WrongStatus: 409,
    UnavailableError: 503,
}


class View(Protocol):
    """What the daemon shows of itself."""

    def status(self) -> wire_status.StatusOut: ...

    def algorithms(self) -> list[wire_status.AlgorithmOut]: ...

    def metrics(self) -> bytes: ...


class Api:
    """Serves every route but the stream."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        journal: Journal,
        feed: Feed,
        events: Events,
        outbox: Outbox,
        access: Access,
        view: View,
    ) -> None:
        self._supervisor = supervisor
        self._journal = journal
        self._feed = feed
        self._events = events
        self._outbox = outbox
        self._access = access
        self._view = view
        self._dashboard = Dashboard()
        self._routes = Routes(self._table())

    def _table(self) -> list[Route]:
        task = wire.TaskOut
        tasks_query = ("status", "algorithm", "user", "label", "limit", "after")
        return [
            Route("POST", "/v1/tasks", self._submit, "Submit a task", takes=wire.TaskIn, gives=task, writes=True),
            Route("POST", "/v1/tasks/batch", self._submit_batch, "Submit many, one JSON per line", writes=True),
            Route("GET", "/v1/tasks", self._list, "List tasks, newest first", query=tasks_query, gives=wire.Page),
            Route("GET", "/v1/tasks/{id}", self._show, "One task", query=("wait", "input", "story"), gives=task),
            Route("GET", "/v1/tasks/{id}/result", self._show_result, "The result alone, as the provider gave it"),
            Route("POST", "/v1/tasks/{id}/cancel", self._cancel, "Cancel a task", gives=task, writes=True),
            Route(
                "POST",
                "/v1/tasks/{id}/resolve",
                self._resolve,
                "Decide about an unknown task",
                takes=wire.ResolveIn,
                gives=task,
                writes=True,
            ),
            Route(
                "GET",
                "/v1/results",
                self._results,
                "Outcomes in the order of the feed",
                query=("since", "limit", "wait", *TaskFilter.PARAMETERS),
                gives=wire.Results,
            ),
            Route("GET", "/v1/stream", self._no_upgrade, "The WebSocket stream"),
            Route(
                "GET",
                "/v1/webhooks",
                self._show_webhooks,
                "Messages that are yet to be delivered, or were given up",
                query=("limit",),
                gives=wire_webhooks.Deliveries,
            ),
            Route(
                "POST",
                "/v1/webhooks/retry",
                self._retry_webhooks,
                "Send messages again",
                takes=wire_webhooks.RetryIn,
                gives=wire_webhooks.Retried,
                writes=True,
            ),
            Route(
                "GET", "/v1/algorithms", self._show_algorithms, "What can be submitted", gives=wire_status.Algorithms
            ),
            Route("GET", "/v1/status", self._show_status, "How the daemon is", gives=wire_status.StatusOut),
            Route("GET", "/healthz", self._healthz, "200 while the daemon runs", is_open=True),
            Route(
                "GET",
                "/readyz",
                self._readyz,
                "200 while tasks are accepted and the store can be written",
                is_open=True,
            ),
            Route("GET", "/metrics", self._show_metrics, "For Prometheus"),
            Route("GET", "/openapi.json", self._openapi, "This API, described"),
            Route("GET", "/", self._show_page, "The dashboard, a page for browsers", query=None, is_open=True),
            Route("GET", "/dashboard/{id}", self._show_page, "A part of that page", query=None, is_open=True),
        ]

    def refusal(self, request: Request) -> Response | None:
        """Why a request will not be served, as far as its head tells; None where its body is worth receiving."""
        found = self._find(request)
        return found if isinstance(found, Response) else None

    async def handle(self, request: Request) -> Response:
        """Answer one request; every refusal is an RFC 9457 problem with a stable code."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        route, task_id = found
        try:
            query = Query((), known=())
            if route.query is not None:
                query = Query(request.query, known=(*route.query, "token"))
            return await route.handler(request, query, task_id)
        except CrecheError as exc:
            return _refused(exc)

    def _find(self, request: Request) -> tuple[Route, str] | Response:
        """The route and the id in the path, where the request may have it; else the refusal."""
        found = self._routes.find(request)
        if isinstance(found, Response):
            return found
        return self._access.refusal(request, writes=found[0].writes, is_open=found[0].is_open) or found

    # -- tasks -------------------------------------------------------------------------------------------

    async def _submit(self, request: Request, _: Query, __: str) -> Response:
        accepted = await self._supervisor.submit(wire.decode(request.body, wire.TaskIn))
        if accepted.new:
            task, peer = accepted.task, request.peer
            log_about(task).info("{}: {} accepted from pid {}, uid {}", task.id, task.algorithm, peer.pid, peer.uid)
        headers = (("Location", f"/v1/tasks/{accepted.task.id}"),)
        return _json(self._row(accepted), status=202 if accepted.new else 200, headers=headers)

    async def _submit_batch(self, request: Request, _: Query, __: str) -> Response:
        """Line by line; each line is answered by a task or a problem, in order."""
        lines = [line for line in request.body.split(b"\n") if line.strip()]
        if len(lines) > MAX_BATCH:
            raise InvalidRequest(f"{len(lines)} lines are too many; at most {MAX_BATCH} at once")
        decoded = [_decode_line(line) for line in lines]
        tasks_in = [task_in for task_in in decoded if isinstance(task_in, wire.TaskIn)]
        accepted = await self._supervisor.submit_many(tasks_in)
        new = sum(isinstance(answer, Accepted) and answer.new for answer in accepted)
        peer = request.peer
        logger.info("{} tasks of {} accepted from pid {}, uid {}", new, len(lines), peer.pid, peer.uid)
        answers = iter(accepted)
        rows = (next(answers) if isinstance(line, wire.TaskIn) else line for line in decoded)
        # Ten thousand keys that were seen before would bring ten thousand results, at once and in memory.
        body = b"".join(_line(_without_result(self._row(row))) for row in rows)
        return Response(status=200, body=body, content_type="application/x-ndjson")

    def _row(self, row: Accepted | CrecheError) -> wire.TaskOut | wire.Problem:
        """A new task as it was accepted, one that a key found as it is now."""
        if isinstance(row, Accepted):
            return wire.task_out(row.task) if row.new else self._out(row.task)
        return _problem(row)

    async def _list(self, _: Request, query: Query, __: str) -> Response:
        wanted = StoreQuery(
            statuses=statuses_of(query),
            algorithm=query.text("algorithm"),
            user=query.text("user"),
            labels=labels_of(query),
            limit=query.integer("limit", 100, at_most=MAX_PAGE),
            after=query.text("after"),
        )
        page = await self._journal.read(lambda store: store.list_tasks(wanted))
        after = page.tasks[-1].id if page.more else None
        return _json(wire.Page([self._out(task) for task in page.tasks], after))

    async def _show(self, _: Request, query: Query, task_id: str) -> Response:
        with_input, with_story = query.flag("input"), query.flag("story")
        task = await self._supervisor.wait(task_id, query.seconds("wait", at_most_s=MAX_WAIT_S))
        return _json(self._out(task, with_input=with_input, with_story=with_story))

    async def _show_result(self, _: Request, __: Query, task_id: str) -> Response:
        task = await self._supervisor.get(task_id)
        if not isinstance(task.outcome, Succeeded):
            raise WrongStatus(f"the task is {task.status}; only one that succeeded has a result")
        if task.outcome.file is None:
            return Response(status=200, body=bytes(task.outcome.result))
        body = await self._journal.read(lambda store: store.result_of(task_id))
        if body is None:
            raise StoreUnavailable(f"the file with the result of task {task_id} is gone; restore it from a backup")
        return Response(status=200, body=body)

    async def _cancel(self, _: Request, __: Query, task_id: str) -> Response:
        return _json(self._out(await self._supervisor.cancel(task_id)), status=202)

    async def _resolve(self, request: Request, _: Query, task_id: str) -> Response:
        decision = wire.decode(request.body, wire.ResolveIn)
        return _json(self._out(await self._supervisor.resolve(task_id, decision)))

    def _out(self, task: Task, *, with_input: bool = False, with_story: bool = False) -> wire.TaskOut:
        """Where a child minds the task, its memory is newer than the store."""
        live = self._supervisor.roster.live_task(task.id)
        if live is None or task.ended:
            return wire.task_out(task, with_input=with_input, with_story=with_story)
        return wire.task_out(*live, with_input=with_input, with_story=with_story)

    # -- the feed ----------------------------------------------------------------------------------------

    async def _results(self, request: Request, query: Query, _: str) -> Response:
        if wants_events(request):
            return self._result_events(request, query)
        limit = query.integer("limit", 100, at_most=MAX_PAGE)
        reader = self._feed.reader(query.text("since"), TaskFilter.from_query(query).matches)
        items = await reader.next_within(query.seconds("wait", at_most_s=MAX_WAIT_S), limit)
        results = [wire.task_out(item.task) for item in items]
        return _json(wire.Results(results, reader.cursor, resync=reader.missed() is not None))

    def _result_events(self, request: Request, query: Query) -> Response:
        for name in ("limit", "wait"):
            if query.text(name) is not None:
                raise InvalidRequest(f'query parameter "{name}" is for pages; events come as they happen')
        since = resumes_at(request) or query.text("since")
        parts = self._events.parts(since, TaskFilter.from_query(query))
        return Response(status=200, parts=parts, content_type=MEDIA_TYPE, headers=(("X-Accel-Buffering", "no"),))

    async def _no_upgrade(self, _: Request, __: Query, ___: str) -> Response:
        response = wire.problem_response(
            426, "upgrade_required", "this is a WebSocket; GET /v1/results has the same feed"
        )
        return msgspec.structs.replace(response, headers=(("Upgrade", "websocket"),))

    # -- webhooks ----------------------------------------------------------------------------------------

    async def _show_webhooks(self, _: Request, query: Query, __: str) -> Response:
        limit = query.integer("limit", 100, at_most=MAX_PAGE)
        found, (pending, given_up) = await self._journal.outbox(lambda outbox: (outbox.listed(limit), outbox.count()))
        rows = [wire_webhooks.delivery_out(delivery) for delivery in found]
        return _json(wire_webhooks.Deliveries(rows, pending, given_up))

    async def _retry_webhooks(self, request: Request, _: Query, __: str) -> Response:
        wanted = wire.decode(request.body or b"{}", wire_webhooks.RetryIn)
        return _json(wire_webhooks.Retried(await self._outbox.again(wanted.ids)))

    # -- the daemon --------------------------------------------------------------------------------------

    async def _show_algorithms(self, _: Request, __: Query, ___: str) -> Response:
        return _json(wire_status.Algorithms(self._view.algorithms()))

    async def _show_status(self, _: Request, __: Query, ___: str) -> Response:
        return _json(self._view.status())

    async def _healthz(self, _: Request, __: Query, ___: str) -> Response:
        return Response(status=200, body=b"ok\n", content_type="text/plain; charset=utf-8")

    async def _readyz(self, _: Request, __: Query, ___: str) -> Response:
        if self._supervisor.draining:
            return wire.problem_response(503, "draining", "the daemon is stopping")
        await self._journal.probe()
        return Response(status=200, body=b"ready\n", content_type="text/plain; charset=utf-8")

    async def _show_metrics(self, _: Request, __: Query, ___: str) -> Response:
        return Response(status=200, body=self._view.metrics(), content_type=METRICS_TYPE)

    async def _show_page(self, request: Request, _: Query, name: str) -> Response:
        return self._dashboard.answer(request, name or INDEX)

    async def _openapi(self, _: Request, __: Query, ___: str) -> Response:
        return _json(describe(self._table(), version=__version__))


def _json(value: object, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status=status, body=msgspec.json.encode(value), headers=headers)


def _without_result(row: wire.TaskOut | wire.Problem) -> wire.TaskOut | wire.Problem:
    return msgspec.structs.replace(row, result=None) if isinstance(row, wire.TaskOut) else row


def _line(value: wire.TaskOut | wire.Problem) -> bytes:
    """One line of NDJSON."""
    return msgspec.json.encode(value) + b"\n"


def _status_of(error: CrecheError) -> int:
    return next((status for kind, status in _HTTP_STATUS.items() if isinstance(error, kind)), 400)


def _refused(error: CrecheError) -> Response:
    return wire.problem_response(_status_of(error), error.code, str(error), pointer=getattr(error, "pointer", None))


def _problem(error: CrecheError) -> wire.Problem:
    return wire.problem(_status_of(error), error.code, str(error), pointer=getattr(error, "pointer", None))


def _decode_line(line: bytes) -> wire.TaskIn | CrecheError:
    try:
        return wire.decode(line, wire.TaskIn)
    except InvalidRequest as exc:
        return exc
