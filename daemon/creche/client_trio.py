"""The other end of the Unix socket, for Trio programs: `creche.client.Client` with `await` in front."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import trio

from creche.client import default_socket
from creche.client_http import (
    READ_BYTES,
    ApiError,
    Exchange,
    Json,
    Reply,
    Request,
    Unreachable,
    broken,
    not_connected,
    silent,
)
from creche.client_plan import Done, Emit, Pause, Plan, Plans, advance, filters, task_path

T = TypeVar("T")


class AsyncClient:
    """A client for Trio; all methods promise what those of `creche.client.Client` do. Any number of tasks may share it.

    Every call may be cancelled: its connection closes, and whether the daemon did what was asked for is not known.
    Iterators hold nothing open between items; they may be left at any time.
    """

    def __init__(self, socket_path: Path | str | None = None, *, reconnect_s: float = 60.0) -> None:
        self.socket_path = default_socket() if socket_path is None else Path(socket_path)
        self._plans = Plans(trio.current_time, reconnect_s)

    async def submit(self, algorithm: str, **fields: Any) -> Json:  # noqa: ANN401 - as in Client
        """As `Client.submit`."""
        return await self._run(self._plans.submit({"algorithm": algorithm, **fields}))

    def submit_many(self, tasks: Iterable[Json]) -> AsyncGenerator[Json | ApiError, None]:
        """As `Client.submit_many`."""
        return self._each(self._plans.submit_many(tasks))

    async def get(self, task_id: str, wait_s: float | None = None, *, with_input: bool = False) -> Json:
        """As `Client.get`."""
        return await self._run(self._plans.get(task_id, wait_s, with_input=with_input))

    async def result(self, task_id: str) -> Any:  # noqa: ANN401 - any JSON
        """As `Client.result`."""
        return await self._run(self._plans.ask("GET", task_path(task_id, "result")))

    async def wait(self, task_id: str, timeout_s: float | None = None) -> Json:
        """As `Client.wait`."""
        async for task in self.states(task_id, timeout_s):
            last = task
        return last

    def states(
        self, task_id: str, timeout_s: float | None = None, *, step_s: float = 30.0
    ) -> AsyncGenerator[Json, None]:
        """As `Client.states`."""
        return self._each(self._plans.states(task_id, timeout_s, step_s))

    def tasks(
        self,
        *,
        status: Iterable[str] = (),
        algorithm: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        page_size: int = 100,
    ) -> AsyncGenerator[Json, None]:
        """As `Client.tasks`."""
        query = filters(status=status, algorithm=algorithm, user=user, labels=labels)
        return self._each(self._plans.tasks(query, page_size))

    async def cancel(self, task_id: str) -> Json:
        """As `Client.cancel`."""
        return await self._run(self._plans.ask("POST", task_path(task_id, "cancel")))

    async def resolve(self, task_id: str, action: str, job: str | Json | None = None) -> Json:
        """As `Client.resolve`."""
        body = {"action": action} if job is None else {"action": action, "job": job}
        return await self._run(self._plans.ask("POST", task_path(task_id, "resolve"), body=body))

    async def results(
        self,
        since: str | None = None,
        *,
        algorithm: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        wait_s: float | None = None,
    ) -> Json:
        """As `Client.results`."""
        query = filters(algorithm=algorithm, user=user, labels=labels)
        return await self._run(self._plans.results(query, since, wait_s))

    def follow(
        self,
        since: str | None = None,
        *,
        algorithm: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        step_s: float = 30.0,
    ) -> AsyncGenerator[Json, None]:
        """As `Client.follow`."""
        return self._each(self._plans.follow(filters(algorithm=algorithm, user=user, labels=labels), since, step_s))

    async def algorithms(self) -> list[Json]:
        """As `Client.algorithms`."""
        answer: Json = await self._run(self._plans.ask("GET", "/v1/algorithms"))
        return list(answer["algorithms"])

    async def status(self) -> Json:
        """As `Client.status`."""
        return await self._run(self._plans.ask("GET", "/v1/status"))

    async def webhooks(self, limit: int = 100) -> Json:
        """As `Client.webhooks`."""
        return await self._run(self._plans.ask("GET", "/v1/webhooks", query=(("limit", str(limit)),)))

    async def retry_webhooks(self, ids: Iterable[str] | None = None) -> list[str]:
        """As `Client.retry_webhooks`."""
        body = {} if ids is None else {"ids": list(ids)}
        answer: Json = await self._run(self._plans.ask("POST", "/v1/webhooks/retry", body=body))
        return list(answer["ids"])

    async def _run(self, plan: Plan[T]) -> T:
        step = await self._next(plan)
        assert isinstance(step, Done)  # noqa: S101 - this plan has no items
        value: T = step.value
        return value

    async def _each(self, plan: Plan[None]) -> AsyncGenerator[Any, None]:
        while isinstance(step := await self._next(plan), Emit):
            yield step.item

    async def _next(self, plan: Plan[Any]) -> Emit | Done:
        """Run a plan up to its next item or its end."""
        step = advance(plan, None)
        while not isinstance(step, Emit | Done):
            if isinstance(step, Pause):
                await trio.sleep(step.seconds)
                step = advance(plan, None)
            else:
                step = advance(plan, await self._exchange(step))
        return step

    async def _exchange(self, request: Request) -> Reply | Unreachable:
        with trio.move_on_after(request.limit_s):
            try:
                connection = await trio.open_unix_socket(os.fspath(self.socket_path))
            except OSError as exc:
                return not_connected(self.socket_path, exc)
            async with connection:
                return await _converse(connection, Exchange(request))
        return silent(request)


async def _converse(connection: trio.SocketStream, exchange: Exchange) -> Reply | Unreachable:
    # As in the blocking client: the daemon may have answered and closed without reading it all.
    with suppress(trio.BrokenResourceError):
        await connection.send_all(exchange.sent)
    try:
        while True:
            if reply := exchange.feed(await connection.receive_some(READ_BYTES)):
                return reply
    except trio.BrokenResourceError as exc:
        return broken(exc)
    except Unreachable as exc:
        return exc
