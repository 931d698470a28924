"""One request about many jobs: what a recipe may say, the requests that are written, what is made of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from creche.core.binding import Binding
from creche.core.exchange import Answer, Call
from creche.core.many import Inquiry, Many
from creche.core.reading import JobStatus, Reading
from creche.core.recipe import load_recipe
from creche.core.recipe_steps import ManyStep
from creche.core.task import Job
from creche.errors import (
    AnswerError,
    CredentialsRefused,
    JobNotFound,
    Outage,
    ProviderError,
    RecipeError,
    Throttled,
)

RECIPE: dict[str, Any] = {
    "params": {"group": {"about": "which group"}},
    "headers": {"X-Version": "2"},
    "auth": {"Authorization": "Bearer {secret}"},
    "poll": {
        "url": "/jobs/{job}",
        "status": "/status",
        "statuses": {"waiting": ["queued"], "processing": ["running"], "succeeded": ["done"], "failed": ["error"]},
        "result": "/output",
        "error": ["/error/message"],
        "progress": "/progress",
        "keep": {"file": "/file"},
    },
}
BY_BODY: dict[str, Any] = {
    "method": "POST",
    "url": "/jobs/batch",
    "body": {"ids": "$ids", "group": "$group"},
    "max": 100,
    "items": "/jobs",
    "id": "/id",
}
LIST: dict[str, Any] = {"url": "/jobs?limit=2", "max": 100, "items": "/data", "id": "/id"}


def load(many: dict[str, Any], **changes: Any) -> ManyStep:  # noqa: ANN401 - any TOML
    recipe = load_recipe("example", {**RECIPE, "many": many, **changes}, "example.toml")
    assert recipe.many is not None
    return recipe.many


def many_of(many: dict[str, Any], *, key: str = "s3cret", group: str = "g", **changes: Any) -> Many:  # noqa: ANN401 - any TOML
    recipe = load_recipe("example", {**RECIPE, "many": many, **changes}, "example.toml")
    return Many(Binding(recipe, base="https://api.example/v1/", params={"group": group}, secret=key))


def ask(many: dict[str, Any], *job_ids: str, **changes: Any) -> Inquiry:  # noqa: ANN401 - any TOML
    return many_of(many, **changes).about([Job(job_id) for job_id in job_ids])


def call_of(inquiry: Inquiry) -> Call:
    assert inquiry.call is not None, "all was asked"
    return inquiry.call


def an_answer(body: bytes, status: int = 200, **headers: str) -> Answer:
    return Answer(status=status, headers={key.replace("_", "-"): value for key, value in headers.items()}, body=body)


def take(many: dict[str, Any], body: bytes, *job_ids: str, **changes: Any) -> dict[str, Reading]:  # noqa: ANN401 - any TOML
    return ask(many, *job_ids, **changes).take(an_answer(body))


def running(**more: Any) -> Reading:  # noqa: ANN401 - any field of a reading
    return Reading(status=JobStatus.PROCESSING, provider_status="running", **more)


# -- the table -------------------------------------------------------------------------------------------


def test_the_least_that_is_needed() -> None:
    """A request, how many, and where an item has its id; the rest has defaults."""
    step = load({"url": "/jobs", "max": 50, "id": "/id"})
    assert (step.method, step.max, step.items, step.keyed_by_id, step.item) == ("GET", 50, "", False, "")
    assert (step.separator, step.whole, step.next, step.next_param, step.pages) == (",", True, None, "", 3)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"max": None}, "many.max: missing; how many jobs one request asks for at most"),
        ({"max": 1}, "many.max: expected a number of at least 2, got 1"),
        ({"max": 10**6}, "many.max: expected a number of at most 10000, got 1000000"),
        ({"url": None}, "many.url: missing; a path below `base`, or a whole URL"),
        ({"id": None}, "many.id: missing; where an item has its job's id, unless items are `keyed_by_id`"),
        ({"id": "id"}, "many.id: expected a JSON pointer"),
        ({"id": {"header": "X-Id"}}, "many.id: expected a pointer: no header tells the ids of several jobs"),
        ({"keyed_by_id": True}, "many.id: leave it out: the items are keyed by their jobs' ids"),
        ({"items": "jobs"}, "many.items: expected a JSON pointer"),
        ({"item": 1}, "many.item: expected a JSON pointer"),
        ({"whole": "no"}, "many.whole: expected true or false"),
        ({"separator": ";"}, "many.separator: leave it out: it stands between the {ids} of a URL, and there are none"),
        ({"next_param": "after"}, "many.next_param: leave it out, or say in `next` or `next_by` what its value is"),
        ({"pages": 2}, "many.pages: leave it out: without `next` or `next_by` there is one page"),
        ({"next": "/next", "pages": 0}, "many.pages: expected a number of at least 1, got 0"),
        ({"url": "/jobs/{job}"}, 'many: "job" is not a parameter, a kept value or one of group, ids'),
        ({"url": "/jobs/{keep.file}"}, 'many: "keep.file" is not a parameter'),
        ({"body": {"ids": "$jobs"}}, 'many: "$jobs" is not a parameter'),
        ({"headers": {"X": "{token}"}}, 'many: "token" is not a parameter'),
        ({"itmes": ""}, 'many.itmes: unknown key (did you mean "items"?)'),
    ],
)
def test_a_mistake_is_told_with_its_place(change: dict[str, Any], complaint: str) -> None:
    """What is wrong, and what is expected there; nothing else is wrong."""
    many = {key: value for key, value in {**BY_BODY, **change}.items() if value is not None}
    with pytest.raises(RecipeError) as caught:
        load(many)
    [mistake] = caught.value.mistakes
    assert mistake.startswith(f"example.toml: {complaint}")


@pytest.mark.parametrize("wrong", [1, "x", [], True, [{}]])
def test_a_table_of_the_wrong_kind_is_a_mistake(wrong: object) -> None:
    """Never another exception."""
    with pytest.raises(RecipeError, match=r"example\.toml: many: expected a table"):
        load(wrong)  # type: ignore[arg-type]


def test_ids_are_for_many_jobs_only() -> None:
    """Other requests are about one job, and no parameter has the name."""
    poll = {**RECIPE["poll"], "url": "/jobs/{ids}"}
    with pytest.raises(RecipeError, match="this name stands for a value of creche's own; choose another"):
        load(BY_BODY, params={"ids": {"about": "x"}, "group": {}})
    with pytest.raises(RecipeError, match='poll: "ids" is not a parameter'):
        load(BY_BODY, poll=poll)
    with pytest.raises(RecipeError, match='create: "ids" is not a parameter'):
        load(BY_BODY, create={"url": "/{ids}", "id": "/id"})


# -- the request -----------------------------------------------------------------------------------------


def test_ids_stand_in_a_body_as_a_list() -> None:
    """Each once, in order; beside the parameters, below the base, with the account's headers."""
    call = call_of(ask(BY_BODY, "a", "b c", "a"))
    assert (call.method, call.url) == ("POST", "https://api.example/v1/jobs/batch")
    assert call.body == b'{"ids":["a","b c"],"group":"g"}'
    assert dict(call.headers)["Authorization"] == "Bearer s3cret"
    assert dict(call.headers)["X-Version"] == "2"


