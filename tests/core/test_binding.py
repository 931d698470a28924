"""A recipe bound to an account: the requests it writes, and what it makes of the answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.core.binding import JOB_LIMIT, Binding
from creche.core.exchange import Answer
from creche.core.reading import KEEP_LIMIT, JobStatus, Reading
from creche.core.recipe import load_recipe
from creche.core.task import Job, Task
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

RECIPE: dict[str, dict[str, Any]] = {
    "params": {"model": {"about": "which model"}},
    "headers": {"X-Version": "2"},
    "auth": {"Authorization": "Bearer {secret}"},
    "create": {
        "url": "/jobs",
        "id": "/id",
        "keep": {"poll": "/urls/get"},
        "headers": {"Idempotency-Key": "{token}"},
        "body": {"input": "$input", "model": "$model", "user": "$user"},
    },
    "poll": {
        "url": "/jobs/{job}",
        "status": "/status",
        "statuses": {"waiting": ["queued"], "processing": ["running"], "succeeded": ["done"], "failed": ["error"]},
        "result": "/output",
        "error": ["/error/message"],
        "progress": "/progress",
    },
    "cancel": {"url": "/jobs/{job}/cancel"},
}
TASK = Task(id="t1", algorithm="draw", token="k1", accepted_at=0.0, input=msgspec.Raw(b'{"a":1}'))
JOB = Job("j 1", {"poll": "https://api.example/v1/jobs/j1"})


def bound(**changes: dict[str, Any]) -> Binding:
    data = {**RECIPE, **{name: {**RECIPE.get(name, {}), **change} for name, change in changes.items()}}
    recipe = load_recipe("example", data, "example.toml")
    return Binding(recipe, base="https://api.example/v1/", params={"model": "m"}, secret="s3cret")


def an_answer(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status=status, headers={key.replace("_", "-"): value for key, value in headers.items()}, body=body)


# -- requests ------------------------------------------------------------------------------------------


def test_a_create_is_written_as_the_recipe_says() -> None:
    """Method, URL below the base, headers of recipe, step and account, and the filled body."""
    call = bound().create_call(TASK)
    assert (call.method, call.url) == ("POST", "https://api.example/v1/jobs")
    assert dict(call.headers) == {
        "Accept": "application/json",
        "User-Agent": "creche",
        "X-Version": "2",
        "Idempotency-Key": "k1",
        "Authorization": "Bearer s3cret",
        "Content-Type": "application/json",
    }
    assert call.body == b'{"input":{"a":1},"model":"m"}'


def test_a_create_that_cannot_be_repeated_goes_over_a_new_connection() -> None:
    """Its loss must not be mistaken for a stale kept-alive connection."""
    assert bound().create_call(TASK).fresh
    assert not bound(create={"repeat": "token"}).create_call(TASK).fresh
    # The transport repeats a GET by itself: if that finds nobody, "certainly not sent" would be wrong.
    assert bound(create={"repeat": "token", "method": "GET"}).create_call(TASK).fresh
    assert (bound().way.repeat, bound(create={"repeat": "token"}).way.repeat) == ("none", "token")


def test_a_trace_goes_on_at_the_provider() -> None:
    """With the create, unless the recipe has that header for something."""
    trace = f"00-{32 * 'a'}-{16 * 'b'}-01"
    traced = msgspec.structs.replace(TASK, traceparent=trace)
    assert ("traceparent", trace) in bound().create_call(traced).headers
    own = bound(create={"headers": {"Traceparent": "mine"}}).create_call(traced)
    assert [value for name, value in own.headers if name.lower() == "traceparent"] == ["mine"]
    assert traced.trace_id == 32 * "a"


def test_a_job_s_id_stays_in_its_segment() -> None:
    """Percent-encoded."""
    assert bound().poll_call(JOB).url == "https://api.example/v1/jobs/j%201"


@pytest.mark.parametrize(
    ("url", "goes_along"),
    [
        ("https://api.example/v1/jobs/1", True),
        ("https://API.example:443/other", True),
        ("http://api.example/v1/jobs/1", False),
        ("https://api.example:8443/v1", False),
        ("https://api.example.evil/v1", False),
        ("https://api.example@evil.example/", False),
        ("https://evil.example/#@api.example/", False),
        ("https://files.example/x", True),
        ("https://[", False),
    ],
)
def test_the_credential_only_goes_to_trusted_origins(url: str, goes_along: bool) -> None:  # noqa: FBT001 - a table of cases
    """An answer may name any URL; that it was named there earns no trust."""
    data = {**RECIPE, "origins": ["https://files.example"], "poll": {**RECIPE["poll"], "url": "{+keep.poll}"}}
    binding = Binding(
        load_recipe("example", data, "example.toml"),
        base="https://api.example/v1",
        params={"model": "m"},
        secret="s3cret",
    )
    call = binding.poll_call(Job("j1", {"poll": url}))
    assert ("Authorization" in dict(call.headers)) is goes_along


def test_a_value_that_no_answer_named_is_an_answer_error() -> None:
    """It counts, because asking again will not bring it."""
    with pytest.raises(AnswerError, match=r'needs "keep\.poll"'):
        bound(poll={"url": "{+keep.poll}"}).poll_call(Job("j1"))


def test_a_recipe_without_create_refuses_to_create() -> None:
    """It only attaches."""
    data = {name: part for name, part in RECIPE.items() if name != "create"}
    binding = Binding(load_recipe("example", data, "e.toml"), base="https://x", params={"model": "m"}, secret=None)
    with pytest.raises(CreateRefused, match="only attaches"):
        binding.create_call(TASK)


# -- the answer to a create ----------------------------------------------------------------------------


def test_a_create_brings_the_job_and_what_is_needed_again() -> None:
    """Id, kept values, and the state it is in already."""
    body = b'{"id":"j1","status":"queued","urls":{"get":"https://x/j1"}}'
    reading = bound().read_create(an_answer(201, body), TASK)
    assert (reading.job, reading.keep, reading.status) == ("j1", {"poll": "https://x/j1"}, JobStatus.WAITING)


def test_a_create_may_bring_the_end() -> None:
    """It goes through the same reading as a poll."""
    reading = bound().read_create(an_answer(200, b'{"id":"j1","status":"done","output":[1, 2]}'), TASK)
    assert (reading.status, bytes(reading.result)) == (JobStatus.SUCCEEDED, b"[1, 2]")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, CreateRefused),
        (401, CredentialsRefused),
        (402, CredentialsRefused),
        (403, CredentialsRefused),
        (404, CreateRefused),
        (408, CreateUncertain),
        (422, CreateRefused),
        (429, Throttled),
        (500, CreateUncertain),
        (502, CreateUncertain),
        (503, CreateUncertain),
    ],
)
def test_a_failed_create_tells_whether_a_job_may_exist(status: int, error: type[ProviderError]) -> None:
    """Refused, later, or uncertain: never pay twice hangs on this."""
    with pytest.raises(ProviderError) as caught:
        bound().read_create(an_answer(status, b'{"error":{"message":"no"}}', retry_after="7"), TASK)
    assert type(caught.value) is error
    assert str(caught.value) == f"HTTP {status}: no"


@pytest.mark.parametrize("status", [301, 302, 303, 307])
def test_a_redirected_create_is_uncertain(status: int) -> None:
    """To redirect after a POST is how some say that the job is there, others that nothing happened."""
    with pytest.raises(CreateUncertain, match=f"^HTTP {status} .redirects are not followed.$") as caught:
        bound().read_create(an_answer(status, location="/jobs/j1"), TASK)
    assert caught.value.answered


def test_an_id_that_is_too_long_is_none() -> None:
    """It would stand in every record and log line; the job that it names is as good as not known."""
    longest = b'{"id":"%s"}'
    assert bound().read_create(an_answer(201, longest % (b"j" * JOB_LIMIT)), TASK).job == "j" * JOB_LIMIT
    with pytest.raises(CreateUncertain, match="the job's id in the answer has 2001 characters") as caught:
        bound().read_create(an_answer(201, longest % (b"j" * (JOB_LIMIT + 1))), TASK)
    assert caught.value.answered


def test_a_kept_value_that_is_too_long_is_not_kept() -> None:
    """Neither from the create nor from a poll."""
    body = b'{"id":"j1","status":"running","urls":{"get":"%s"}}'
    binding = bound(poll={"keep": {"poll": "/urls/get"}})
    assert binding.read_poll(an_answer(200, body % (b"u" * KEEP_LIMIT))).keep == {"poll": "u" * KEEP_LIMIT}
    long = an_answer(200, body % (b"u" * (KEEP_LIMIT + 1)))
    with pytest.raises(
        AnswerError, match=r'^"keep\.poll" in the answer has 4001 characters, and at most 4000 are taken'
    ):
        binding.read_poll(long)
    for one in (binding, bound()):
        with pytest.raises(CreateUncertain, match=r'"keep\.poll" in the answer has 4001 characters') as caught:
            one.read_create(long, TASK)
        assert caught.value.answered


def test_a_recipe_may_call_other_statuses_busy() -> None:
    """Where a provider says 503 only when it certainly made no job."""
    with pytest.raises(Throttled) as caught:
        bound(create={"busy": [429, 503]}).read_create(an_answer(503, retry_after="7"), TASK)
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"id":null}', b'{"id":""}'])
def test_a_create_without_an_id_is_uncertain(body: bytes) -> None:
    """The provider took the request, so a job may be running under a name that we did not learn."""
    with pytest.raises(CreateUncertain):
        bound().read_create(an_answer(200, body), TASK)


def test_an_id_of_our_own_is_known_in_any_case() -> None:
    """Also when the repeated create meets the job that the first one made."""
    binding = bound(create={"repeat": "id", "exists": [409]})
    assert binding.read_create(an_answer(200, b"{}"), TASK).job == "k1"
    assert binding.read_create(an_answer(409), TASK).job == "k1"


def test_a_page_of_somebody_else_tells_of_no_job_of_ours() -> None:
    """The create is repeated, and meets its job if there is one; a recipe that looks for no id needs no body."""
    with pytest.raises(CreateUncertain):
        bound(create={"repeat": "id"}).read_create(an_answer(200, b"<html>"), TASK)
    recipe = {**RECIPE, "create": {"url": "/jobs/{token}", "method": "PUT", "repeat": "id"}}
    binding = Binding(load_recipe("example", recipe, "example.toml"), base="", params={"model": "m"}, secret="s")
    assert binding.read_create(an_answer(200, b"created"), TASK).job == "k1"


# -- the answer to a poll ------------------------------------------------------------------------------


def test_a_poll_is_read() -> None:
    """Status, the provider's own word, progress, and its hint."""
    reading = bound().read_poll(an_answer(200, b'{"status":"running","progress":0.25}', retry_after="9"))
    assert (reading.status, reading.provider_status, reading.progress) == (JobStatus.PROCESSING, "running", 0.25)
    assert (reading.ask_again_s, reading.known) == (9.0, True)


