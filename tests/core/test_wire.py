"""The messages of the API: what is taken, how refusals look, what clients see."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.core import wire
from creche.core.task import Cancelled, Failed, Job, Outcome, ServerFailed, Status, Succeeded, Task, TimedOut
from creche.core.wire import JobIn, ResolveIn, TaskIn
from creche.errors import InvalidRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=10,
)
FIELDS = st.sampled_from([field.encode_name for field in msgspec.structs.fields(TaskIn)])


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        wire.decode(body, TaskIn)
    return caught.value


def a_task(**fields: object) -> Task:
    return msgspec.structs.replace(Task(id="t1", algorithm="draw", token="k1", accepted_at=0.0), **fields)


# -- in ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    """Whatever arrives, the client gets a problem and never a 500."""
    for type_ in (TaskIn, ResolveIn):
        with contextlib.suppress(InvalidRequest):
            wire.decode(body, type_)


@given(st.dictionaries(FIELDS | st.text(max_size=8), JSON, max_size=6), JSON)
def test_no_json_raises_anything_but_a_refusal(members: dict[str, object], job: object) -> None:
    """Nor does JSON that is nearly a task; the pointer, if there is one, is a pointer."""
    for content in (members, {"algorithm": "a", **members}, {"algorithm": "a", "job": job}):
        try:
            wire.decode(msgspec.json.encode(content), TaskIn)
        except InvalidRequest as exc:
            assert not exc.pointer or exc.pointer.startswith("/")  # noqa: PT017 - either way is right


def test_deep_nesting_is_refused() -> None:
    """The recursion limit is a refusal like any other."""
    assert "nested too deeply" in str(refusal(b'{"algorithm":"a","input":' + b"[" * 100_000))


def test_the_input_is_kept_verbatim() -> None:
    """Byte for byte; null is an input, absence is none."""
    task = wire.decode(b'{"algorithm": "a", "input": {"b": 1.0,  "a":1e2} }', TaskIn)
    assert isinstance(task.input, msgspec.Raw)
    assert bytes(task.input) == b'{"b": 1.0,  "a":1e2}'
    assert wire.decode(b'{"algorithm":"a"}', TaskIn).input is msgspec.UNSET
    assert bytes(wire.decode(b'{"algorithm":"a","input":null}', TaskIn).input) == b"null"  # type: ignore[arg-type]


def test_a_job_is_an_id_or_an_id_with_what_was_kept() -> None:
    """Both forms attach."""
    assert wire.decode(b'{"algorithm":"a","job":"j"}', TaskIn).job == "j"
    assert wire.decode(b'{"algorithm":"a","job":{"id":"j","keep":{"u":"x"}}}', TaskIn).job == JobIn("j", {"u": "x"})


@pytest.mark.parametrize(
    ("body", "pointer", "message"),
    [
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b'{"algorithm":"\xff"}', None, "not valid JSON"),
        (b"[]", "", "Expected `object`"),
        (b"{}", "", "missing required field `algorithm`"),
        (b'{"algorithm":7}', "/algorithm", "Expected `str`"),
        (b'{"algorithm":""}', "/algorithm", "length >= 1"),
        (b'{"algorithm":"a","prioritty":1}', "/prioritty", 'did you mean "priority"?'),
        (b'{"algorithm":"a","a/b~c":1}', "/a~1b~0c", "unknown field"),
        (b'{"algorithm":"a","priority":101}', "/priority", "<= 100"),
        (b'{"algorithm":"a","id":"-x"}', "/id", "matching regex"),
        (b'{"algorithm":"a","id":"a b"}', "/id", "matching regex"),
        (b'{"algorithm":"a","labels":{"x":1}}', "/labels", "Expected `str`"),
        (b'{"algorithm":"a","job":{"id":7}}', "/job/id", "Expected `str`"),
        (b'{"algorithm":"a","start_at":"noon"}', "/start_at", "RFC3339"),
        (b'{"algorithm":"a","traceparent":"00-x"}', "/traceparent", "matching regex"),
    ],
)
def test_a_refusal_says_what_and_where(body: bytes, pointer: str | None, message: str) -> None:
    """The pointer leads into the request's body."""
    refused = refusal(body)
    assert refused.pointer == pointer
    assert message in str(refused)


