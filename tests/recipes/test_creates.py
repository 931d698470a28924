"""How the shipped recipes read what creates are answered with."""

from __future__ import annotations

import pytest

from creche.core.reading import Reading
from tests.recipes.conftest import (
    FAILED,
    KEEP,
    PROCESSING,
    SUCCEEDED,
    WAITING,
    answer_with,
    binding_of,
    ended,
    raw,
    task_with,
)

CREATED = {
    "bentoml": (
        200,
        {"task_id": "j-1", "status": "in_progress"},
        Reading(status=PROCESSING, provider_status="in_progress", job="j-1"),
    ),
    "fal": (
        200,
        {"status": "IN_QUEUE", "request_id": "j-1", **KEEP["fal"], "queue_position": 0},
        Reading(status=WAITING, provider_status="IN_QUEUE", job="j-1", keep=KEEP["fal"]),
    ),
    "flower": (
        200,
        {"task-id": "j-1", "state": "PENDING"},
        Reading(status=WAITING, provider_status="PENDING", job="j-1"),
    ),
    "flower, over at once": (
        200,
        {"task-id": "j-1", "state": "SUCCESS"},
        ended("SUCCESS", SUCCEEDED, job="j-1", result=raw({"task-id": "j-1", "state": "SUCCESS"}), to_fetch=True),
    ),
    "flower, failed at once": (
        200,
        {"task-id": "j-1", "state": "FAILURE"},
        ended("FAILURE", FAILED, job="j-1", to_fetch=True),
    ),
    "openai-batch": (
        200,
        {
            "id": "j-1",
            "object": "batch",
            "status": "validating",
            "output_file_id": None,
            "errors": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        },
        Reading(status=WAITING, provider_status="validating", job="j-1"),
    ),
    "replicate": (
        201,
        {"id": "j-1", "status": "starting", "output": None, "error": None, "urls": {"get": "…", "cancel": "…"}},
        Reading(status=WAITING, provider_status="starting", job="j-1"),
    ),
    "simulator": (201, {"id": "j-1", "status": "queued"}, Reading(status=WAITING, provider_status="queued", job="j-1")),
}


@pytest.mark.parametrize("case", CREATED)
def test_what_creates_are_answered_with(case: str) -> None:
    """The job's id and what polls will need is found in the documented answer, which is already a first reading."""
    status, body, expected = CREATED[case]
    binding = binding_of(case.partition(",")[0])
    assert binding.read_create(answer_with(status, body), task_with({})) == expected
