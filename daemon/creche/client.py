"""The other end of the Unix socket, for programs and for the command line; nothing but the standard library.

    client = Client()
    task = client.submit("flux", input={"prompt": "a heron"}, user="u17")
    print(client.wait(task["id"])["result"])

Tasks, pages and results are dicts as the API gives them (docs/reference/api.md). `creche.client_trio.AsyncClient`
has the same methods for Trio. Errors: `Unreachable` (no answer), `ApiError` (refused), `TooSlow` (the time ran out).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from creche.client_http import (
    READ_BYTES,
    ApiError,
    ClientError,
    Exchange,
    Json,
    Reply,
    Request,
    TooSlow,
    Unreachable,
    broken,
    not_connected,
    silent,
)
from creche.client_plan import AT_REST, Done, Emit, Pause, Plan, Plans, advance, filters, task_path

__all__ = ["AT_REST", "ApiError", "Client", "ClientError", "Json", "TooSlow", "Unreachable", "default_socket"]

T = TypeVar("T")

_SYSTEM_SOCKET = "/run/creche/creche.sock"


def default_socket(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the daemon listens unless told otherwise: CRECHE_SOCKET, else the user's own, else the system's daemon."""
    if named := environ.get("CRECHE_SOCKET"):
        return Path(named)
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        own = Path(runtime) / "creche" / "creche.sock"
        # Path.exists raises where the folder may not be entered; this one says no.
        if os.path.exists(own):  # noqa: PTH110
            return own
    return Path(_SYSTEM_SOCKET)