def test_a_failure_has_the_provider_s_message() -> None:
    """From where the recipe says."""
    reading = bound().read_poll(an_answer(200, b'{"status":"error","error":{"message":"out of memory"}}'))
    assert (reading.status, reading.message) == (JobStatus.FAILED, "out of memory")


def test_a_new_word_never_ends_a_task() -> None:
    """It counts as processing and is marked as not known."""
    reading = bound().read_poll(an_answer(200, b'{"status":"warming up"}'))
    assert (reading.status, reading.known, reading.provider_status) == (JobStatus.PROCESSING, False, "warming up")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b'{"status":null}'])
def test_a_poll_without_a_status_is_an_answer_error(body: bytes) -> None:
    """It was answered, but not the question."""
    with pytest.raises(AnswerError):
        bound().read_poll(an_answer(200, body))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, AnswerError),
        (401, CredentialsRefused),
        (402, CredentialsRefused),
        (403, CredentialsRefused),
        (404, JobNotFound),
        (408, Outage),
        (410, JobNotFound),
        (429, Throttled),
        (500, AnswerError),
        (502, Outage),
        (503, Outage),
        (504, Outage),
    ],
)
def test_a_failed_poll_is_of_one_of_three_kinds(status: int, error: type[ProviderError]) -> None:
    """Outage, credentials, answer error; and the job that is not there."""
    with pytest.raises(ProviderError) as caught:
        bound().read_poll(an_answer(status, b"<h1>no\n way</h1>", retry_after="7"))
    assert type(caught.value) is error
    assert str(caught.value) == f"HTTP {status}: <h1>no way</h1>"
    assert caught.value.retry_after_s == 7.0


