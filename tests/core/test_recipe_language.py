"""What is said at load time of the newer keys, and how answers are read by them."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from creche.core.binding import Binding
from creche.core.exchange import Answer
from creche.core.reading import JobStatus
from creche.core.recipe import Recipe, load_recipe
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.errors import CreateUncertain, RecipeError
from creche.testing import FakeTransport, make_task

POLL: dict[str, Any] = {"url": "/{job}", "status": "/s", "statuses": {"succeeded": ["Done"], "failed": ["no"]}}
CREATE: dict[str, Any] = {"url": "/", "id": "/id", "body": "$input"}
WHOLE: dict[str, Any] = {"create": CREATE, "poll": POLL}


def load(**tables: Any) -> Recipe:  # noqa: ANN401 - any part of a recipe
    return load_recipe("r", WHOLE | tables, "r.toml")


def bound(**tables: Any) -> Binding:  # noqa: ANN401 - as above
    return Binding(load(**tables), base="https://api.example", params={}, secret=None)


def an_answer(body: object, status: int = 200, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Answer(status=status, headers=headers, body=raw)


MANY = {"url": "/", "max": 2, "id": "/id"}


@pytest.mark.parametrize(
    ("tables", "mistake"),
    [
        (
            {"create": {"url": "/", "id": "/id", "encoding": "form"}},
            "create.encoding: leave it out: there is no `body`",
        ),
        (
            {"create": CREATE | {"body": {"a": [{"...": {}}]}}},
            'create.body: expected a name such as "$input" for the member',
        ),
        ({"create": CREATE | {"encoding": "xml"}}, 'create.encoding: expected one of json, form, multipart, got "xml"'),
        ({"create": CREATE | {"exists_pattern": "x"}}, "create.exists_pattern: leave it out, or say in `exists`"),
        ({"create": CREATE | {"exists": [500], "exists_pattern": "("}}, "create.exists_pattern: the pattern cannot be"),
        ({"poll": POLL | {"wait": "6m"}}, "poll.wait: expected at most 300s"),
        ({"poll": POLL | {"url": "/{wait}"}}, 'poll: "wait" is not a parameter'),
        ({"many": MANY | {"next": "/n", "next_by": "page"}}, "many.next_by: leave it out: `next` says where"),
        ({"many": MANY | {"next_by": "page"}}, "many.next_by: needs `next_param`"),
        ({"many": MANY | {"next_param": "p"}}, "many.next_param: leave it out, or say in `next` or `next_by`"),
        ({"many": MANY | {"more": "/m"}}, "many.more: leave it out: without `next` or `next_by` there is one page"),
        ({"assets": {}}, "assets.urls: expected either `urls`, pointers into the result, or `url`"),
        ({"assets": {"urls": "/a", "url": "/b"}}, "assets.urls: expected either"),
        ({"assets": {"url": "/{wat}"}}, 'assets: "wat" is not a parameter'),
        (
            {"fetch": {"url": "/", "format": "text", "result": "/a"}},
            'fetch.result: leave it out: there are no pointers into "text"',
        ),
        ({"cancel": {"url": "/", "ends_as": ["succeeded"]}}, "cancel.ends_as: expected no `succeeded`"),
        ({"auth": {"A": "{secret}", "jwt": {}}}, "auth.jwt: no header of [auth] has it"),
        ({"auth": {"A": "{jwt}"}}, 'auth.A: "jwt" is not known here; only {secret}'),
        ({"auth": {"A": "{jwt}", "jwt": {"claims": {"iss": "$who"}}}}, 'auth.jwt.claims: "$who" is not a parameter'),
        ({"auth": {"A": "{jwt}", "jwt": {"lives": "1s"}}}, "auth.jwt.lives: expected at least 60s"),
        ({"sunset": "soon"}, 'sunset: expected a day such as "2027-01-31", got "soon"'),
        ({"envelope": {"ok": {"code": 0}}}, "envelope.ok: expected a JSON pointer"),
        ({"envelope": {"busy": {"/code": []}}}, "envelope.busy: expected a value, or some in a list"),
        ({"envelope": {"bussy": {"/code": 1}}}, 'envelope.bussy: unknown key (did you mean "busy"?)'),
        ({"caps": {"in_flight": 0}}, "caps.in_flight: expected a number of at least 1"),
        ({"caps": {"poll_rate": "20"}}, "caps.poll_rate: expected a rate such as"),
        (
            {"poll": POLL | {"ignore_case": True, "statuses": {"succeeded": ["Done"], "failed": ["DONE"]}}},
            'poll.statuses.failed: "DONE" is mapped to succeeded already',
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(tables: dict[str, Any], mistake: str) -> None:
    """And with what is expected there."""
    with pytest.raises(RecipeError) as caught:
        load(**tables)
    assert any(line.startswith(f"r.toml: {mistake}") for line in caught.value.mistakes), caught.value.mistakes


def test_words_may_be_compared_without_their_case() -> None:
    """Where the recipe says so; what is shown is the provider's word."""
    reading = bound(poll=POLL | {"ignore_case": True}).read_poll(an_answer({"s": "DONE"}))
    assert (reading.status, reading.known, reading.provider_status) == (JobStatus.SUCCEEDED, True, "DONE")
    assert bound().read_poll(an_answer({"s": "DONE"})).known is False