@pytest.mark.parametrize(
    ("url", "separator", "target"),
    [
        ("/jobs?ids={ids}", ",", "/jobs?ids=a%2Fb,c%20d,%2E%2E"),
        ("/jobs?id={ids}", "&id=", "/jobs?id=a%2Fb&id=c%20d&id=%2E%2E"),
        ("/jobs/{+ids}", ";", "/jobs/a/b;c%20d;.."),
        ("/jobs/{ids}", "| ", "/jobs/a%2Fb%7C%20c%20d%7C%20%2E%2E"),
    ],
)
def test_ids_stand_in_a_url_with_something_between(url: str, separator: str, target: str) -> None:
    """Each encoded by itself, so that no id can look like two or lead to another place."""
    many = {"url": url, "separator": separator, "max": 9, "id": "/id"}
    assert call_of(ask(many, "a/b", "c d", "..")).url == f"https://api.example/v1{target}"


def test_an_id_is_not_a_template() -> None:
    """Whatever a provider calls its jobs."""
    assert call_of(ask({"url": "/jobs/{+ids}", "max": 9, "id": "/id"}, "{group}")).url.endswith("/jobs/%7Bgroup%7D")


def test_a_list_is_asked_for_without_ids() -> None:
    """The request is the same whatever the jobs."""
    assert call_of(ask(LIST, "a")) == call_of(ask(LIST, "b", "c"))