def test_the_first_rule_that_matches_comes_before_the_status() -> None:
    """Rules see what a word alone does not tell."""
    rules = [
        {"then": "failed", "exists": "/error"},
        {"then": "succeeded", "equals": {"/status": "done"}, "partial": True},
    ]
    binding = bound(poll={"rules": rules})
    assert binding.read_poll(an_answer(200, b'{"status":"done","error":{}}')).status is JobStatus.FAILED
    assert binding.read_poll(an_answer(200, b'{"status":"done","error":null}')).partial
    assert binding.read_poll(an_answer(200, b'{"status":"running"}')).status is JobStatus.PROCESSING


def test_a_rule_can_give_an_error_status_a_meaning() -> None:
    """A 404 that means expired; other statuses stay errors."""
    binding = bound(poll={"rules": [{"then": "expired", "http": 404}]})
    assert binding.read_poll(an_answer(404, b"gone")).status is JobStatus.EXPIRED
    with pytest.raises(JobNotFound):
        binding.read_poll(an_answer(410))


@pytest.mark.parametrize(
    ("hint", "seconds"), [("3", 3.0), ("0.5", 0.5), ("1e9", 3600.0), ("-1", None), ("nan", None), ("soon", 7.0)]
)
def test_a_hint_of_the_recipe_s_own_comes_before_retry_after(hint: str, seconds: float | None) -> None:
    """At most an hour; an unreadable one leaves it to Retry-After."""
    binding = bound(poll={"retry_after": {"header": "X-Wait"}})
    answer = an_answer(200, b'{"status":"running"}', x_wait=hint, retry_after="7")
    assert binding.read_poll(answer).ask_again_s == seconds


