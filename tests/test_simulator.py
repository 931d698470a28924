"""The simulated provider: its rules on a made-up clock, its server on real sockets, and its recipe against both."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from typing import Any

import msgspec
import pytest
import trio

from creche.core.binding import Binding
from creche.core.exchange import Answer, Call
from creche.core.reading import JobStatus, Reading
from creche.core.recipe import Recipe, load_recipe
from creche.core.task import Job, Task
from creche.errors import AnswerError, CredentialsRefused, JobNotFound, Outage, Throttled
from creche.simulator import Drop, Reply, Simulator, serve
from creche.simulator.server import MAX_BODY_BYTES, MAX_HEAD_BYTES

START = 1_700_000_000.0
LIMIT_S = 20.0


class Desk:
    """A simulator with a clock that only tests move."""

    def __init__(self, simulator: Simulator | None = None) -> None:
        self.simulator = simulator or Simulator()
        self.now = START

    def ask(self, method: str, path: str, content: object = None, **headers: str) -> Reply | Drop:
        body = b"" if content is None else msgspec.json.encode(content)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.simulator.handle(method, path, named, body, self.now)

    def read(self, method: str, path: str, content: object = None, **headers: str) -> tuple[int, Any]:
        reply = self.ask(method, path, content, **headers)
        assert isinstance(reply, Reply), "the connection was dropped"
        return reply.status, msgspec.json.decode(reply.body)

    def create(self, script: dict[str, Any] | None = None, **headers: str) -> str:
        status, job = self.read("POST", "/v1/jobs", {"prompt": "hello", "simulate": script or {}}, **headers)
        assert status == 201
        return str(job["id"])

    def poll(self, job: str, at_s: float | None = None) -> dict[str, Any]:
        if at_s is not None:
            self.now = START + at_s
        status, body = self.read("GET", f"/v1/jobs/{job}")
        assert status == 200
        return dict(body)

    def words(self, job: str, *times_s: float) -> list[str]:
        return [self.poll(job, at_s)["status"] for at_s in times_s]

    def codes(self, method: str, path: str, times: int) -> list[int]:
        """HTTP statuses of one request made several times, 0 for a dropped connection."""
        replies = [self.ask(method, path) for _ in range(times)]
        return [reply.status if isinstance(reply, Reply) else 0 for reply in replies]

    def world(self, **world: object) -> dict[str, Any]:
        status, shown = self.read("PUT", "/v1/world", world)
        assert status == 200
        return dict(shown)

    def stats(self) -> dict[str, Any]:
        return dict(self.read("GET", "/v1/stats")[1])


# -- the rules: jobs -----------------------------------------------------------------------------------


def test_a_job_goes_from_queued_through_running_to_its_end() -> None:
    """The age of a job alone says where it is, also when nobody asked for a while."""
    desk = Desk()
    job = desk.create({"queue": "2s", "run": "10s"})
    assert desk.poll(job) == {"id": job, "status": "queued", "progress": 0.0}
    assert desk.poll(job, 2) == {"id": job, "status": "running", "progress": 0.0}
    assert desk.poll(job, 7)["progress"] == 0.5
    assert desk.poll(job, 11.999)["status"] == "running"
    ended = {"id": job, "status": "succeeded", "progress": 1.0, "result_url": f"/v1/jobs/{job}/result"}
    assert desk.poll(job, 12) == ended | {"output": "hello"}
    assert desk.read("GET", f"/v1/jobs/{job}/result") == (200, "hello")


def test_a_create_answers_with_the_state_and_the_links() -> None:
    """A job without any length is over in its create's answer, with its output."""
    status, body = Desk().read("POST", "/v1/jobs", {"simulate": {"queue": "0s", "run": "0s"}}, host="sim:1")
    url = f"http://sim:1/v1/jobs/{body['id']}"
    assert status == 201
    assert (body["status"], body["output"], body["created_at"]) == (
        "succeeded",
        {"ok": True},
        "2023-11-14T22:13:20+00:00",
    )
    assert (body["poll_url"], body["cancel_url"], body["result_url"]) == (url, f"{url}/cancel", f"{url}/result")