def test_the_credential_only_goes_to_trusted_origins() -> None:
    """As of every request."""
    assert "Authorization" not in dict(call_of(ask({**LIST, "url": "https://other.example/jobs"}, "a")).headers)


# -- the answer ------------------------------------------------------------------------------------------


def test_each_item_is_read_as_the_answer_to_its_poll() -> None:
    """Status, progress, kept values, the result as it was written, the error."""
    body = b"""{"jobs": [{"id": "a", "status": "running", "progress": 0.5, "file": "f1"},
        {"id": "b", "status": "done", "output": { "n": 1.0 }},
        {"id": "c", "status": "error", "error": {"message": "no"}}, {"id": "d", "status": "levitating"},
        {"id": "stranger", "status": "done"}], "missed": ["e"]}"""
    found = take(BY_BODY, body, "a", "b", "c", "d", "e")
    assert found.keys() == {"a", "b", "c", "d"}
    assert found["a"] == running(progress=0.5, keep={"file": "f1"})
    assert (found["b"].status, bytes(found["b"].result)) == (JobStatus.SUCCEEDED, b'{ "n": 1.0 }')
    assert (found["c"].status, found["c"].message) == (JobStatus.FAILED, "no")
    assert (found["d"].status, found["d"].known) == (JobStatus.PROCESSING, False)


def test_items_may_be_keyed_by_id() -> None:
    """Then the name of each member is its job's id."""
    many = {key: value for key, value in BY_BODY.items() if key != "id"} | {"keyed_by_id": True, "items": "/data/tasks"}
    assert take(many, b'{"data":{"tasks":{"a":{"status":"running"},"x":{}}}}', "a", "b") == {"a": running()}


def test_the_whole_answer_may_be_the_list() -> None:
    """A bare array."""
    assert take({**BY_BODY, "items": ""}, b'[{"id":"a","status":"running"}]', "a") == {"a": running()}


def test_an_item_may_be_a_part_of_what_a_poll_answers() -> None:
    """`item` says which: then all pointers and rules of the poll hold as they are."""
    poll = {**RECIPE["poll"], "status": "/data/x~1y/status", "result": "/data/x~1y/output"}
    poll["rules"] = [{"then": "paused", "exists": "/data/x~1y/held"}]
    body = b'[{"id":"a","status":"done","output":[1, 2]},{"id":"b","status":"running","held":1}]'
    found = take({**BY_BODY, "items": "", "item": "/data/x~1y"}, body, "a", "b", poll=poll)
    assert (found["a"].status, bytes(found["a"].result)) == (JobStatus.SUCCEEDED, b"[1, 2]")
    assert found["b"].status is JobStatus.PAUSED


@pytest.mark.parametrize(("item_id", "job_id"), [("7", "7"), ('"batches/a"', "a"), ('"a"', "a")])
def test_an_item_s_id_is_compared_as_text(item_id: str, job_id: str) -> None:
    """A number, or a part of a text: as a create's."""
    many = {**BY_BODY, "id": {"pointer": "/id", "pattern": "([^/]+)$"}}
    assert take(many, b'{"jobs":[{"id":%s,"status":"running"}]}' % item_id.encode(), job_id) == {job_id: running()}


@pytest.mark.parametrize(
    "item", [b'{"id":"a"}', b'{"id":"a","status":null}', b'{"status":"running"}', b"7", b"null", b'{"id":["a"]}']
)
def test_an_item_that_cannot_be_read_is_left_out(item: bytes) -> None:
    """Its job is asked for by itself, and says there what is wrong; the others are not disturbed."""
    body = b'{"jobs":[%s,{"id":"b","status":"running"}]}' % item
    assert take(BY_BODY, body, "a", "b") == {"b": running()}


def test_an_end_of_an_item_that_is_not_whole_is_left_out() -> None:
    """The job is asked for by itself, so that its result is not lost."""
    body = b'{"jobs":[{"id":"a","status":"done"},{"id":"b","status":"running"},{"id":"c","status":"error"}]}'
    assert take({**BY_BODY, "whole": False}, body, "a", "b", "c") == {"b": running()}


