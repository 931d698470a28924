"""The envelope: what the body of an answer says about the request, and what becomes of each request by it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.core.binding import Binding
from creche.core.envelope import Envelope, Verdict
from creche.core.exchange import Answer
from creche.core.many import Many
from creche.core.reading import JobStatus, Reading
from creche.core.recipe import load_recipe
from creche.core.task import Job
from creche.errors import (
    AnswerError,
    CreateRefused,
    CreateUncertain,
    CredentialsRefused,
    JobNotFound,
    Outage,
    ProviderError,
    Throttled,
)
from creche.testing import make_task

RECIPE: dict[str, Any] = {
    "auth": {"Authorization": "Bearer {secret}"},
    "envelope": {
        "ok": {"/code": 0, "/error": []},
        "busy": {"/code": [1302, 1303]},
        "credentials": {"/code": 1000},
        "not_found": {"/code": "1203"},
    },
    "create": {"url": "/jobs", "id": "/id"},
    "poll": {
        "url": "/jobs/{job}",
        "status": "/status",
        "statuses": {"processing": ["running"], "succeeded": ["done"], "failed": ["bad"]},
        "error": ["/message"],
    },
    "many": {"url": "/jobs", "max": 9, "items": "/data", "id": "/id"},
    "fetch": {"url": "/jobs/{job}/result", "after": ["succeeded", "failed"]},
    "cancel": {"url": "/jobs/{job}/cancel"},
}
TASK = make_task("t", input=msgspec.Raw(b"{}"))
ENDED = Reading(status=JobStatus.SUCCEEDED, to_fetch=True)
FAILED = Reading(status=JobStatus.FAILED, to_fetch=True, message="no")
KINDS = [(1302, Throttled), (1000, CredentialsRefused), (1203, JobNotFound), (7, AnswerError)]


def bound(**changes: dict[str, Any]) -> Binding:
    data = {**RECIPE, **{name: {**RECIPE.get(name, {}), **change} for name, change in changes.items()}}
    return Binding(load_recipe("r", data, "r.toml"), base="https://api.test", params={}, secret="s3cret")


def an_answer(body: object, status: int = 200, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Answer(status=status, headers={key.replace("_", "-"): value for key, value in headers.items()}, body=raw)


# -- the verdict -----------------------------------------------------------------------------------------


def envelope(**tables: dict[str, Any]) -> Envelope:
    found = load_recipe("r", {"poll": RECIPE["poll"], "envelope": tables}, "r.toml").envelope
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ({"code": 0}, Verdict.GOOD),
        ({"code": "0"}, Verdict.GOOD),
        ({"code": 0.0}, Verdict.GOOD),
        ({"code": None}, Verdict.GOOD),
        ({"other": 1}, Verdict.GOOD),
        ([], Verdict.GOOD),
        (None, Verdict.GOOD),
        ({"code": 1}, Verdict.REFUSED),
        ({"code": ""}, Verdict.REFUSED),
        ({"code": False}, Verdict.REFUSED),
        ({"code": {"a": 1}}, Verdict.REFUSED),
        ({"code": {}}, Verdict.GOOD),
        ({"code": []}, Verdict.GOOD),
    ],
)
def test_what_stands_at_a_pointer_of_ok_is_one_of_its_values(body: object, verdict: Verdict) -> None:
    """Compared as text; a pointer at which nothing stands, or null, or an empty list or object, says nothing."""
    assert envelope(ok={"/code": [0]}).verdict(body) is verdict


@pytest.mark.parametrize("there", ["", "no", 0, False, {"a": 1}, ["no"]])
def test_where_an_empty_list_is_named_nothing_may_stand(there: object) -> None:
    """Not even an empty text; null and an empty list or object are nothing."""
    strict = envelope(ok={"/error": []})
    assert strict.verdict({"error": there}) is Verdict.REFUSED
    assert strict.verdict({}) is strict.verdict({"error": None}) is Verdict.GOOD
    assert strict.verdict({"error": []}) is strict.verdict({"error": {}}) is Verdict.GOOD


def test_all_pointers_of_ok_must_hold() -> None:
    """One that does not makes the answer a refusal."""
    both = envelope(ok={"/code": 0, "/success": True})
    assert both.verdict({"code": 0, "success": True}) is Verdict.GOOD
    assert both.verdict({"code": 0, "success": False}) is both.verdict({"code": 1, "success": True}) is Verdict.REFUSED


def test_a_kind_of_refusal_is_told_by_any_of_its_pointers() -> None:
    """It needs no `ok`, and comes before it."""
    some = envelope(ok={"/code": [0, 5]}, busy={"/code": 5, "/sub": ["limit"]})
    assert some.verdict({"code": 5}) is some.verdict({"code": 0, "sub": "limit"}) is Verdict.BUSY
    assert some.verdict({"code": 0, "sub": "none"}) is Verdict.GOOD


# -- creates ---------------------------------------------------------------------------------------------


def created(body: object, status: int = 200, **changes: dict[str, Any]) -> Reading:
    return bound(**changes).read_create(an_answer(body, status), TASK)


def test_a_good_create_brings_its_job() -> None:
    """As without an envelope."""
    assert created({"code": 0, "id": "j1"}).job == "j1"


@pytest.mark.parametrize("status", [200, 400, 403, 404, 422, 429])
@pytest.mark.parametrize(("code", "error"), [(1302, Throttled), (1000, CredentialsRefused)])
def test_a_create_that_may_be_sent_again_is_told_by_the_body(status: int, code: int, error: type[Exception]) -> None:
    """Whatever the HTTP status of the refusal."""
    with pytest.raises(ProviderError, match=f"^HTTP {status}: later, please$") as caught:
        created({"code": code, "message": "later, please", "id": "j1"}, status)
    assert type(caught.value) is error


@pytest.mark.parametrize("code", [7, 1203])
@pytest.mark.parametrize("status", [200, 201, 400])
def test_a_refused_create_has_made_no_job(code: int, status: int) -> None:
    """It was answered; an id that stands beside the refusal is not believed."""
    with pytest.raises(CreateRefused, match=f"^HTTP {status}: bad prompt$"):
        created({"code": code, "message": "bad prompt", "id": "j1"}, status)


@pytest.mark.parametrize("status", [500, 502, 302, 408])
def test_a_create_that_broke_stays_uncertain(status: int) -> None:
    """A refusal in the body of such an answer does not say that nothing was made before."""
    with pytest.raises(CreateUncertain):
        created({"code": 7}, status)


def test_a_status_without_a_code_is_read_as_ever() -> None:
    """The envelope says nothing of it, nor of an answer that is no JSON."""
    for body in ({"message": "slow"}, b"<html>"):
        with pytest.raises(Throttled):
            created(body, 429)
        with pytest.raises(CreateRefused):
            created(body, 400)
    with pytest.raises(CreateUncertain, match="the body is no JSON"):
        created(b"<html>")


def test_a_job_that_exists_already_is_ours_whatever_the_envelope_says() -> None:
    """A repeated create has met the job of the first one."""
    body = {"code": 7, "message": "job exists already"}
    create = {"repeat": "id", "exists": [200], "exists_pattern": "exists already"}
    assert created(body, create=create).job == TASK.token


# -- polls and lists -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 404, 503])
@pytest.mark.parametrize(("code", "error"), KINDS[:3])
def test_a_poll_s_error_is_told_by_the_body_first(status: int, code: int, error: type[Exception]) -> None:
    """Then by the HTTP status; with the hint of when to come back."""
    answer = an_answer({"code": code, "message": "no s3cret", "status": "done"}, status, retry_after="7")
    with pytest.raises(ProviderError, match=rf"^HTTP {status}: no \*\*\*$") as caught:
        bound().read_poll(answer)
    assert type(caught.value) is error
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("status", "error"), [(200, AnswerError), (404, JobNotFound), (429, Throttled), (401, CredentialsRefused)]
)
def test_a_plain_refusal_leaves_the_kind_to_the_http_status(status: int, error: type[Exception]) -> None:
    """It is as HTTP 400 where that is a success."""
    with pytest.raises(ProviderError) as caught:
        bound().read_poll(an_answer({"code": 7, "status": "done"}, status))
    assert type(caught.value) is error


def test_rules_come_before_the_envelope() -> None:
    """What a rule says about the job is said, though its answer would be a refusal."""
    rules = [{"then": "failed", "equals": {"/code": 7}}, {"then": "lost", "http": 400, "equals": {"/code": 1302}}]
    binding = bound(poll={"rules": rules})
    reading = binding.read_poll(an_answer({"code": 7, "message": "unsafe"}))
    assert (reading.status, reading.message) == (JobStatus.FAILED, "unsafe")
    assert binding.read_poll(an_answer({"code": 1302}, 400)).status is JobStatus.LOST
    with pytest.raises(Throttled):
        binding.read_poll(an_answer({"code": 1302}))


@pytest.mark.parametrize(("code", "error"), KINDS)
def test_a_refused_list_is_of_the_same_kinds(code: int, error: type[Exception]) -> None:
    """Of many jobs: nothing is said about any of them."""
    inquiry = Many(bound()).about([Job("a")])
    with pytest.raises(ProviderError) as caught:
        inquiry.take(an_answer({"code": code, "data": [{"id": "a", "status": "done"}]}))
    assert type(caught.value) is error


# -- fetches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "error"), KINDS)
def test_a_refused_fetch_is_no_result(code: int, error: type[Exception]) -> None:
    """Though it came with 200."""
    with pytest.raises(ProviderError) as caught:
        bound().read_fetch(an_answer({"code": code}), ENDED)
    assert type(caught.value) is error


def test_a_result_that_is_no_json_has_no_envelope() -> None:
    """A file is a file."""
    reading = bound(fetch={"format": "text"}).read_fetch(an_answer(b"plain"), ENDED)
    assert bytes(reading.result) == b'"plain"'


@pytest.mark.parametrize(("code", "status"), [(1302, 200), (1302, 400), (7, 503), (1000, 200)])
def test_the_message_of_a_failed_job_is_asked_for_again(code: int, status: int) -> None:
    """What passes, or can be repaired, is no refusal."""
    with pytest.raises(ProviderError):
        bound().read_fetch(an_answer({"code": code}, status), FAILED)


@pytest.mark.parametrize("code", [7, 1203])
def test_a_refusal_is_the_message_of_a_job_that_failed_anyway(code: int) -> None:
    """As an HTTP 400 would be: there is nothing to lose, and nothing to ask for again."""
    reading = bound().read_fetch(an_answer({"code": code, "message": "out of memory"}), FAILED)
    assert (reading.status, reading.message, reading.to_fetch) == (JobStatus.FAILED, "HTTP 200: out of memory", False)


def test_the_message_of_a_failed_job_comes_from_a_good_fetch() -> None:
    """At the pointers of [fetch], else what the poll said stands."""
    binding = bound(fetch={"error": "/why"})
    assert binding.read_fetch(an_answer({"code": 0, "why": "too long"}), FAILED).message == "too long"
    assert binding.read_fetch(an_answer({"code": 0}), FAILED).message == "no"


# -- cancels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "agreed"),
    [(0, 200, True), (7, 200, False), (7, 409, True), (1203, 200, True), (1203, 400, True), (0, 405, False)],
)
def test_a_cancel_is_agreed_to_or_refused_by_the_body(code: int, status: int, *, agreed: bool) -> None:
    """A refusal with 200 is as HTTP 400, a job that is not known as 404; other statuses mean what they mean."""
    assert bound().read_cancel(an_answer({"code": code}, status)) is agreed


def test_a_job_that_is_not_known_is_no_agreement_where_404_is_none() -> None:
    """The recipe says in `agreed` what ends a job."""
    assert not bound(cancel={"agreed": [200]}).read_cancel(an_answer({"code": 1203}))


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [(1302, 200, Throttled), (1000, 200, CredentialsRefused), (1302, 400, Throttled), (7, 503, Outage)],
)
def test_a_cancel_that_came_at_a_bad_time_is_sent_again(code: int, status: int, error: type[Exception]) -> None:
    """Neither agreed nor refused."""
    with pytest.raises(ProviderError) as caught:
        bound().read_cancel(an_answer({"code": code}, status))
    assert type(caught.value) is error