def test_answers_that_differ_in_what_is_looked_at_have_different_gists() -> None:
    """Status, body, and the headers that the recipe names; all others may be what they will."""
    binding = bound(poll={"keep": {"next": {"header": "Location"}}, "retry_after": {"header": "X-Next"}})
    one = binding.gist(an_answer(200, b'{"status": "run"}', date="1", location="/a", **{"x-next": "5"}))
    assert one is not None
    assert one == binding.gist(an_answer(200, b'{"status": "run"}', date="2", location="/a", **{"x-next": "5"}))
    for status, body, headers in (
        (202, b'{"status": "run"}', {"location": "/a", "x-next": "5"}),
        (200, b'{"status":"run"}', {"location": "/a", "x-next": "5"}),
        (200, b'{"status": "run"}', {"location": "/b", "x-next": "5"}),
        (200, b'{"status": "run"}', {"location": "/a", "x-next": "6"}),
        (200, b'{"status": "run"}', {"location": "/a"}),
    ):
        assert binding.gist(an_answer(status, body, **headers)) != one


def test_an_answer_with_a_time_to_come_back_has_no_gist() -> None:
    """What it means depends on when it is said."""
    assert bound().gist(an_answer(200, b"{}", **{"retry-after": "7"})) is None


def test_a_secret_that_is_echoed_is_not_passed_on() -> None:
    """Some providers quote the key that they refuse."""
    with pytest.raises(CredentialsRefused, match=r"key \*\*\* is wrong") as caught:
        bound().read_poll(an_answer(401, b'{"error":{"message":"key s3cret is wrong"}}'))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"base": "https://elsewhere.test"},
        {"params": {"model": "other"}},
        {"create": {"url": "/other"}},
        {"create": {"repeat": "none"}},
        {"create": {"body": {"x": 1}}},
        {"create": {"headers": {"X": "1"}}},
    ],
)
def test_what_makes_a_create_another_one(change: dict[str, Any]) -> None:
    """Whatever of it is sent, and where to; not how its answer is read, and not the secret."""

    def way(**other: Any) -> str:  # noqa: ANN401 - parts of a recipe and its binding
        parts = {"base": "https://api.test", "params": {"model": "m"}, "secret": "s", "create": {}} | other
        create = {**RECIPE["create"], "repeat": "token", **parts.pop("create")}
        return Binding(load_recipe("r", RECIPE | {"create": create}, "r.toml"), **parts).way.digest

    assert way(**change) != way()
    assert way(secret="another") == way(create={"busy": 409}) == way()


