"""What a provider's answer says: values, rules, progress, hints."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.core.exchange import Answer
from creche.core.reading import (
    MESSAGE_LIMIT,
    JobStatus,
    Progress,
    Redaction,
    Rule,
    Source,
    as_text,
    check_body,
    decode_body,
    error_text,
    excerpt,
    raw_at,
    retry_after_s,
)
from creche.core.template import MISSING, point
from creche.errors import AnswerError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=10,
)


NOTHING_SECRET = Redaction(None)


def an_answer(body: bytes = b"", status: int = 200, **headers: str) -> Answer:
    return Answer(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=body)


@given(JSON, st.lists(st.sampled_from(["a", "0", "1", "", "/", "~", "x y"]), max_size=3))
def test_the_raw_part_is_the_decoded_part(document: Any, names: list[str]) -> None:  # noqa: ANN401 - any JSON
    """A result is cut out of the body's bytes; it must be what the pointer names in the decoded body, or null."""
    pointer = "".join(f"/{name.replace('~', '~0').replace('/', '~1')}" for name in names)
    expected = point(document, pointer)
    raw = raw_at(msgspec.json.encode(document), pointer)
    assert msgspec.json.decode(raw) == (None if expected is MISSING else expected)


def test_a_result_is_exactly_what_the_provider_wrote() -> None:
    """Number formats and spaces included."""
    assert bytes(raw_at(b'{"a": [ {"x":1.0,  "y":1e2} ]}', "/a/0")) == b'{"x":1.0,  "y":1e2}'


@pytest.mark.parametrize("body", [b"<html>", b"{", b"\xff", b'"\xff"', b'"\\ud800"', b"[" * 100_000, b'{"a":1}x'])
def test_a_body_that_is_no_json_is_an_answer_error(body: bytes) -> None:
    """Never another kind of exception."""
    with pytest.raises(AnswerError, match=r"^HTTP 200, but the body is no JSON"):
        decode_body(an_answer(body), NOTHING_SECRET)
    with pytest.raises(AnswerError, match=r"^HTTP 200, but the body is no JSON"):
        check_body(an_answer(body), NOTHING_SECRET)


def test_an_empty_body_is_none() -> None:
    """204 and its like."""
    assert decode_body(an_answer(), NOTHING_SECRET) is None
    check_body(an_answer(), NOTHING_SECRET)


@given(st.binary(max_size=2000))
def test_an_excerpt_fits_in_one_line_of_a_log(body: bytes) -> None:
    """No control characters, no line breaks, bounded."""
    line = excerpt(body, NOTHING_SECRET)
    assert len(line) <= 160
    assert line.isprintable()


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (7, "7"), (7.0, "7"), (7.5, "7.5"), ("x", "x")]
)
def test_values_are_compared_as_text(value: object, text: str) -> None:
    """Recipes write `true`, `7` and `x`."""
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (Source(pointer="/id"), "7"),
        (Source(pointer="/none"), None),
        (Source(pointer="/gone"), None),
        (Source(pointer="/urls"), None),
        (Source(pointer="/urls/get"), "https://x/jobs/abc"),
        (Source(pointer="/urls/get", pattern="/jobs/([a-z]+)"), "abc"),
        (Source(pointer="/urls/get", pattern="/runs/([a-z]+)"), None),
        (Source(header="location"), "/j/9"),
        (Source(header="location", pattern=r"(\d+)"), "9"),
        (Source(header="other"), None),
    ],
)
def test_a_source_finds_one_value(source: Source, value: str | None) -> None:
    """As text, from the body or a header; what is null, absent or a table is not there."""
    answer = an_answer(b'{"id": 7, "none": null, "urls": {"get": "https://x/jobs/abc"}}', location="/j/9")
    assert source.find(answer, decode_body(answer, NOTHING_SECRET)) == value


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress("/done"), 1.0),
        (Progress("/done", 100.0), 0.3),
        (Progress("/done", "/whole"), 0.5),
        (Progress("/done", "/zero"), None),
        (Progress("/done", "/gone"), None),
        (Progress("/gone"), None),
        (Progress("/text", 100.0), None),
        (Progress("/flag"), None),
        (Progress("/minus"), 0.0),
    ],
)
def test_progress_runs_from_0_to_1(progress: Progress, expected: float | None) -> None:
    """What is no number, or cannot be divided, is no progress."""
    body = {"done": 30, "whole": 60, "zero": 0, "text": "30", "flag": True, "minus": -1}
    assert progress.find(body) == expected


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (Rule(then=JobStatus.FAILED, http=frozenset({200})), True),
        (Rule(then=JobStatus.FAILED, http=frozenset({404})), False),
        (Rule(then=JobStatus.FAILED, equals=(("/done", frozenset({"true"})),)), True),
        (Rule(then=JobStatus.FAILED, equals=(("/done", frozenset({"True", "1"})),)), False),
        (Rule(then=JobStatus.FAILED, exists=("/done",)), True),
        (Rule(then=JobStatus.FAILED, exists=("/error",)), False),
        (Rule(then=JobStatus.FAILED, absent=("/error",)), True),
        (Rule(then=JobStatus.FAILED, absent=("/done",)), False),
        (Rule(then=JobStatus.FAILED, http=frozenset({200}), absent=("/done",)), False),
    ],
)
def test_a_rule_needs_all_its_conditions(rule: Rule, matches: bool) -> None:  # noqa: FBT001 - a table of cases
    """Null counts as absent."""
    assert rule.matches(200, {"done": True, "error": None}) is matches


def test_the_first_error_message_that_is_there_is_taken() -> None:
    """Empty ones are passed over; a table is shown as JSON; a long one is cut."""
    body = {"a": "", "b": None, "c": {"code": 1}, "d": "x" * 5000}
    assert error_text(body, ("/gone", "/a", "/b", "/c", "/d"), NOTHING_SECRET) == '{"code":1}'
    assert error_text(body, ("/d",), NOTHING_SECRET) == "x" * (MESSAGE_LIMIT - 1) + "…"
    assert error_text(body, ("/gone",), NOTHING_SECRET) == ""


DATE = "Mon, 23 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", None, 7.0),
        ("0.5", None, 0.5),
        ("99999999", None, 3600.0),
        ("Mon, 23 Nov 2026 10:00:30 GMT", DATE, 30.0),
        ("Mon, 23 Nov 2026 09:00:00 GMT", DATE, 0.0),
        ("Mon, 23 Nov 2026 10:00:30 GMT", None, None),
        ("Mon, 23 Nov 2026 10:00:30 GMT", "no date", None),
        ("soon", DATE, None),
        ("-1", DATE, None),
        ("nan", DATE, None),
        ("inf", DATE, None),
        ("", DATE, None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str, date: str | None, seconds: float | None) -> None:
    """Seconds, or a date that is compared with the answer's own; at most an hour."""
    headers = {"retry-after": value} | ({"date": date} if date else {})
    assert retry_after_s(Answer(status=503, headers=headers, body=b"")) == seconds


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_breaks_the_reading_of_retry_after(value: str, date: str) -> None:
    """Unreadable is None."""
    hint_s = retry_after_s(an_answer(retry_after=value, date=date))
    assert hint_s is None or 0 <= hint_s <= 3600


def test_three_statuses_mean_that_the_job_goes_on() -> None:
    """All others are ends."""
    running = {status for status in JobStatus if status.running}
    assert running == {JobStatus.WAITING, JobStatus.PROCESSING, JobStatus.PAUSED}