@pytest.mark.parametrize("content", [None, 7, "text", [1], {}, {"prompt": 1}])
def test_any_json_makes_a_job(content: object) -> None:
    """A body without a script gets the default one: 1 s queued, 5 s running, success."""
    desk = Desk()
    status, job = desk.read("POST", "/v1/jobs", content)
    assert status == 201
    assert desk.words(job["id"], 0, 1, 5.9, 6) == ["queued", "running", "running", "succeeded"]


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("failed", {"status": "failed", "progress": 1.0, "error": {"code": "failed", "message": "out of memory"}}),
        ("expired", {"status": "expired", "progress": 1.0, "error": {"code": "expired", "message": "out of memory"}}),
        ("cancelled", {"status": "cancelled", "progress": 1.0}),
        ("never", {"status": "running", "progress": 0.99}),
    ],
)
def test_a_job_ends_as_its_script_says(end: str, last: dict[str, Any]) -> None:
    """Every end has its word; one that never comes leaves the job running just short of it."""
    desk = Desk()
    job = desk.create({"end": end, "message": "out of memory"})
    assert desk.poll(job, 1e6) == {"id": job, **last}
    assert desk.codes("GET", f"/v1/jobs/{job}/result", 1) == [409]


def test_a_pause_stands_in_the_middle_of_the_run() -> None:
    """Time paused is no progress, and puts the end off."""
    desk = Desk()
    job = desk.create({"queue": "0s", "run": "4s", "pauses": "10s"})
    seen = [(shown["status"], shown["progress"]) for shown in (desk.poll(job, at_s) for at_s in (1, 2, 11, 12, 13))]
    assert seen == [("running", 0.25), ("paused", 0.5), ("paused", 0.5), ("running", 0.5), ("running", 0.75)]
    assert desk.words(job, 14) == ["succeeded"]


def test_a_script_can_show_its_own_words() -> None:
    """Words take equal shares of the run; the end keeps its own."""
    desk = Desk()
    job = desk.create({"queue": "0s", "run": "3s", "statuses": ["BOOTING", "warm", "cooling"]})
    assert desk.words(job, 0, 1.5, 2.9, 3) == ["BOOTING", "warm", "cooling", "succeeded"]


def test_a_separate_result_is_only_at_its_url() -> None:
    """The poll names the URL and leaves the output out."""
    desk = Desk()
    job = desk.create({"queue": "0s", "run": "0s", "separate_result": True, "output": {"text": None}})
    assert desk.poll(job) == {
        "id": job,
        "status": "succeeded",
        "progress": 1.0,
        "result_url": f"/v1/jobs/{job}/result",
    }
    assert desk.read("GET", f"/v1/jobs/{job}/result") == (200, {"text": None})


def test_the_same_key_is_the_same_job() -> None:
    """A repeated create answers 200 with the first job, however much of its life has passed."""
    desk = Desk()
    job = desk.create(idempotency_key="k1")
    desk.now += 60
    status, again = desk.read("POST", "/v1/jobs", {"prompt": "other"}, idempotency_key="k1")
    assert (status, again["id"], again["output"]) == (200, job, "hello")
    assert desk.create(idempotency_key="k2") != job
    assert (desk.stats()["created"], desk.stats()["duplicates"], desk.stats()["creates"]) == (2, 1, 3)


def test_a_cancel_ends_a_job_once() -> None:
    """After the end, whichever it was, a cancel is answered 409; progress stays where it was."""
    desk = Desk()
    job = desk.create({"queue": "0s", "run": "10s"})
    desk.now += 5
    status, shown = desk.read("POST", f"/v1/jobs/{job}/cancel")
    assert (status, shown["status"]) == (200, "cancelled")
    assert desk.poll(job, 1e6) == {"id": job, "status": "cancelled", "progress": 0.5}
    assert desk.codes("POST", f"/v1/jobs/{job}/cancel", 1) == [409]


