"""The client: one suite for the blocking and the Trio one, and what holds for their plans."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import trio

from creche.client import ApiError, Client, TooSlow, Unreachable, default_socket
from creche.client_http import Request, not_connected
from creche.client_trio import AsyncClient

if TYPE_CHECKING:
    from tests.cli.conftest import FakeDaemon, Got

ACCEPTED = {"id": "t1", "algorithm": "flux", "status": "accepted", "accepted_at": "2026-11-23T10:00:00Z"}
PROCESSING = {**ACCEPTED, "status": "processing"}
SUCCEEDED = {**ACCEPTED, "status": "succeeded", "result": {"url": "u"}, "settled_at": "2026-11-23T10:01:00Z"}
BUSY = (503, {"status": 503, "code": "draining", "detail": "stopping"})


class Speaker(Protocol):
    """Either client: `call` for one value, `take` for the first n items of an iterator."""

    def call(self, name: str, *args: object, **fields: object) -> Any: ...  # noqa: ANN401 - whatever the method gives
    def take(self, n: int, name: str, *args: object, **fields: object) -> list[Any]: ...


class Blocking:
    def __init__(self, path: Path) -> None:
        self.client = Client(path, reconnect_s=2.0)

    def call(self, name: str, *args: object, **fields: object) -> object:
        return getattr(self.client, name)(*args, **fields)

    def take(self, n: int, name: str, *args: object, **fields: object) -> list[Any]:
        return list(islice(self.call(name, *args, **fields), n))  # type: ignore[call-overload]


class InTrio:
    def __init__(self, path: Path) -> None:
        self.client = AsyncClient(path, reconnect_s=2.0)

    def call(self, name: str, *args: object, **fields: object) -> object:
        async def run() -> object:
            with trio.fail_after(10):
                return await getattr(self.client, name)(*args, **fields)

        return trio.run(run)

    def take(self, n: int, name: str, *args: object, **fields: object) -> list[Any]:
        async def run() -> list[Any]:
            items: list[Any] = []
            with trio.fail_after(10):
                iterator = getattr(self.client, name)(*args, **fields)
                while len(items) < n:
                    try:
                        items.append(await anext(iterator))
                    except StopAsyncIteration:
                        break
                await iterator.aclose()
            return items

        return trio.run(run)


SPEAKERS: list[Callable[[Path], Speaker]] = [Blocking, InTrio]


@pytest.fixture(params=SPEAKERS, ids=["blocking", "trio"])
def client(request: pytest.FixtureRequest, daemon: FakeDaemon) -> Speaker:
    speaker: Speaker = request.param(daemon.path)
    return speaker


def test_submit_sends_the_fields_and_a_key(client: Speaker, daemon: FakeDaemon) -> None:
    """A submit carries the algorithm, the fields as they are, and a key of its own when none is given."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    assert client.call("submit", "flux", input={"prompt": "é"}, labels={"a": "b"}) == ACCEPTED
    (request,) = daemon.requests
    task = request.json
    assert len(task.pop("key")) == 32
    assert task == {"algorithm": "flux", "input": {"prompt": "é"}, "labels": {"a": "b"}}


def test_every_submit_has_another_key(client: Speaker, daemon: FakeDaemon) -> None:
    """Two submits without a key are two tasks."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    client.call("submit", "flux", input=1)
    client.call("submit", "flux", input=1)
    assert len({request.json["key"] for request in daemon.requests}) == 2


def test_a_lost_answer_repeats_the_same_submit(client: Speaker, daemon: FakeDaemon) -> None:
    """A submit whose answer is lost is sent again with the same key, so that it makes no second task."""
    daemon.on("POST", "/v1/tasks", "lose", BUSY, (200, ACCEPTED))
    assert client.call("submit", "flux", input=1) == ACCEPTED
    assert len(daemon.requests) == 3
    assert len({request.body for request in daemon.requests}) == 1


def test_a_given_key_is_kept(client: Speaker, daemon: FakeDaemon) -> None:
    """The caller's key goes to the daemon unchanged."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    client.call("submit", "flux", input=1, key="mine")
    assert daemon.requests[0].json["key"] == "mine"


