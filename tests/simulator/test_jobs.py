"""The simulator's rules of jobs, on a made-up clock: their lives, their scripts, their creates."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.simulator import Reply, Simulator
from creche.simulator.rules import MAX_BATCH
from tests.simulator.conftest import START, Desk


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


def test_many_jobs_can_be_asked_for_at_once() -> None:
    """Each is shown as its own poll would show it, once; unknown ones are named."""
    desk = Desk()
    jobs = [desk.create({"queue": "0s", "run": "1s"}), desk.create({"end": "never"})]
    desk.now += 5
    assert desk.read("POST", "/v1/jobs/batch", {"ids": [*jobs, "job-0", "batch"]}) == (
        200,
        {"jobs": [desk.poll(job) for job in jobs], "missed": ["batch", "job-0"]},
    )
    assert desk.read("POST", "/v1/jobs/batch", {"ids": []}) == (200, {"jobs": [], "missed": []})


@pytest.mark.parametrize("content", [None, [], {}, {"ids": "x"}, {"ids": [1]}, {"ids": ["x"] * (MAX_BATCH + 1)}])
def test_a_batch_needs_a_list_of_ids(content: object) -> None:
    """Of at most a hundred."""
    status, body = Desk().read("POST", "/v1/jobs/batch", content)
    assert (status, body["error"]["message"]) == (422, "ids: expected a list of at most 100 texts")


def test_a_batch_misses_jobs_whose_poll_is_to_fail() -> None:
    """The fault is for the job's own poll; hints and latencies are the largest of those that are told."""
    desk = Desk()
    spoilt = desk.create({"errors": {"poll": [500]}, "latency": "9s"})
    slow, hinted = desk.create({"latency": "2s"}), desk.create({"retry_after": 7})
    for missed in ([spoilt], [spoilt], []):
        reply = desk.ask("POST", "/v1/jobs/batch", {"ids": [spoilt, slow, hinted]})
        assert isinstance(reply, Reply)
        assert msgspec.json.decode(reply.body)["missed"] == missed
        assert (reply.delay_s, reply.retry_after_s) == (2.0 if missed else 9.0, 7.0)
        if desk.stats()["batches"] == 2:
            assert desk.codes("GET", f"/v1/jobs/{spoilt}", 1) == [500]


def test_jobs_are_listed_newest_first() -> None:
    """Page by page, as their creators see them, with the metadata that they gave."""
    desk = Desk()
    first, second = desk.create(), desk.create()
    _, third = desk.read("POST", "/v1/jobs", {"metadata": {"create": "token"}})
    status, page = desk.read("GET", "/v1/jobs?limit=2")
    assert status == 200
    assert [job["id"] for job in page["jobs"]] == [third["id"], second]
    assert page["jobs"][0]["metadata"] == {"create": "token"}
    assert page["last"] == second
    assert [job["id"] for job in desk.read("GET", f"/v1/jobs?limit=2&after={second}")[1]["jobs"]] == [first]
    for nothing in (first, "job-0"):
        assert desk.read("GET", f"/v1/jobs?after={nothing}") == (200, {"jobs": [], "last": None})
    for limit in ("0", "101", "x"):
        assert desk.read("GET", f"/v1/jobs?limit={limit}")[0] == 422


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