def test_a_script_can_refuse_to_be_cancelled() -> None:
    """The refusal is another status than the one that says the job has ended, and changes nothing."""
    desk = Desk()
    job = desk.create({"refuse_cancel": True})
    assert desk.codes("POST", f"/v1/jobs/{job}/cancel", 1) == [422]
    assert desk.words(job, 6) == ["succeeded"]


def test_errors_come_in_the_scripts_order_then_never_again() -> None:
    """Each kind of request has its own list; 2xx in it is the usual answer, 0 a closed connection."""
    desk = Desk()
    job = desk.create({"errors": {"poll": [500, 200, 0, 404], "cancel": [503]}, "retry_after": 7})
    other = desk.create()
    assert desk.codes("GET", f"/v1/jobs/{job}", 5) == [500, 200, 0, 404, 200]
    assert desk.codes("POST", f"/v1/jobs/{job}/cancel", 2) == [503, 200]
    assert desk.codes("GET", f"/v1/jobs/{other}", 1) == [200]


def test_polls_carry_the_scripts_hint_and_latency() -> None:
    """`retry_after` and `latency` go with every answer about the job."""
    desk = Desk()
    job = desk.create({"retry_after": 2.5, "latency": "80ms", "errors": {"poll": [429]}})
    first, second = (desk.ask("GET", f"/v1/jobs/{job}") for _ in range(2))
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert (first.status, first.retry_after_s, first.delay_s) == (429, 2.5, 0.08)
    assert (second.status, second.retry_after_s, second.delay_s) == (200, 2.5, 0.08)


def _tries(desk: Desk, times: int, script: dict[str, Any], **headers: str) -> list[int]:
    replies = [desk.ask("POST", "/v1/jobs", {"simulate": script}, **headers) for _ in range(times)]
    return [reply.status if isinstance(reply, Reply) else 0 for reply in replies]


def test_creates_fail_in_the_scripts_order() -> None:
    """0 drops the connection before the work, -1 after it: only the latter leaves a job behind."""
    desk = Desk()
    script = {"tag": "t", "create_errors": [0, 503, -1]}
    assert _tries(desk, 3, script, idempotency_key="k") == [0, 503, 0]
    assert desk.stats()["created"] == 1
    assert _tries(desk, 1, script, idempotency_key="k") == [200]
    assert desk.read("GET", "/v1/stats?tags=1") == (200, {"t": 1})


def test_a_lost_reply_without_a_key_makes_two_jobs_of_a_repeated_create() -> None:
    """What a careless client does wrong shows in the count by tag."""
    desk = Desk()
    assert _tries(desk, 2, {"tag": "t", "lost_reply": True}) == [0, 201]
    assert desk.read("GET", "/v1/stats?tags=1") == (200, {"t": 2})