def test_a_refusal_is_an_error_with_its_code(client: Speaker, daemon: FakeDaemon) -> None:
    """A refused request raises with code, detail, status and pointer, and is not repeated."""
    problem = {
        "status": 400,
        "code": "invalid_request",
        "detail": "no",
        "errors": [{"detail": "no", "pointer": "/job"}],
    }
    daemon.on("POST", "/v1/tasks", (400, problem))
    with pytest.raises(ApiError, match=r"invalid_request: no \(at /job\)") as caught:
        client.call("submit", "flux", input=1)
    error = caught.value
    assert (error.code, error.detail, error.status, error.pointer) == ("invalid_request", "no", 400, "/job")
    assert len(daemon.requests) == 1


def test_a_refusal_that_is_no_problem_document_is_told(client: Speaker, daemon: FakeDaemon) -> None:
    """A refusal without the usual shape still says its status and what came."""
    daemon.on("GET", "/v1/status", (502, b"<html>bad gateway"))
    with pytest.raises(ApiError, match="bad gateway") as caught:
        client.call("status")
    assert caught.value.status == 502


def test_a_daemon_that_takes_nothing_is_told_at_once(client: Speaker, daemon: FakeDaemon) -> None:
    """A first answer of 503 is raised: nothing was done, and the caller knows best whether to wait."""
    daemon.on("POST", "/v1/tasks", BUSY)
    with pytest.raises(ApiError, match="draining"):
        client.call("submit", "flux", input=1)
    assert len(daemon.requests) == 1


@pytest.mark.parametrize("speaker", SPEAKERS, ids=["blocking", "trio"])
@pytest.mark.parametrize("call", [("submit", "flux"), ("wait", "t1"), ("status",)])
def test_no_daemon_is_told_at_once(speaker: Callable[[Path], Speaker], call: tuple[str, ...], short_tmp: Path) -> None:
    """Without a daemon every call fails at once, with the path and what to do."""
    path = short_tmp / "none.sock"
    with pytest.raises(Unreachable, match=f"no daemon at {path}: there is no such socket; start it .creche serve"):
        speaker(path).call(*call)


@pytest.mark.parametrize("speaker", SPEAKERS, ids=["blocking", "trio"])
def test_a_dead_socket_is_told(speaker: Callable[[Path], Speaker], short_tmp: Path) -> None:
    """A socket that its daemon left behind says that nobody listens."""
    path = short_tmp / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(Unreachable, match="nobody listens there"):
        speaker(path).call("status")


@pytest.mark.parametrize(
    ("number", "words", "there", "passing"),
    [
        (errno.EACCES, "must be in the group that owns it", False, False),
        (errno.EAGAIN, "no room for another connection", True, True),
        (errno.ENOENT, "no such socket", False, True),
        (errno.ENAMETOOLONG, "cannot connect to", False, False),
    ],
)
def test_a_failed_connection_says_why(number: int, words: str, there: bool, passing: bool) -> None:  # noqa: FBT001 - table
    """Each way in which a connection can fail has its words, and tells whether trying again makes sense."""
    error = not_connected(Path("/s"), OSError(number, "told"))
    assert words in str(error)
    assert (error.there, error.passing) == (there, passing)


def test_many_tasks_go_in_batches(client: Speaker, daemon: FakeDaemon) -> None:
    """Tasks go a thousand at a time, every one with its key, and are answered in order; a refusal is a value."""
    daemon.on("POST", "/v1/tasks/batch", _echo_batch)
    answers = client.take(3000, "submit_many", ({"algorithm": "flux", "input": n} for n in range(2001)))
    assert [request.body.count(b"\n") for request in daemon.requests] == [1000, 1000, 1]
    assert len({line["key"] for request in daemon.requests for line in request.lines}) == 2001
    assert [answer["id"] for answer in answers if not isinstance(answer, ApiError)] == [
        f"t{n}" for n in range(2001) if n != 1500
    ]
    assert isinstance(answers[1500], ApiError)
    assert answers[1500].code == "unknown_algorithm"


def test_a_lost_batch_is_repeated_with_the_same_keys(client: Speaker, daemon: FakeDaemon) -> None:
    """A batch whose answer is lost is sent again as it was."""
    daemon.on("POST", "/v1/tasks/batch", "lose", _echo_batch)
    assert len(client.take(9, "submit_many", [{"algorithm": "flux", "input": 1}] * 3)) == 3
    assert daemon.requests[0].body == daemon.requests[1].body