def test_the_answer_to_a_create_may_say_nothing_of_the_state() -> None:
    """Whatever it looks like."""
    task = make_task("t", input=msgspec.Raw(b"{}"))
    created = an_answer({"id": "j", "s": "Done"})
    assert bound().read_create(created, task).status is JobStatus.SUCCEEDED
    assert bound(create=CREATE | {"tells_state": False}).read_create(created, task).status is JobStatus.WAITING


def test_rules_with_an_http_status_are_for_polls() -> None:
    """A create that is answered with 200 has made a job, and not finished it."""
    poll = {"url": "/{job}", "rules": [{"http": 200, "then": "succeeded"}, {"http": 202, "then": "processing"}]}
    binding = bound(poll=poll)
    assert binding.read_poll(an_answer({"x": 1})).status is JobStatus.SUCCEEDED
    created = binding.read_create(an_answer({"id": "j"}), make_task("t", input=msgspec.Raw(b"{}")))
    assert created.status is JobStatus.WAITING


def test_why_a_job_failed_is_told_of_an_error_answer_too() -> None:
    """By the recipe's pointers, else by what the answer begins with."""
    poll = {"url": "/{job}", "rules": [{"http": 422, "then": "failed"}], "error": "/why"}
    assert bound(poll=poll).read_poll(an_answer({"why": "bad"}, 422)).message == "bad"
    assert bound(poll=poll).read_poll(an_answer(b"oops", 422)).message == "HTTP 422: oops"


def test_a_binary_result_is_an_object() -> None:
    """With its media type and size, in base64."""
    binding = bound(fetch={"url": "/{job}/file", "format": "binary"})
    ended = binding.read_poll(an_answer({"s": "Done"}))
    complete = binding.read_fetch(Answer(status=200, headers={"content-type": "audio/mpeg"}, body=b"\x00\xff"), ended)
    encoded = base64.b64encode(b"\x00\xff").decode()
    assert msgspec.json.decode(complete.result) == {"media_type": "audio/mpeg", "bytes": 2, "base64": encoded}


@pytest.mark.parametrize(("body", "exists"), [(b"Job x already exists", True), (b"out of memory", False)])
def test_that_there_is_a_job_may_be_a_matter_of_words(body: bytes, exists: bool) -> None:  # noqa: FBT001 - a parameter
    """Where a status means other things as well."""
    create = {"url": "/", "body": {"id": "$token"}, "repeat": "id", "exists": [500], "exists_pattern": "already exists"}
    task = make_task("t")
    if exists:
        assert bound(create=create).read_create(an_answer(body, 500), task).job == task.token
    else:
        with pytest.raises(CreateUncertain):
            bound(create=create).read_create(an_answer(body, 500), task)


async def test_a_held_poll_gets_more_time() -> None:
    """For as long as the provider may hold it, besides the algorithm's own."""
    timeouts: list[float] = []

    class Timed(FakeTransport):
        async def send(self, _call: object, *, timeout_s: float) -> Answer:
            timeouts.append(timeout_s)
            return an_answer({"s": "Done"})

    binding = bound(poll=POLL | {"wait": "20s"}, cancel={"url": "/{job}"})
    provider = HttpProvider(binding, Timed("https://api.example"), timeout_s=30.0)
    await provider.poll_of(Job("j"))()
    await provider.cancel(Job("j"))
    assert timeouts == [50.0, 30.0]


def test_files_are_found_in_a_result() -> None:
    """Each URL once, in order, at the pointers or anywhere below; what is no URL is none."""
    binding = bound(assets={"urls": ["/images", "/video"]})
    result = {
        "images": [{"url": "https://x.example/1", "seed": 7}, {"url": "https://x.example/1"}, "no"],
        "video": "https://x.example/2",
        "page": "https://x.example/3",
    }
    reading = binding.read_poll(an_answer({"s": "Done"} | result))
    assert [call.url for call in binding.asset_calls(Job("j"), reading)] == [
        "https://x.example/1",
        "https://x.example/2",
    ]


def test_a_file_may_be_at_a_place_of_its_own() -> None:
    """Below the base, with the job's id."""
    binding = bound(assets={"url": "/{job}/content"})
    reading = binding.read_poll(an_answer({"s": "Done"}))
    assert [call.url for call in binding.asset_calls(Job("j"), reading)] == ["https://api.example/j/content"]