@pytest.mark.parametrize("script", [{"lost_reply": True, "tag": "a"}, {"lost_reply": True}])
def test_faults_of_creates_are_counted_for_each_job(script: dict[str, Any]) -> None:
    """Two creates that mean different jobs, by tag or else by key, do not use up each other's faults."""
    desk = Desk()
    assert _tries(desk, 2, script, idempotency_key="a") == [0, 200]
    assert _tries(desk, 2, {**script, "tag": "b"}, idempotency_key="b") == [0, 200]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"quee": "1s"}, ['simulate.quee: unknown key (did you mean "queue"?)']),
        ({"errors": {"pol": [500]}}, ['simulate.errors.pol: unknown key (did you mean "poll"?)']),
        ({"run": 5}, ["simulate.run: expected a duration"]),
        ({"end": "sucess", "run": "x"}, ["simulate.end: expected one of succeeded, failed", "simulate.run: "]),
        ({"errors": {"poll": [302]}}, ["simulate.errors.poll: expected HTTP statuses of 2xx, 4xx or 5xx"]),
        ({"errors": {"poll": [-1]}}, ["simulate.errors.poll: expected HTTP statuses"]),
        ({"create_errors": ["no"]}, ["simulate.create_errors: expected HTTP statuses"]),
        ({"create_errors": 500}, ["simulate.create_errors: expected a list"]),
        ({"retry_after": -1}, ["simulate.retry_after: expected seconds from 0 to 3600"]),
        (7, ["simulate: expected an object"]),
    ],
)
def test_a_wrong_script_is_refused_with_every_mistake(script: object, words: list[str]) -> None:
    """422 names the key, and what was probably meant; no job is made."""
    desk = Desk()
    status, body = desk.read("POST", "/v1/jobs", {"simulate": script})
    assert (status, body["error"]["code"]) == (422, "invalid_body")
    assert all(part in body["error"]["message"] for part in words)
    assert desk.stats()["created"] == 0


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": NaN}'])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    """400, whatever is wrong with it."""
    reply = Simulator().handle("POST", "/v1/jobs", {}, body, START)
    assert isinstance(reply, Reply)
    assert reply.status == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobsome"),
        ("POST", "/v1/jobs/x"),
        ("DELETE", "/v1/jobs/x"),
        ("GET", "/v1/jobs/x/cancel"),
        ("GET", "/v1/jobs/x"),
        ("POST", "/v1/jobs/x/cancel"),
        ("POST", "/v1/world"),
    ],
)
def test_what_is_not_there_is_not_found(method: str, path: str) -> None:
    """404 for unknown jobs, paths and methods."""
    status, body = Desk().read(method, path)
    assert (status, body["error"]["code"]) == (404, "not_found")


# -- the rules: the world, the books -------------------------------------------------------------------


def test_an_outage_passes_by_itself() -> None:
    """Connections are closed, or answered with a status, until the time is over; the books stay open."""
    desk = Desk()
    job = desk.create()
    desk.world(outage="10s")
    assert desk.codes("GET", f"/v1/jobs/{job}", 1) == [0]
    desk.world(outage="10s", outage_status=503)
    assert desk.codes("POST", "/v1/jobs", 1) == [503]
    assert (desk.stats()["created"], desk.read("GET", "/healthz")[0]) == (1, 200)
    assert desk.words(job, 10) == ["succeeded"]


def test_the_world_is_shown_as_it_is_written() -> None:
    """What GET shows can be PUT again; what PUT leaves out is back to normal."""
    desk = Desk()
    world = {"outage": "10s", "latency": "50ms", "throttle": {"per_second": 2}, "lose_replies": 0.5, "errors": 0.25}
    desk.world(**world, unauthorized=True, outage_status=500)
    desk.now += 4
    shown = desk.read("GET", "/v1/world")[1]
    assert shown == world | {"outage": "6000ms", "unauthorized": True, "outage_status": 500}
    assert desk.world(**shown) == shown
    normal = {"outage_status": None, "latency": "0ms", "unauthorized": False, "lose_replies": 0, "errors": 0}
    assert desk.world(outage=None, throttle=None) == normal | {"outage": None, "throttle": None}


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ({"outages": "1s"}, 'outages: unknown key (did you mean "outage"?)'),
        ({"throttle": {}}, "throttle.per_second: missing"),
        ({"throttle": {"per_second": 0}}, "throttle.per_second: expected a number of at least 0.01"),
        ({"lose_replies": 1.5}, "lose_replies: expected a probability from 0 to 1"),
        ({"outage_status": 99}, "outage_status: expected HTTP statuses"),
        ([], "expected an object"),
    ],
)
def test_a_wrong_world_is_refused_and_changes_nothing(world: object, message: str) -> None:
    """422 names the mistake."""
    desk = Desk()
    desk.world(latency="1s")
    status, body = desk.read("PUT", "/v1/world", world)
    assert status == 422
    assert message in body["error"]["message"]
    assert desk.simulator.world.latency_s == 1.0


def test_a_throttle_lets_its_rate_through() -> None:
    """One second's worth at once, then the rate; the answer says when to come back."""
    desk = Desk()
    job = desk.create()
    desk.world(throttle={"per_second": 2})
    assert desk.codes("GET", f"/v1/jobs/{job}", 3) == [200, 200, 429]
    desk.now += 0.5
    assert desk.codes("GET", f"/v1/jobs/{job}", 2) == [200, 429]
    reply = desk.ask("GET", f"/v1/jobs/{job}")
    assert isinstance(reply, Reply)
    assert reply.retry_after_s == 1