def test_large_tasks_end_a_batch_early(client: Speaker, daemon: FakeDaemon) -> None:
    """A batch stays within its size, so that the daemon's limit on bodies is not met by many tasks together."""
    daemon.on("POST", "/v1/tasks/batch", _echo_batch)
    client.take(9, "submit_many", ({"algorithm": "flux", "input": n, "user": "u" * 600_000} for n in range(3)))
    assert [request.body.count(b"\n") for request in daemon.requests] == [1, 1, 1]


def test_wait_goes_on_until_the_task_is_at_rest(client: Speaker, daemon: FakeDaemon) -> None:
    """A wait asks the daemon to hold the answer, again and again, over lost answers and a stop of the daemon."""
    daemon.on("GET", "/v1/tasks/t1", (200, PROCESSING), "lose", BUSY, (200, PROCESSING), (200, SUCCEEDED))
    assert client.call("wait", "t1") == SUCCEEDED
    assert [request.query for request in daemon.requests] == [[("wait", "30.000s")]] * 5


def test_a_wait_ends_after_its_time(client: Speaker, daemon: FakeDaemon) -> None:
    """A wait with a limit raises with the last state of the task, and asks for no longer than what is left."""
    daemon.on("GET", "/v1/tasks/t1", (200, PROCESSING))
    with pytest.raises(TooSlow, match="task t1 is processing; the daemon goes on") as caught:
        client.call("wait", "t1", 0.05)
    assert caught.value.task == PROCESSING
    first = dict(daemon.requests[0].query)
    assert float(first["wait"].rstrip("s")) <= 0.05


def test_states_shows_every_look(client: Speaker, daemon: FakeDaemon) -> None:
    """The states of a task end with the one at rest."""
    daemon.on("GET", "/v1/tasks/t1", (200, ACCEPTED), (200, PROCESSING), (200, SUCCEEDED))
    assert client.take(9, "states", "t1", step_s=0.5) == [ACCEPTED, PROCESSING, SUCCEEDED]


def test_tasks_come_page_by_page(client: Speaker, daemon: FakeDaemon) -> None:
    """Listing follows the pages, with the same filters on each, and only as far as items are taken."""
    pages = [(200, {"tasks": [ACCEPTED, PROCESSING], "after": "t1"}), (200, {"tasks": [SUCCEEDED], "after": None})]
    filters = {"status": ["failed", "unknown"], "algorithm": "flux", "user": "u", "labels": {"a": "b"}, "page_size": 2}
    daemon.on("GET", "/v1/tasks", *pages)
    assert client.take(9, "tasks", **filters) == [ACCEPTED, PROCESSING, SUCCEEDED]
    fixed = [("status", "failed"), ("status", "unknown"), ("algorithm", "flux"), ("user", "u"), ("label", "a:b")]
    assert [request.query for request in daemon.requests] == [
        [*fixed, ("limit", "2")],
        [*fixed, ("limit", "2"), ("after", "t1")],
    ]
    client.take(2, "tasks")
    assert len(daemon.requests) == 3


def test_follow_goes_from_cursor_to_cursor(client: Speaker, daemon: FakeDaemon) -> None:
    """Following gets a cursor at once, waits from there on, and asks for the same place again after a lost answer."""
    pages = [
        (200, {"results": results, "cursor": f"c{n}", "resync": False}) for n, results in enumerate([[], [SUCCEEDED]])
    ]
    daemon.on("GET", "/v1/results", pages[0], "lose", pages[1])
    assert [page["results"] for page in client.take(2, "follow")] == [[], [SUCCEEDED]]
    waiting = [("since", "c0"), ("wait", "30.000s")]
    assert [request.query for request in daemon.requests] == [[], waiting, waiting]


def test_the_other_calls_say_what_they_mean(client: Speaker, daemon: FakeDaemon) -> None:
    """Each call has its method, path, query and body; ids cannot leave their place in the path."""
    daemon.on("GET", "/v1/tasks/a%2F..%3Fb", (200, PROCESSING))
    daemon.on("POST", "/v1/tasks/t1/cancel", (202, PROCESSING))
    daemon.on("POST", "/v1/tasks/t1/resolve", (200, PROCESSING))
    daemon.on("GET", "/v1/results", (200, {"results": [], "cursor": "c", "resync": False}))
    daemon.on("GET", "/v1/algorithms", (200, {"algorithms": [{"name": "flux"}]}))
    daemon.on("GET", "/v1/status", (200, {"ready": True}))
    client.call("get", "a/..?b", with_input=True)
    client.call("cancel", "t1")
    client.call("resolve", "t1", "attach", "j1")
    client.call("resolve", "t1", "drop")
    client.call("results", "c", user="u", wait_s=1)
    daemon.on("GET", "/v1/tasks/t1/result", (200, [1]))
    assert client.call("result", "t1") == [1]
    assert client.call("algorithms") == [{"name": "flux"}]
    assert client.call("status") == {"ready": True}
    assert [(request.query, request.body) for request in daemon.requests[:5]] == [
        ([("input", "1")], b""),
        ([], b""),
        ([], b'{"action":"attach","job":"j1"}'),
        ([], b'{"action":"drop"}'),
        ([("user", "u"), ("since", "c"), ("wait", "1.000s")], b""),
    ]