@pytest.mark.parametrize(("value", "seconds"), [("90s", 90.0), ("1h30m", 5400.0), (5, 5.0), (0.5, 0.5)])
def test_a_duration_is_a_text_or_a_number_of_seconds(value: str | float, seconds: float) -> None:
    """As in config.toml, or plain."""
    assert wire.seconds_of(value, "/deadline") == seconds


@pytest.mark.parametrize(
    "value", ["", "soon", "0s", 0, -1, float("nan"), float("inf"), wire.MAX_DEADLINE_S + 1, "9" * 400 + "s"]
)
def test_any_other_duration_is_refused(value: str | float) -> None:
    """More than a year is more likely milliseconds."""
    with pytest.raises(InvalidRequest) as caught:
        wire.seconds_of(value, "/deadline")
    assert caught.value.pointer == "/deadline"


def test_the_same_content_has_the_same_fingerprint() -> None:
    """The id does not belong to the content; everything else that the client chose does."""
    task = TaskIn(algorithm="a", key="k", input=msgspec.Raw(b"1"))
    same = [msgspec.structs.replace(task, id="x"), msgspec.structs.replace(task)]
    other = [msgspec.structs.replace(task, input=msgspec.Raw(b"2")), msgspec.structs.replace(task, algorithm="b")]
    assert {wire.fingerprint(one) for one in same} == {wire.fingerprint(task)}
    assert wire.fingerprint(task) not in {wire.fingerprint(one) for one in other}


# -- out -----------------------------------------------------------------------------------------------


def test_a_problem_has_the_one_shape() -> None:
    """RFC 9457, with our code and a pointer to the cause."""
    response = wire.problem_response(409, "invalid_request", "no", pointer="/a")
    assert (response.status, response.content_type, response.headers) == (409, "application/problem+json", ())
    assert msgspec.json.decode(response.body) == {
        "title": "Conflict",
        "status": 409,
        "code": "invalid_request",
        "detail": "no",
        "errors": [{"detail": "no", "pointer": "/a"}],
    }


def test_a_problem_that_passes_says_when_to_come_back() -> None:
    """503 has Retry-After."""
    assert wire.problem_response(503, "unavailable", "no").headers == (("Retry-After", "1"),)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Succeeded(msgspec.Raw(b'{"a":1}'), partial=True), {"result": {"a": 1}, "partial": True}),
        (Failed("provider", "broken"), {"reason": "provider", "message": "broken"}),
        (Failed("provider"), {"reason": "provider"}),
        (Cancelled("client"), {"reason": "client"}),
        (TimedOut(60.0), {"reason": "deadline", "message": "no end within 60 s; the job may still run"}),
        (
            ServerFailed(5, "HTTP 500"),
            {"reason": "answer_errors", "message": "5 answers in a row were errors; the last: HTTP 500"},
        ),
    ],
)
def test_an_outcome_shows_only_its_own_fields(outcome: Outcome, expected: dict[str, object]) -> None:
    """What an end does not have is left out."""
    seen = msgspec.json.decode(msgspec.json.encode(wire.task_out(a_task(outcome=outcome))))
    assert {key: seen[key] for key in ("result", "partial", "reason", "message") if key in seen} == expected


def test_a_fresh_task_is_small_on_the_wire() -> None:
    """Fields without a value are left out; the token is ours and never shown."""
    assert msgspec.json.decode(msgspec.json.encode(wire.task_out(a_task()))) == {
        "id": "t1",
        "algorithm": "draw",
        "status": "accepted",
        "accepted_at": "1970-01-01T00:00:00Z",
    }


def test_times_are_utc_to_the_millisecond() -> None:
    """RFC 3339."""
    task = a_task(status=Status.WAITING, job=Job("j1", since=1.23456), deadline_at=61.5, provider_status="queued")
    seen = msgspec.json.decode(msgspec.json.encode(wire.task_out(task)))
    assert seen["deadline_at"] == "1970-01-01T00:01:01.500000Z"
    assert seen["job"] == {"id": "j1", "since": "1970-01-01T00:00:01.235000Z", "status": "queued"}


def test_the_input_is_shown_on_request() -> None:
    """It may be large, and the client knows it."""
    task = a_task(input=msgspec.Raw(b"[1]"))
    assert wire.task_out(task).input is None
    assert wire.task_out(task, with_input=True).input == msgspec.Raw(b"[1]")