def test_a_key_is_checked_where_there_is_one() -> None:
    """Jobs need the bearer key; `unauthorized` refuses even the right one."""
    desk = Desk(Simulator(key="s3cret"))
    assert desk.read("POST", "/v1/jobs")[0] == 401
    assert desk.read("POST", "/v1/jobs", authorization="Bearer wrong")[0] == 401
    assert desk.read("POST", "/v1/jobs", authorization="Bearer s3cret")[0] == 201
    desk.world(unauthorized=True)
    assert desk.read("POST", "/v1/jobs", authorization="Bearer s3cret")[0] == 401


def test_a_world_that_loses_replies_does_the_work() -> None:
    """The connection is dropped, the job is there; an error does no work."""
    desk = Desk()
    desk.world(lose_replies=1.0, latency="50ms")
    assert desk.ask("POST", "/v1/jobs") == Drop(0.05)
    desk.world(errors=1.0)
    assert desk.codes("POST", "/v1/jobs", 1) == [500]
    assert desk.stats()["created"] == 1


def test_equal_seeds_give_equal_answers() -> None:
    """Chance repeats itself, and differs between seeds."""

    def play(seed: int) -> list[int]:
        desk = Desk(Simulator(seed=seed))
        desk.world(lose_replies=0.3, errors=0.3)
        return desk.codes("POST", "/v1/jobs", 50)

    assert play(1) == play(1)
    assert play(1) != play(2)
    assert set(play(1)) == {0, 201, 500}


def test_the_books_count_jobs_and_requests() -> None:
    """Jobs by the word they show, requests by kind; requests that are not about jobs do not count."""
    desk = Desk()
    short, long = desk.create({"run": "1s", "tag": "a"}), desk.create({"tag": "b"})
    desk.create({"tag": "b"})
    desk.words(short, 3)
    desk.codes("GET", f"/v1/jobs/{short}/result", 1)
    desk.codes("POST", f"/v1/jobs/{long}/cancel", 1)
    assert desk.stats() == {
        "requests": 6,
        "creates": 3,
        "created": 3,
        "duplicates": 0,
        "polls": 1,
        "results": 1,
        "cancels": 1,
        "jobs": {"succeeded": 1, "cancelled": 1, "running": 1},
    }
    assert desk.read("GET", "/v1/stats?tags=1") == (200, {"a": 1, "b": 2})


def test_jobs_are_forgotten_some_time_after_their_end() -> None:
    """A job that goes on is kept; the key of a forgotten job makes a new one."""
    desk = Desk(Simulator(keep_s=100))
    old = desk.create({"run": "1s"}, idempotency_key="k")
    endless = desk.create({"end": "never"})
    cancelled = desk.create({"end": "never"})
    desk.codes("POST", f"/v1/jobs/{cancelled}/cancel", 1)
    desk.now = START + 101.9
    desk.create()
    assert desk.codes("GET", f"/v1/jobs/{old}", 1) == [200]
    assert desk.codes("GET", f"/v1/jobs/{cancelled}", 1) == [404]
    desk.now = START + 102
    assert desk.create(idempotency_key="k") != old
    assert desk.codes("GET", f"/v1/jobs/{old}", 1) == [404]
    assert desk.codes("GET", f"/v1/jobs/{endless}", 1) == [200]


def test_there_are_never_more_jobs_than_allowed() -> None:
    """The one that ended first makes room; with none that ended a create is answered 429."""
    desk = Desk(Simulator(max_jobs=2))
    first, second = desk.create({"run": "5s"}), desk.create({"run": "1s"})
    assert desk.codes("POST", "/v1/jobs", 1) == [429]
    desk.now += 2
    third = desk.create()
    polled = [desk.codes("GET", f"/v1/jobs/{job}", 1)[0] for job in (first, second, third)]
    assert polled == [200, 404, 200]


# -- the server ----------------------------------------------------------------------------------------