def test_an_early_refusal_is_heard(client: Speaker, daemon: FakeDaemon) -> None:
    """A daemon that refuses a large body without reading it is heard, though sending broke off."""
    problem = {"status": 413, "code": "too_large", "detail": "too large"}
    daemon.on("POST", "/v1/tasks", (413, problem, "early"))
    with pytest.raises(ApiError, match="too_large"):
        client.call("submit", "flux", input="x" * 8_000_000)


def test_something_else_at_the_socket_is_told(client: Speaker, daemon: FakeDaemon) -> None:
    """What does not speak HTTP is not taken for the daemon, and not tried again."""
    daemon.on("POST", "/v1/tasks", "garble")
    with pytest.raises(Unreachable, match="is not the daemon's API"):
        client.call("submit", "flux", input=1)
    daemon.on("GET", "/v1/status", (200, b"OK"))
    with pytest.raises(Unreachable, match="is not the daemon's API"):
        client.call("status")


def test_what_is_no_json_is_never_sent(client: Speaker, daemon: FakeDaemon) -> None:
    """An input that JSON cannot carry is an error before anything leaves."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        client.call("submit", "flux", input=float("nan"))
    assert daemon.requests == []


def test_a_silent_daemon_is_given_up(daemon: FakeDaemon) -> None:
    """Every exchange is bounded, though the daemon takes the connection and says nothing."""
    daemon.on("GET", "/v1/status", "hang")
    request = Request("GET", "/v1/status", limit_s=0.05)
    blocking = Client(daemon.path)._exchange(request)
    in_trio = trio.run(AsyncClient(daemon.path)._exchange, request)
    for answer in (blocking, in_trio):
        assert isinstance(answer, Unreachable)
        assert str(answer) == "the daemon did not answer within 0.05 s"


async def test_a_cancelled_call_closes_its_connection(daemon: FakeDaemon) -> None:
    """Cancelling a call ends it, and the daemon sees the client go."""
    daemon.on("GET", "/v1/tasks/t1", "hang")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(AsyncClient(daemon.path).wait, "t1")
            await trio.to_thread.run_sync(daemon.arrived.acquire)
            nursery.cancel_scope.cancel()
        assert await trio.to_thread.run_sync(daemon.hung_up.wait, 5)


async def test_one_client_serves_many_tasks(daemon: FakeDaemon) -> None:
    """Any number of Trio tasks may use one client at once."""
    daemon.on("POST", "/v1/tasks", lambda got: (202, {**ACCEPTED, "id": got.json["input"]}))
    client = AsyncClient(daemon.path)
    ids: list[str] = []

    async def submit(number: int) -> None:
        ids.append((await client.submit("flux", input=f"t{number}"))["id"])

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(submit, number)
    assert sorted(ids) == sorted(f"t{number}" for number in range(20))


def test_the_default_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's word first, then the user's own daemon where there is one, then the system's."""
    own, system = tmp_path / "creche" / "creche.sock", tmp_path / "system.sock"
    monkeypatch.setattr("creche.client._SYSTEM_SOCKET", str(system))
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    system.touch()
    assert default_socket({}) == system
    assert default_socket(environ) == system
    own.parent.mkdir()
    own.touch()
    assert default_socket(environ) == own
    assert default_socket(environ | {"CRECHE_SOCKET": "/x/y.sock"}) == Path("/x/y.sock")


def _echo_batch(got: Got) -> tuple[int, bytes]:
    """Accept every task but the one with input 1500."""
    refused = {"status": 404, "code": "unknown_algorithm", "detail": "?"}
    lines = [refused if line["input"] == 1500 else {**ACCEPTED, "id": f"t{line['input']}"} for line in got.lines]
    return 200, b"".join(json.dumps(line).encode() + b"\n" for line in lines)