def test_an_end_whose_result_is_elsewhere_says_so() -> None:
    """As from a poll."""
    body = b'{"jobs":[{"id":"a","status":"done"}]}'
    assert take(BY_BODY, body, "a", fetch={"url": "/jobs/{job}/result"})["a"].to_fetch


def test_the_first_item_of_a_job_counts() -> None:
    """Lists begin with the newest."""
    body = b'{"jobs":[{"id":"a","status":"running"},{"id":"a","status":"error"}]}'
    assert take(BY_BODY, body, "a") == {"a": running()}


def test_of_the_headers_only_hints_are_about_each_job() -> None:
    """When to come back holds for all; what else a header says is about this request."""
    poll = {**RECIPE["poll"], "keep": {"at": {"header": "Location"}}}
    answer = an_answer(b'{"jobs":[{"id":"a","status":"running"}]}', retry_after="9", location="/batch/1", x_wait="4")
    assert ask(BY_BODY, "a", poll=poll).take(answer) == {"a": running(ask_again_s=9.0)}
    poll["retry_after"] = {"header": "X-Wait"}
    assert ask(BY_BODY, "a", poll=poll).take(answer) == {"a": running(ask_again_s=4.0)}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"{}", b"[]", b"<html>", b"\xff", b'{"jobs":null}', b'{"jobs":{}}', b'{"jobs":7}',
        b'{"jobs":["\xff"]}',
        b'{"jobs":[' + b"[" * 100_000,
        b'{"jobs":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
    ],
)  # fmt: skip
def test_an_answer_without_items_is_an_answer_error(body: bytes) -> None:
    """It tells nothing about any job."""
    with pytest.raises(AnswerError):
        take(BY_BODY, body, "a")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, AnswerError),
        (400, AnswerError),
        (401, CredentialsRefused),
        (404, JobNotFound),
        (429, Throttled),
        (500, AnswerError),
        (503, Outage),
    ],
)
def test_a_refused_request_is_of_the_kinds_of_a_poll(status: int, error: type[ProviderError]) -> None:
    """With the hint, redacted; rules are about single jobs and do not see it."""
    poll = {**RECIPE["poll"], "rules": [{"then": "lost", "http": ["4xx", "5xx"]}]}
    answer = an_answer(b'{"error":{"message":"key s3cret"}}', status, retry_after="7")
    with pytest.raises(ProviderError, match=rf"^HTTP {status}: key \*\*\*$") as caught:
        ask(BY_BODY, "a", poll=poll).take(answer)
    assert type(caught.value) is error
    assert caught.value.retry_after_s == 7.0


# -- pages -----------------------------------------------------------------------------------------------


def page(*job_ids: str, after: str = "null") -> Answer:
    items = ",".join(f'{{"id":"{job_id}","status":"running"}}' for job_id in job_ids)
    return an_answer(f'{{"data":[{items}],"next":{after}}}'.encode())


def test_pages_are_asked_for_until_all_jobs_were_met() -> None:
    """By a cursor in the query, each time that of the first page; what lies behind is not looked at."""
    inquiry = ask({**LIST, "next": "/next", "next_param": "after id"}, "a", "b")
    assert inquiry.take(page("x", "a", after='"p&2"')) == {"a": running()}
    call = call_of(inquiry)
    assert call.url == "https://api.example/v1/jobs?limit=2&after%20id=p%262"
    assert dict(call.headers)["Authorization"] == "Bearer s3cret"
    assert inquiry.take(page("y", after="3")) == {}
    assert call_of(inquiry).url == "https://api.example/v1/jobs?limit=2&after%20id=3"
    assert inquiry.take(page("b", after='"p4"')) == {"b": running()}
    assert inquiry.call is None


@pytest.mark.parametrize("after", ["null", '""', "false", "{}", "[]", f'"{"x" * 5000}"'])
def test_a_page_without_a_next_one_is_the_last(after: str) -> None:
    """Jobs that were not met are left out, which proves nothing."""
    inquiry = ask({**LIST, "next": "/next", "next_param": "after"}, "a", "b")
    assert inquiry.take(page("a", after=after)) == {"a": running()}
    assert inquiry.call is None