@pytest.fixture
async def url(nursery: trio.Nursery) -> str:
    """A simulator on a free port."""
    return str(await nursery.start(serve))


class Client:
    """One connection; answers come in the order of the requests."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""

    async def ask(self, request: bytes) -> Answer | None:
        await self.stream.send_all(request)
        return await self.answer(with_body=not request.startswith(b"HEAD"))

    async def answer(self, *, with_body: bool = True) -> Answer | None:
        """The next answer, None when the server closed the connection instead."""
        while b"\r\n\r\n" not in self._rest:
            if not await self._more():
                return None
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers["content-length"]) if with_body else 0
        while len(self._rest) < size:
            assert await self._more(), "the connection was closed within a body"
        body, self._rest = self._rest[:size], self._rest[size:]
        return Answer(status=int(first.split()[1]), headers=headers, body=body)

    async def _more(self) -> bool:
        data = await self.stream.receive_some()
        self._rest += data
        return bool(data)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Client]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with await trio.open_tcp_stream(host.strip("[]"), int(port)) as stream:
        yield Client(stream)


async def _assert_serving(url: str) -> None:
    async with _connected(url) as client:
        answer = await client.ask(HEALTH)
        assert answer is not None
        assert answer.status == 200


def _post(body: bytes, headers: bytes = b"") -> bytes:
    return b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (headers, len(body), body)


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_connection_serves_many_requests(url: str) -> None:
    """Kept alive, also when requests come in one piece, or byte by byte, until the client asks to close."""
    with trio.fail_after(LIMIT_S):
        async with _connected(url) as client:
            await client.stream.send_all(HEALTH + _post(b'{"prompt": 1}') + HEALTH)
            for byte in _post(b"7"):
                await client.stream.send_all(bytes([byte]))
            answers = [await client.answer() for _ in range(4)]
            assert [answer and answer.status for answer in answers] == [200, 201, 200, 201]
            last = await client.ask(HEALTH.replace(b"Host: x", b"Connection: close"))
            assert last is not None
            assert last.headers["connection"] == "close"
            assert await client.answer() is None


async def test_a_head_request_is_answered_without_a_body(url: str) -> None:
    """The next answer on the connection is where the client expects it."""
    with trio.fail_after(LIMIT_S):
        async with _connected(url) as client:
            first = await client.ask(b"HEAD /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n")
            second = await client.ask(HEALTH)
            assert first is not None
            assert second is not None
            assert (first.status, second.body) == (404, b'{"ok":true}')


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
        (b"POST /v1/jobs HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * (MAX_HEAD_BYTES + MAX_BODY_BYTES), 413),
    ],
    ids=["tls", "version", "upgrade", "lengths", "header", "url", "body"],
)
async def test_a_bad_request_ends_its_connection_only(url: str, request_bytes: bytes, status: int) -> None:
    """It is answered and its connection closed; the next connection is served."""
    with trio.fail_after(LIMIT_S):
        async with _connected(url) as client:
            answer = await client.ask(request_bytes)
            assert answer is not None
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert await client.answer() is None
        await _assert_serving(url)


async def test_large_outputs_reach_slow_readers(url: str) -> None:
    """More than the socket takes at once arrives whole, and holds nobody else up."""
    text = "x" * 8_000_000
    body = msgspec.json.encode({"prompt": text, "simulate": {"queue": "0s", "run": "0s"}})
    with trio.fail_after(LIMIT_S):
        async with _connected(url) as slow:
            await slow.stream.send_all(_post(body))
            await _assert_serving(url)
            answer = await slow.answer()
            assert answer is not None
            assert msgspec.json.decode(answer.body)["output"] == text


async def test_clients_that_go_away_do_no_harm(url: str) -> None:
    """Before, within and after a request, with its answer on the way."""
    with trio.fail_after(LIMIT_S):
        for sent in (b"", b"POST /v1/jobs HT", _post(b'{"simulate": {"latency": "30ms"}}')):
            async with _connected(url) as client:
                if sent:
                    await client.stream.send_all(sent)
                client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset on close
        await _assert_serving(url)


async def test_a_defect_ends_its_connection_only(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of the rules is logged; the server goes on."""

    def broken(*_: object) -> Reply:
        raise RuntimeError("a defect")

    with trio.fail_after(LIMIT_S):
        with monkeypatch.context() as patch:
            patch.setattr(Simulator, "handle", broken)
            async with _connected(url) as client:
                assert await client.ask(HEALTH) is None
        assert "a request could not be answered" in caplog.text
        await _assert_serving(url)