class Client:
    """A client that blocks. It holds no connection between calls; threads may share it.

    A call fails with `Unreachable` at once when no daemon is there at first. A daemon that goes away in the middle of
    a call that can be repeated safely (a restart) is waited for, up to `reconnect_s` seconds.
    """

    def __init__(self, socket_path: Path | str | None = None, *, reconnect_s: float = 60.0) -> None:
        self.socket_path = default_socket() if socket_path is None else Path(socket_path)
        self._plans = Plans(time.monotonic, reconnect_s)

    def submit(self, algorithm: str, **fields: Any) -> Json:  # noqa: ANN401 - the fields of a task, checked by the daemon
        """Submit one task and return it; it is durable then.

        `fields`: `input` (the job's content) or `job` (one that exists, as in `resolve`), and where wanted `id`, `key`,
        `user`, `labels`, `deadline`, `start_at`, `traceparent`, `priority`, `callback`. Without a `key` a random one is
        given, so that an answer that gets lost leads to a repetition, never to a second task.
        """
        return self._run(self._plans.submit({"algorithm": algorithm, **fields}))

    def submit_many(self, tasks: Iterable[Json]) -> Iterator[Json | ApiError]:
        """Submit tasks (dicts of the fields of `submit`, with `algorithm`) in batches; one answer each, in order.

        A refusal is a value here: it concerns one task. Tasks are taken from the iterable a batch ahead of the answers.
        """
        return self._each(self._plans.submit_many(tasks))

    def get(self, task_id: str, wait_s: float | None = None, *, with_input: bool = False) -> Json:
        """One task as it stands; with `wait_s`, as soon as it is at rest, or after that time."""
        return self._run(self._plans.get(task_id, wait_s, with_input=with_input))

    def result(self, task_id: str) -> Any:  # noqa: ANN401 - any JSON
        """The result of a task that succeeded, also where the task itself has only its `result_file`."""
        return self._run(self._plans.ask("GET", task_path(task_id, "result")))

    def wait(self, task_id: str, timeout_s: float | None = None) -> Json:
        """Wait until the task is at rest (`AT_REST`) and return it. Raises `TooSlow` after `timeout_s`."""
        *_, task = self.states(task_id, timeout_s)
        return task

    def states(self, task_id: str, timeout_s: float | None = None, *, step_s: float = 30.0) -> Iterator[Json]:
        """The task as it stands, at least every `step_s`; the last one is at rest. Raises `TooSlow` as `wait` does."""
        return self._each(self._plans.states(task_id, timeout_s, step_s))

    def tasks(
        self,
        *,
        status: Iterable[str] = (),
        algorithm: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        page_size: int = 100,
    ) -> Iterator[Json]:
        """Tasks, newest first, page by page as they are taken; those that match everything that is given."""
        query = filters(status=status, algorithm=algorithm, user=user, labels=labels)
        return self._each(self._plans.tasks(query, page_size))

    def cancel(self, task_id: str) -> Json:
        """Ask for a task to be cancelled; durable. The task tells later whether its job agreed."""
        return self._run(self._plans.ask("POST", task_path(task_id, "cancel")))

    def resolve(self, task_id: str, action: str, job: str | Json | None = None) -> Json:
        """Decide about an unknown task: `attach` (the `job` exists), `create` (anew), `drop`.

        `job` is the job's id, or `{"id": …, "keep": {…}}` where the recipe keeps values of the create's answer.
        """
        body = {"action": action} if job is None else {"action": action, "job": job}
        return self._run(self._plans.ask("POST", task_path(task_id, "resolve"), body=body))

    def results(
        self,
        since: str | None = None,
        *,
        algorithm: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        wait_s: float | None = None,
    ) -> Json:
        """Some outcomes behind the cursor `since` (None: from now on): `{"results": […], "cursor": …, "resync": …}`.

        With `wait_s` an answer without results waits for some, that long. The cursor asks for what follows.
        """
        return self._run(self._plans.results(filters(algorithm=algorithm, user=user, labels=labels), since, wait_s))

    def follow(
        self,
        since: str | None = None,
        *,
        algorithm: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        step_s: float = 30.0,
    ) -> Iterator[Json]:
        """Outcomes as they happen, without end: what `results` gives, when there is something or `step_s` have passed.

        The first comes at once, perhaps empty. The newest `cursor` resumes behind everything that was handed out.
        """
        return self._each(self._plans.follow(filters(algorithm=algorithm, user=user, labels=labels), since, step_s))

    def algorithms(self) -> list[Json]:
        """What can be submitted to, with limits, load and condition."""
        answer: Json = self._run(self._plans.ask("GET", "/v1/algorithms"))
        return list(answer["algorithms"])

    def status(self) -> Json:
        """How the daemon is."""
        return self._run(self._plans.ask("GET", "/v1/status"))

    def webhooks(self, limit: int = 100) -> Json:
        """Messages that were given up or are pending: `{"deliveries": […], "pending": …, "given_up": …}`."""
        return self._run(self._plans.ask("GET", "/v1/webhooks", query=(("limit", str(limit)),)))

    def retry_webhooks(self, ids: Iterable[str] | None = None) -> list[str]:
        """Have messages sent again, without `ids` all that were given up; the ids of those that are there."""
        body = {} if ids is None else {"ids": list(ids)}
        answer: Json = self._run(self._plans.ask("POST", "/v1/webhooks/retry", body=body))
        return list(answer["ids"])

    def _run(self, plan: Plan[T]) -> T:
        step = self._next(plan)
        assert isinstance(step, Done)  # noqa: S101 - this plan has no items
        value: T = step.value
        return value

    def _each(self, plan: Plan[None]) -> Iterator[Any]:
        while isinstance(step := self._next(plan), Emit):
            yield step.item

    def _next(self, plan: Plan[Any]) -> Emit | Done:
        """Run a plan up to its next item or its end."""
        step = advance(plan, None)
        while not isinstance(step, Emit | Done):
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                step = advance(plan, None)
            else:
                step = advance(plan, self._exchange(step))
        return step

    def _exchange(self, request: Request) -> Reply | Unreachable:
        exchange = Exchange(request)
        end_at = time.monotonic() + request.limit_s
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(request.limit_s)
            try:
                connection.connect(os.fspath(self.socket_path))
            except OSError as exc:
                return not_connected(self.socket_path, exc)
            try:
                _send(connection, exchange.sent)
                while (left_s := end_at - time.monotonic()) > 0:
                    connection.settimeout(left_s)
                    if reply := exchange.feed(connection.recv(READ_BYTES)):
                        return reply
            except TimeoutError:
                return silent(request)
            except OSError as exc:
                return broken(exc)
            except Unreachable as exc:
                return exc
        return silent(request)


def _send(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        # A daemon that refuses a body by its length answers and closes without reading it: its answer is there to read.
        return