def test_pages_are_bounded() -> None:
    """A list may be longer than is worth the time, and a provider may have a page that leads to itself."""
    inquiry = ask({**LIST, "next": "/next", "next_param": "after", "pages": 2}, "a")
    inquiry.take(page("x", after='"2"'))
    inquiry.take(page("y", after='"3"'))
    assert inquiry.call is None
    inquiry = ask({**LIST, "next": "/next", "next_param": "after", "pages": 9}, "a")
    for _ in range(2):
        inquiry.take(page("x", after='"2"'))
    assert inquiry.call is None


@pytest.mark.parametrize(
    ("named", "url", "goes_along"),
    [
        ("https://api.example/v1/jobs?page=2", "https://api.example/v1/jobs?page=2", True),
        ("/v2/jobs?page={2}", "https://api.example/v2/jobs?page=%7B2%7D", True),
        ("?page=2", "https://api.example/v1/jobs?page=2", True),
        ("//evil.example/jobs", "https://evil.example/jobs", False),
        ("https://api.example@evil.example/", "https://api.example@evil.example/", False),
        ("http://api.example/v1/jobs", "http://api.example/v1/jobs", False),
    ],
)
def test_the_next_page_may_have_a_url(named: str, url: str, goes_along: bool) -> None:  # noqa: FBT001 - a table of cases
    """Whole or relative to the page that named it; the credential goes along only where it may."""
    inquiry = ask({**LIST, "next": "/next"}, "a")
    inquiry.take(page("x", after=f'"{named}"'))
    call = call_of(inquiry)
    assert call.url == url
    assert ("Authorization" in dict(call.headers)) is goes_along


def test_a_next_url_that_cannot_be_read_is_none() -> None:
    """What was found so far stands."""
    inquiry = ask({**LIST, "next": "/next"}, "a", "b")
    assert inquiry.take(page("a", after='"https://["')) == {"a": running()}
    assert inquiry.call is None


# -- the account -----------------------------------------------------------------------------------------


def test_one_account_is_one_request_and_one_way_of_reading() -> None:
    """How often to ask does not matter, nor what the other requests of the recipe are; a secret is not shown."""
    account = many_of(BY_BODY).account
    assert many_of(BY_BODY).account == account
    assert many_of(BY_BODY, poll={**RECIPE["poll"], "every": "9s", "url": "/other/{job}"}).account == account
    assert many_of(BY_BODY, cancel={"url": "/jobs/{job}"}, fetch={"url": "/r", "after": []}).account == account
    assert "s3cret" not in account


@pytest.mark.parametrize(
    "change",
    [
        {"key": "other"},
        {"group": "h"},
        {"headers": {"X-Version": "3"}},
        {"fetch": {"url": "/r"}},
        {"poll": {**RECIPE["poll"], "result": "/other"}},
        {"poll": {**RECIPE["poll"], "rules": [{"then": "lost", "exists": "/x"}]}},
    ],
)
def test_another_account_is_told_apart(change: dict[str, Any]) -> None:
    """By its credential, its parameters, or what it makes of an answer."""
    assert many_of(BY_BODY, **change).account != many_of(BY_BODY).account
    assert many_of({**BY_BODY, "whole": False}).account != many_of(BY_BODY).account


@pytest.mark.parametrize(
    ("keys", "urls"),
    [
        ({"next_by": "last_id", "next_param": "after"}, ["after=b", "after=d"]),
        ({"next_by": "offset", "next_param": "skip"}, ["skip=2", "skip=4"]),
        ({"next_by": "page", "next_param": "page"}, ["page=2", "page=3"]),
    ],
)
def test_pages_may_be_counted_on(keys: dict[str, Any], urls: list[str]) -> None:
    """All their items count, also those of other jobs; a page without items is behind the last."""
    inquiry = ask({**LIST, **keys, "pages": 9}, "z")
    asked = []
    for job_ids in (("a", "b"), ("c", "d")):
        inquiry.take(page(*job_ids))
        asked.append(call_of(inquiry).url)
    assert asked == [f"https://api.example/v1/jobs?limit=2&{url}" for url in urls]
    inquiry.take(page())
    assert inquiry.call is None