async def test_the_server_speaks_ipv6(nursery: trio.Nursery) -> None:
    """Its URL has the address in brackets."""
    with trio.fail_after(LIMIT_S):
        url = await nursery.start(partial(serve, host="::1"))
        assert url.startswith("http://[::1]:")
        await _assert_serving(url)


# -- the recipe ----------------------------------------------------------------------------------------


def _document() -> dict[str, Any]:
    return tomllib.loads(resources.files("creche").joinpath("recipes/simulator.toml").read_text())


RECIPE = load_recipe("simulator", _document(), "simulator.toml")


class Account:
    """The recipe at a real simulator: what the daemon would do, one request at a time."""

    def __init__(self, url: str, *, recipe: Recipe = RECIPE, secret: str | None = None) -> None:
        self.url = url
        self.binding = Binding(recipe, base=url, params={}, secret=secret)

    async def send(self, call: Call | None) -> Answer:
        """Carry one request on a connection of its own; a closed connection is an `Outage`."""
        assert call is not None
        body = call.body or b""
        lines = [
            f"{call.method} {call.url.removeprefix(self.url)} HTTP/1.1",
            f"Host: {self.url.removeprefix('http://')}",
        ]
        lines += [f"{name}: {value}" for name, value in call.headers] + [f"Content-Length: {len(body)}", "", ""]
        async with _connected(self.url) as client:
            answer = await client.ask("\r\n".join(lines).encode() + body)
        if answer is None:
            raise Outage("the connection was closed")
        return answer

    async def create(self, task: Task) -> Job:
        reading = self.binding.read_create(await self.send(self.binding.create_call(task)), task)
        assert reading.job is not None
        return Job(reading.job, reading.keep)

    async def poll(self, job: Job) -> Reading:
        return self.binding.read_poll(await self.send(self.binding.poll_call(job)))

    async def world(self, **world: object) -> None:
        call = Call(method="PUT", url=f"{self.url}/v1/world", body=msgspec.json.encode(world))
        assert (await self.send(call)).status == 200

    async def tags(self) -> dict[str, int]:
        answer = await self.send(Call(method="GET", url=f"{self.url}/v1/stats?tags=1"))
        return msgspec.json.decode(answer.body, type=dict[str, int])


