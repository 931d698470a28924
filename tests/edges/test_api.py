"""The API over the real engine and a store in memory, request by request; no sockets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar, cast

import msgspec
import pytest
import trio
import trio.testing

from creche.core.access import Access
from creche.core.exchange import Peer, Request, Response
from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Succeeded, begin_job, settle
from creche.edges.api import Api, View
from creche.edges.api_events import Events
from creche.engine.clock import Clock
from creche.engine.feed import Feed, Updates
from creche.engine.journal import Journal
from creche.engine.live import Algorithm, Tools
from creche.engine.outbox import Outbox
from creche.engine.ports import PAGE_BYTES, Accept, Settle
from creche.engine.pulse import Pulse
from creche.engine.supervisor import Supervisor
from creche.engine.timetable import Timetable
from creche.testing import FakeProvider, MemoryStore, make_task

T = TypeVar("T")

UNIX = Peer(address="socket", local=True)
TCP = Peer(address="127.0.0.1:1", local=False)
PRETTY = b'{\n  "a": 1.50,\n  "b": [\n    "x\\ny"\n  ]\n}'


async def in_place(function: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return function()


class Served:
    """An API, asked without a front. Its one algorithm answers with a result over many lines."""

    def __init__(self, store: MemoryStore, access: Access) -> None:
        self.store = store
        self.journal = Journal(store, run_write=in_place, run_read=in_place)
        self.feed = Feed(self.journal, identity="id", floor=0, head=store.feed_bounds()[1])
        self.tools = Tools(
            journal=self.journal,
            pulse=Pulse(None, wall=trio.current_time),
            timetable=Timetable(),
            updates=Updates(),
            clock=Clock(wall=trio.current_time, uptime=trio.current_time),
        )
        done = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(PRETTY))
        algorithm = Algorithm(name="draw", provider=FakeProvider(poll=[done]), rhythm=Rhythm())
        self.supervisor = Supervisor(self.tools, self.feed, {"draw": algorithm}, max_tasks=100)
        self.api = Api(
            supervisor=self.supervisor,
            journal=self.journal,
            feed=self.feed,
            events=Events(self.feed, node="n"),
            outbox=cast("Outbox", None),
            access=access,
            view=cast("View", None),
        )

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.journal.run)
            nursery.start_soon(self.tools.timetable.run)
            await nursery.start(self.supervisor.run)
            task_status.started()

    async def submit_lines(self, lines: bytes) -> Response:
        """The answer to a batch."""
        return await self.api.handle(request("POST", "/v1/tasks/batch", lines))

    async def get(self, path: str, *query: tuple[str, str]) -> Response:
        """The answer to a GET over the Unix socket."""
        return await self.api.handle(request("GET", path, query=query))

    async def page(self, path: str, **query: str) -> Any:  # noqa: ANN401 - any JSON
        """The body of the answer to a GET."""
        return json.loads((await self.get(path, *query.items())).body)


def request(
    method: str, path: str, body: bytes = b"", query: tuple[tuple[str, str], ...] = (), peer: Peer = UNIX
) -> Request:
    return Request(method=method, path=path, query=query, headers={}, body=body, peer=peer)


def filled(*sizes_bytes: int, max_inline: int = 2 * PAGE_BYTES) -> MemoryStore:
    """A store with settled tasks `t1`, `t2`, … whose results are so large."""
    store = MemoryStore(max_inline=max_inline)
    for number, size_bytes in enumerate(sizes_bytes, 1):
        task = make_task(f"t{number}")
        result = Succeeded(msgspec.Raw(b'"%s"' % (b"x" * size_bytes)))
        store.commit([Accept(task), Settle(settle(begin_job(task, Job("j"), 2.0), result, 3.0))])
    return store


@pytest.fixture
async def served(nursery: trio.Nursery, autojump_clock: object) -> AsyncIterator[Served]:
    """An API with an empty store, its engine running."""
    served = Served(MemoryStore(), Access())
    await nursery.start(served.run)
    yield served
    nursery.cancel_scope.cancel()


def problem(response: Response) -> tuple[int, str]:
    assert response.content_type == "application/problem+json"
    return response.status, json.loads(response.body)["code"]


async def test_every_answer_of_a_batch_is_one_line(served: Served, autojump_clock: object) -> None:
    """Also of a task that a key finds again; its result, which may be large and over many lines, stays out."""
    line = b'{"algorithm": "draw", "input": {}, "id": "t", "key": "k"}\n'
    assert (await served.submit_lines(line)).status == 200
    await served.supervisor.wait("t", 100)
    answer = await served.submit_lines(line * 2 + b"[]\n")
    lines = answer.body.splitlines()
    assert [json.loads(row)["status"] for row in lines] == ["succeeded", "succeeded", 400]
    assert b"result" not in answer.body


async def test_results_come_in_pages_that_fit_in_memory() -> None:
    """However many are asked for: the cursor asks for the rest, and nothing is missed."""
    served = Served(filled(PAGE_BYTES, 1, PAGE_BYTES, 1), Access())
    pages = [await served.page("/v1/results", since="oldest", limit="1000")]
    while pages[-1]["results"]:
        pages.append(await served.page("/v1/results", since=pages[-1]["cursor"], limit="1000"))
    assert [[task["id"] for task in page["results"]] for page in pages] == [["t1"], ["t2", "t3"], ["t4"], []]
    assert not any(page["resync"] for page in pages)


async def test_tasks_come_in_pages_that_fit_in_memory() -> None:
    """A page may be shorter than asked for, and only the last one has no `after`."""
    served = Served(filled(PAGE_BYTES, 1, PAGE_BYTES, 1), Access())
    pages = [await served.page("/v1/tasks", limit="1000")]
    while pages[-1]["after"] is not None:
        pages.append(await served.page("/v1/tasks", limit="1000", after=pages[-1]["after"]))
    assert [[task["id"] for task in page["tasks"]] for page in pages] == [["t4", "t3"], ["t2", "t1"]]


async def test_a_cursor_that_is_ahead_asks_for_a_resync() -> None:
    """A backup was put back: what comes under the numbers that were given out before is other outcomes."""
    served = Served(filled(1, 1), Access())
    page = await served.page("/v1/results", since="id-3")
    assert (len(page["results"]), page["resync"]) == (2, True)


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/results"])
async def test_more_labels_than_a_task_can_have_are_refused(path: str) -> None:
    """As the client's mistake; as many as it can have are fine."""
    served = Served(MemoryStore(), Access())
    labels = [("label", f"n{number}:v") for number in range(33)]
    assert problem(await served.get(path, *labels)) == (400, "invalid_request")
    assert (await served.get(path, *labels[:32])).status == 200


