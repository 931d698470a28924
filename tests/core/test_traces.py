"""A task that has ended as a trace: which spans, which ids, how it ended."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from creche.core import task as tasks
from creche.core.task import Answered, Failed, Job, Moment, Outcome, Status, Succeeded, Task
from creche.core.traces import attributes, context_of, document, spans
from creche.testing import make_task

TRACE, PARENT = 32 * "a", 16 * "b"
STORY = (
    Moment(100.0, Status.CREATING),
    Moment(101.5, Status.WAITING),
    Moment(103.0, Status.PROCESSING, "running"),
)


def ended(outcome: Outcome, **changes: object) -> Task:
    task = make_task("t", user="u", **changes)
    task = msgspec.structs.replace(task, accepted_at=99.0)
    return tasks.settle(msgspec.structs.replace(tasks.begin_job(task, Job("j"), 2.0), story=STORY), outcome, 110.0)


def values(span: dict[str, Any]) -> dict[str, str]:
    return {row["key"]: row["value"]["stringValue"] for row in span["attributes"]}


def test_each_status_is_a_span_within_the_task_s() -> None:
    """With its times, and the provider's word."""
    task = ended(Succeeded())
    whole, *parts, settling = spans(task)
    assert (whole["name"], whole["startTimeUnixNano"], whole["endTimeUnixNano"]) == (
        "task draw",
        "99000000000",
        "110000000000",
    )
    assert values(whole) == {
        "creche.task.id": "t",
        "creche.algorithm": "draw",
        "creche.status": "succeeded",
        "creche.job.id": "j",
        "enduser.id": "u",
    }
    assert whole["status"] == {"code": 1}
    assert [(part["name"], int(part["endTimeUnixNano"]) - int(part["startTimeUnixNano"])) for part in parts] == [
        ("accepted", 1_000_000_000),
        ("creating", 1_500_000_000),
        ("waiting", 1_500_000_000),
        ("processing", 7_000_000_000),
    ]
    assert values(parts[3]) == {"creche.job.status": "running"}
    assert {(part["traceId"], part["parentSpanId"]) for part in parts} == {(whole["traceId"], whole["spanId"])}
    assert len({span["spanId"] for span in (whole, *parts)}) == 5
    assert "parentSpanId" not in whole
    assert (settling["name"], settling["startTimeUnixNano"]) == ("settle", "103000000000")


def test_requests_are_spans_of_a_client() -> None:
    """Those whose answers are kept, as long as they took; not those for many tasks at once. Then it is settled."""
    answers = (
        Answered(101.5, "create", "queued", 1.25),
        Answered(104.0, "poll", "running"),
        Answered(109.0, "poll", "done", 0.5),
        Answered(109.5, "fetch", "done", 0.25),
    )
    task = msgspec.structs.replace(ended(Succeeded()), answers=answers)
    requests = spans(task)[5:]
    assert [(span["name"], span["kind"], span["startTimeUnixNano"], span["endTimeUnixNano"]) for span in requests] == [
        ("create", 3, "100250000000", "101500000000"),
        ("poll", 3, "108500000000", "109000000000"),
        ("fetch", 3, "109250000000", "109500000000"),
        ("settle", 1, "109500000000", "110000000000"),
    ]
    assert [values(span) for span in requests[:3]] == [
        {"creche.answer": "queued"},
        {"creche.answer": "done"},
        {"creche.answer": "done"},
    ]
    assert len({span["spanId"] for span in spans(task)}) == len(spans(task))


def test_a_trace_that_was_begun_goes_on() -> None:
    """Below the span of whoever submitted the task; the ids are the same whenever they are asked for."""
    task = ended(Succeeded(), traceparent=f"00-{TRACE}-{PARENT}-01")
    whole = spans(task)[0]
    assert (whole["traceId"], whole["parentSpanId"]) == (TRACE, PARENT)
    assert whole["spanId"] == spans(task)[0]["spanId"] == context_of(task).span
    assert len(whole["spanId"]) == 16


def test_one_that_is_not_sampled_is_not_sent() -> None:
    """As its flags say."""
    assert spans(ended(Succeeded(), traceparent=f"00-{TRACE}-{PARENT}-00")) == []


@pytest.mark.parametrize("traceparent", [None, f"00-{TRACE}-{PARENT}-01"])
def test_an_end_that_is_none_is_an_error(traceparent: str | None) -> None:
    """With the reason."""
    whole = spans(ended(Failed("expired", "too late"), traceparent=traceparent))[0]
    assert whole["status"] == {"code": 2, "message": "failed: expired"}
    assert values(whole)["creche.reason"] == "expired"


def test_a_clock_that_was_set_back_makes_no_span_end_before_it_begins() -> None:
    """Collectors refuse those."""
    task = msgspec.structs.replace(ended(Succeeded()), settled_at=50.0)
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans(task))


def test_a_document_has_all_spans_and_who_sends_them() -> None:
    """In the form of OTLP."""
    found = json.loads(document(spans(ended(Succeeded())), {"service.name": "creche"}))
    [resource] = found["resourceSpans"]
    assert resource["resource"]["attributes"] == attributes({"service.name": "creche"})
    [scope] = resource["scopeSpans"]
    assert (scope["scope"]["name"], len(scope["spans"])) == ("creche", 6)