def _task(script: dict[str, Any], number: int = 1) -> Task:
    content = msgspec.Raw(msgspec.json.encode({"prompt": "hello", "simulate": script}))
    return Task(id="t1", algorithm="simulated", input=content, token=f"token-{number}", accepted_at=START)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ({"queue": "1h"}, JobStatus.WAITING),
        ({"queue": "0s", "run": "1h"}, JobStatus.PROCESSING),
        ({"queue": "0s", "run": "0s", "pauses": "1h"}, JobStatus.PAUSED),
        ({"queue": "0s", "run": "0s"}, JobStatus.SUCCEEDED),
    ],
)
async def test_the_recipe_knows_every_word(url: str, script: dict[str, Any], status: JobStatus) -> None:
    """In the create's answer as in a poll's, so that a job may be over at once."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        task = _task(script)
        created = account.binding.read_create(await account.send(account.binding.create_call(task)), task)
        polled = await account.poll(await account.create(task))
        for reading in (created, polled):
            assert (reading.status, reading.known) == (status, True)


async def test_the_recipe_follows_a_job_to_its_result(url: str) -> None:
    """The result comes with the last poll, as the script has it, and no further request is needed."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        job = await account.create(_task({"queue": "20ms", "run": "50ms", "output": {"n": [1]}}))
        while (reading := await account.poll(job)).status.running:
            assert reading.progress is not None
            assert reading.progress < 1
        assert (reading.status, reading.progress, reading.to_fetch) == (JobStatus.SUCCEEDED, 1.0, False)
        assert bytes(reading.result) == b'{"n":[1]}'


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        ("failed", JobStatus.FAILED, "out of memory"),
        ("expired", JobStatus.EXPIRED, "out of memory"),
        ("cancelled", JobStatus.CANCELLED, ""),
    ],
)
async def test_the_recipe_reads_every_bad_end(url: str, end: str, status: JobStatus, message: str) -> None:
    """With the provider's message where there is one."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        job = await account.create(_task({"queue": "0s", "run": "0s", "end": end, "message": "out of memory"}))
        reading = await account.poll(job)
        assert (reading.status, reading.message) == (status, message)


async def test_the_recipe_cancels(url: str) -> None:
    """The provider agrees, also when the job has ended; a refusal is told apart."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        job = await account.create(_task({"end": "never"}))
        stubborn = await account.create(_task({"refuse_cancel": True}, number=2))
        for agreed, asked in ((True, job), (True, job), (False, stubborn)):
            answer = await account.send(account.binding.cancel_call(asked))
            assert account.binding.read_cancel(answer) is agreed
        assert (await account.poll(job)).status is JobStatus.CANCELLED


async def test_the_recipe_tells_the_provider_s_errors_apart(url: str) -> None:
    """Unknown job, throttled with a hint, outage, error, unknown word: each in its kind."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        script = {"queue": "0s", "errors": {"poll": [429, 503, 500, 0]}, "retry_after": 9, "statuses": ["odd"]}
        job = await account.create(_task(script))
        with pytest.raises(JobNotFound, match='there is no job "job-0"'):
            await account.poll(Job("job-0"))
        for kind in (Throttled, Outage, AnswerError, Outage):
            with pytest.raises(kind) as raised:
                await account.poll(job)
            assert raised.value.retry_after_s in ({9.0} if kind is Throttled else {9.0, None})
        reading = await account.poll(job)
        assert (reading.status, reading.known, reading.ask_again_s) == (JobStatus.PROCESSING, False, 9.0)


async def test_the_recipe_shows_the_key(nursery: trio.Nursery) -> None:
    """401 without the right one."""
    with trio.fail_after(LIMIT_S):
        url = await nursery.start(partial(serve, key="s3cret"))
        with pytest.raises(CredentialsRefused):
            await Account(url, secret="wrong").create(_task({}))
        account = Account(url, secret="s3cret")
        job = await account.create(_task({}))
        await account.world(unauthorized=True)
        with pytest.raises(CredentialsRefused):
            await account.poll(job)


async def test_the_recipe_repeats_a_create_whose_answer_was_lost(url: str) -> None:
    """The same token finds the job that was made: one job, whatever was lost."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        assert account.binding.repeatable
        task = _task({"lost_reply": True, "tag": "t1"})
        with pytest.raises(Outage):
            await account.create(task)
        await account.world(lose_replies=1.0)
        with pytest.raises(Outage):
            await account.create(task)
        await account.world()
        await account.poll(await account.create(task))
        assert await account.tags() == {"t1": 1}


async def test_a_separate_result_can_be_fetched(url: str) -> None:
    """With a `fetch` step added, the recipe brings a result that polls only name."""
    with trio.fail_after(LIMIT_S):
        document = _document()
        document["poll"]["keep"] = {"result": "/result_url"}
        document["fetch"] = {"url": "{+keep.result}"}
        account = Account(url, recipe=load_recipe("fetching", document, "fetching.toml"))
        job = await account.create(_task({"queue": "0s", "run": "0s", "separate_result": True}))
        reading = await account.poll(job)
        assert (reading.to_fetch, bytes(reading.result)) == (True, b"null")
        answer = await account.send(account.binding.fetch_call(Job(job.id, {**job.keep, **reading.keep})))
        assert bytes(account.binding.read_fetch(answer, reading).result) == b'"hello"'