@pytest.mark.parametrize(
    ("method", "path", "peer", "expected"),
    [
        ("POST", "/v1/tasks", UNIX, None),
        ("POST", "/v1/tasks", TCP, (403, "read_only")),
        ("POST", "/v1/tasks/t/cancel", TCP, (403, "read_only")),
        ("GET", "/v1/tasks", TCP, None),
        ("PUT", "/v1/tasks", UNIX, (405, "method_not_allowed")),
        ("POST", "/v2/tasks", UNIX, (404, "no_such_route")),
    ],
)
async def test_the_head_tells_what_is_refused(
    method: str, path: str, peer: Peer, expected: tuple[int, str] | None
) -> None:
    """The same as `handle` says, before a body is received."""
    served = Served(MemoryStore(), Access())
    asked = request(method, path, peer=peer)
    refusal = served.api.refusal(asked)
    assert (None if refusal is None else problem(refusal)) == expected
    if refusal is not None:
        assert await served.api.handle(asked) == refusal


async def test_over_tcp_a_token_is_asked_for_before_the_body() -> None:
    """Where one is configured."""
    served = Served(MemoryStore(), Access(token="t", allow_writes=True))
    refusal = served.api.refusal(request("POST", "/v1/tasks", peer=TCP))
    assert refusal is not None
    assert problem(refusal) == (401, "unauthorized")


async def test_a_story_is_told_when_it_is_asked_for(served: Served) -> None:
    """From the acceptance to the end; lists and plain answers are without."""
    await served.submit_lines(b'{"algorithm": "draw", "input": 1, "id": "t"}')
    task = await served.page("/v1/tasks/t", wait="60s", story="1")
    assert [moment["status"] for moment in task["story"]] == ["accepted", "creating", "waiting", "succeeded"]
    assert [moment["at"] for moment in task["story"]] == sorted(moment["at"] for moment in task["story"])
    assert "story" not in await served.page("/v1/tasks/t")


# -- events --------------------------------------------------------------------------------------------


async def events_of(served: Served, *query: tuple[str, str], **headers: str) -> Response:
    asked = msgspec.structs.replace(
        request("GET", "/v1/results", query=query), headers={"accept": "text/event-stream", **headers}
    )
    return await served.api.handle(asked)


async def first_cursor(response: Response) -> str:
    assert (response.status, response.content_type) == (200, "text/event-stream")
    assert response.parts is not None
    hello = await anext(response.parts)
    await response.parts.aclose()
    [cursor] = re.findall(r"^id: (.+)$", hello.decode(), re.MULTILINE)
    return str(cursor)


async def test_the_feed_as_events() -> None:
    """Where a browser was counts more than where it first began."""
    served = Served(filled(1, 1, 1), Access())
    assert await first_cursor(await events_of(served)) == "id-3"
    assert await first_cursor(await events_of(served, ("since", "id-1"))) == "id-1"
    assert await first_cursor(await events_of(served, ("since", "id-1"), **{"last-event-id": "id-2"})) == "id-2"


@pytest.mark.parametrize("name", ["limit", "wait"])
async def test_events_have_no_pages(name: str) -> None:
    """What is for pages is refused."""
    assert problem(await events_of(Served(filled(1), Access()), (name, "1"))) == (400, "invalid_request")


# -- results alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [10, 300])
async def test_a_result_alone(nursery: trio.Nursery, autojump_clock: object, size_bytes: int) -> None:
    """Byte for byte, wherever it is kept; the task shows it, or says how large it is and what it hashes to."""
    served = Served(filled(size_bytes, max_inline=100), Access())
    result = b'"%s"' % (b"x" * size_bytes)
    response = await served.get("/v1/tasks/t1/result")
    assert (response.status, response.body, response.content_type) == (200, result, "application/json")
    shown = await served.page("/v1/tasks/t1")
    file = {"bytes": len(result), "sha256": hashlib.sha256(result).hexdigest()}
    if size_bytes == 10:
        assert ("result_file" in shown, shown["result"]) == (False, "x" * 10)
    else:
        assert ("result" in shown, shown["result_file"]) == (False, file)


async def test_no_result(served: Served, autojump_clock: object) -> None:
    """Of a task that is not there, has not succeeded, or whose file was removed."""
    served.store.commit([Accept(make_task("t1"))])
    assert problem(await served.get("/v1/tasks/nobody/result")) == (404, "task_not_found")
    assert problem(await served.get("/v1/tasks/t1/result")) == (409, "wrong_status")
    lost = Served(filled(300, max_inline=100), Access())
    lost.store.files.clear()
    assert problem(await lost.get("/v1/tasks/t1/result")) == (503, "store_unavailable")