# -- fetch and cancel ----------------------------------------------------------------------------------


def test_an_end_that_needs_a_second_request_says_so() -> None:
    """And only such an end."""
    binding = bound(fetch={"url": "/jobs/{job}/result"})
    assert binding.read_poll(an_answer(200, b'{"status":"done"}')).to_fetch
    assert not binding.read_poll(an_answer(200, b'{"status":"error"}')).to_fetch
    assert not binding.read_poll(an_answer(200, b'{"status":"running"}')).to_fetch


ENDED = Reading(status=JobStatus.SUCCEEDED, to_fetch=True)


@pytest.mark.parametrize(
    ("step", "body", "result"),
    [
        ({}, b'{"x": 1}', b'{"x": 1}'),
        ({"result": "/x"}, b'{"x": 1}', b"1"),
        ({"format": "text"}, b'a "b"\n', b'"a \\"b\\"\\n"'),
        ({"format": "text"}, b"\xff", '"\ufffd"'.encode()),
        ({"format": "jsonl"}, b'{"a": 1}\n{"b":2}\n', b'[{"a": 1},{"b":2}]'),
        ({"format": "jsonl"}, b"", b"[]"),
    ],
)
def test_a_fetched_result_is_json(step: dict[str, Any], body: bytes, result: bytes) -> None:
    """Of any format: JSON as it came, lines as an array, text as a text."""
    reading = bound(fetch={"url": "/r", **step}).read_fetch(an_answer(200, body), ENDED)
    assert (bytes(reading.result), reading.to_fetch) == (result, False)


@pytest.mark.parametrize("step", [{}, {"format": "jsonl"}])
def test_an_unreadable_result_is_an_answer_error(step: dict[str, Any]) -> None:
    """It may be readable the next time."""
    with pytest.raises(AnswerError):
        bound(fetch={"url": "/r", **step}).read_fetch(an_answer(200, b"<html>"), ENDED)


@pytest.mark.parametrize("step", [{}, {"format": "jsonl"}])
def test_a_result_that_is_given_out_once_is_kept_whatever_it_is(step: dict[str, Any]) -> None:
    """It was paid for, and cannot be asked for again."""
    binding = bound(fetch={"url": "/r", "once": True, **step})
    assert bytes(binding.read_fetch(an_answer(200, b"a, b"), ENDED).result) == b'"a, b"'
    with pytest.raises(AnswerError):  # a proxy's page, say, is no result
        binding.read_fetch(an_answer(200, b"<html>", content_type="text/html"), ENDED)


def test_the_second_request_may_reveal_a_failure() -> None:
    """Where the recipe says by which status."""
    binding = bound(fetch={"url": "/r", "failed": 422, "error": "/detail"})
    reading = binding.read_fetch(an_answer(422, b'{"detail":"bad prompt"}'), ENDED)
    assert (reading.status, reading.message, reading.to_fetch) == (JobStatus.FAILED, "HTTP 422: bad prompt", False)


def test_a_job_that_named_nothing_to_fetch_is_complete() -> None:
    """No request is made."""
    assert bound(fetch={"url": "{+keep.poll}"}).fetch_call(Job("j1")) is None


@pytest.mark.parametrize(
    ("status", "agreed"), [(200, True), (204, True), (404, True), (409, True), (400, False), (405, False)]
)
def test_a_cancel_is_agreed_to_or_refused(status: int, agreed: bool) -> None:  # noqa: FBT001 - a table of cases
    """A job that is gone or has ended needs no more cancelling."""
    assert bound().read_cancel(an_answer(status)) is agreed


@pytest.mark.parametrize("status", [401, 408, 429, 500, 503])
def test_a_cancel_that_failed_is_sent_again(status: int) -> None:
    """Neither agreed nor refused."""
    with pytest.raises(ProviderError):
        bound().read_cancel(an_answer(status))


def test_a_provider_without_cancel_has_no_request_for_it() -> None:
    """None, not an error."""
    data = {name: part for name, part in RECIPE.items() if name != "cancel"}
    binding = Binding(load_recipe("example", data, "e.toml"), base="https://x", params={"model": "m"}, secret=None)
    assert binding.cancel_call(JOB) is None
