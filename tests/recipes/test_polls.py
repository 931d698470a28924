"""How the shipped recipes read what polls are answered with."""

from __future__ import annotations

import msgspec
import pytest

from creche.core.reading import JobStatus, Reading
from tests.recipes.conftest import (
    CANCELLED,
    FAILED,
    FLOWER_DONE,
    PAUSED,
    PROCESSING,
    SUCCEEDED,
    WAITING,
    answer_with,
    batch,
    binding_of,
    ended,
    prediction,
    raw,
)


def bento(status: str) -> dict[str, object]:
    return {"task_id": "j-1", "status": status, "created_at": "2026-11-23T15:43:46", "executed_at": None}


BENTO_DONE = bento("completed")
FAL_DONE = {"status": "COMPLETED", "request_id": "j-1", "metrics": {"inference_time": 3.2}}
COUNTED = {"total": 4, "completed": 0, "failed": 4}
BATCH_DONE = batch("completed", 4, output_file_id="file-out")
BATCH_HALF = batch("completed", 2, output_file_id="file-out", error_file_id="file-err")
BATCH_LATE = batch("expired", 1, output_file_id="file-out")
OUTPUT = {"output_file_id": "file-out"}
INVALID = {"object": "list", "data": [{"code": "invalid_json_line", "message": "line 1 is no JSON", "line": 1}]}

POLLED: dict[str, tuple[int, object, Reading]] = {
    "bentoml: queued": (200, bento("pending"), ended("pending", WAITING)),
    "bentoml: running": (200, bento("in_progress"), ended("in_progress", PROCESSING)),
    "bentoml: done": (200, BENTO_DONE, ended("completed", SUCCEEDED, result=raw(BENTO_DONE), to_fetch=True)),
    "bentoml: failed": (200, bento("failed"), ended("failed", FAILED, to_fetch=True)),
    "bentoml: cancelled": (200, bento("canceled"), ended("canceled", CANCELLED)),
    "fal: queued": (202, {"status": "IN_QUEUE", "queue_position": 2}, ended("IN_QUEUE", WAITING)),
    "fal: running": (202, {"status": "IN_PROGRESS", "logs": None}, ended("IN_PROGRESS", PROCESSING)),
    "fal: done": (200, FAL_DONE, ended("COMPLETED", SUCCEEDED, result=raw(FAL_DONE), to_fetch=True)),
    "fal: failed": (
        200,
        FAL_DONE | {"error": "Request timed out", "error_type": "request_timeout"},
        ended("COMPLETED", FAILED, message="Request timed out"),
    ),
    "fal: cancelled": (
        200,
        FAL_DONE | {"error": "Cancelled by the client", "error_type": "client_cancelled"},
        ended("COMPLETED", CANCELLED, message="Cancelled by the client"),
    ),
    "flower: queued": (200, {"task-id": "j-1", "state": "PENDING"}, ended("PENDING", WAITING)),
    "flower: running": (200, {"task-id": "j-1", "state": "STARTED"}, ended("STARTED", PROCESSING)),
    "flower: again": (200, {"task-id": "j-1", "state": "RETRY"}, ended("RETRY", PROCESSING)),
    "flower: done": (200, FLOWER_DONE, ended("SUCCESS", SUCCEEDED, result=raw(FLOWER_DONE), to_fetch=True)),
    "flower: failed": (
        200,
        {"task-id": "j-1", "state": "FAILURE", "result": "ValueError('no')", "traceback": "…"},
        ended("FAILURE", FAILED, message="ValueError('no')", to_fetch=True),
    ),
    "flower: cancelled": (
        200,
        {"task-id": "j-1", "state": "REVOKED", "result": "TaskRevokedError('terminated')"},
        ended("REVOKED", CANCELLED, message="TaskRevokedError('terminated')"),
    ),
    "openai-batch: queued": (200, batch("validating"), ended("validating", WAITING, progress=0.0)),
    "openai-batch: running": (200, batch("in_progress", 1), ended("in_progress", PROCESSING, progress=0.25)),
    "openai-batch: finalizing": (200, batch("finalizing", 4), ended("finalizing", PROCESSING, progress=1.0)),
    "openai-batch: cancelling": (200, batch("cancelling", 1), ended("cancelling", PROCESSING, progress=0.25)),
    "openai-batch: done": (
        200,
        BATCH_DONE,
        ended("completed", SUCCEEDED, keep=OUTPUT, progress=1.0, result=raw(BATCH_DONE), to_fetch=True),
    ),
    "openai-batch: done, some lines failed": (
        200,
        BATCH_HALF,
        ended("completed", SUCCEEDED, keep=OUTPUT, progress=0.5, result=raw(BATCH_HALF), partial=True, to_fetch=True),
    ),
    "openai-batch: done, all lines failed": (
        200,
        batch("completed", error_file_id="file-err", request_counts=COUNTED),
        ended("completed", FAILED, progress=0.0, message='{"total":4,"completed":0,"failed":4}'),
    ),
    "openai-batch: failed": (
        200,
        batch("failed", errors=INVALID),
        ended("failed", FAILED, progress=0.0, message="line 1 is no JSON"),
    ),
    "openai-batch: cancelled": (
        200,
        batch("cancelled", 1, output_file_id="file-out", request_counts=None),
        ended("cancelled", CANCELLED, keep=OUTPUT),
    ),
    "openai-batch: expired with some lines": (
        200,
        BATCH_LATE,
        ended("expired", SUCCEEDED, keep=OUTPUT, progress=0.25, result=raw(BATCH_LATE), partial=True, to_fetch=True),
    ),
    "openai-batch: expired": (
        200,
        batch("expired", request_counts=None),
        ended("expired", JobStatus.EXPIRED),
    ),
    "replicate: queued": (200, prediction("starting"), ended("starting", WAITING)),
    "replicate: running": (200, prediction("processing", logs="10%"), ended("processing", PROCESSING)),
    "replicate: done": (
        200,
        prediction("succeeded", output=["https://replicate.delivery/a.png"]),
        ended("succeeded", SUCCEEDED, result=raw(["https://replicate.delivery/a.png"])),
    ),
    "replicate: done, data gone": (
        200,
        prediction("succeeded", data_removed=True),
        ended("succeeded", JobStatus.LOST),
    ),
    "replicate: failed": (200, prediction("failed", error="NSFW"), ended("failed", FAILED, message="NSFW")),
    "replicate: cancelled": (200, prediction("canceled"), ended("canceled", CANCELLED)),
    "replicate: past its own deadline": (200, prediction("aborted"), ended("aborted", CANCELLED)),
    "simulator: queued": (200, {"id": "j-1", "status": "queued"}, ended("queued", WAITING)),
    "simulator: running": (200, {"status": "running", "progress": 0.5}, ended("running", PROCESSING, progress=0.5)),
    "simulator: paused": (200, {"status": "paused"}, ended("paused", PAUSED)),
    "simulator: done": (200, {"status": "succeeded", "output": 7}, ended("succeeded", SUCCEEDED, result=raw(7))),
    "simulator: failed": (
        200,
        {"status": "failed", "error": {"message": "no"}},
        ended("failed", FAILED, message="no"),
    ),
    "simulator: cancelled": (200, {"status": "cancelled"}, ended("cancelled", CANCELLED)),
    "simulator: expired": (200, {"status": "expired"}, ended("expired", JobStatus.EXPIRED)),
}


@pytest.mark.parametrize("case", POLLED)
def test_what_polls_are_answered_with(case: str) -> None:
    """Each documented state is read as what it means, with its message, progress and result."""
    status, body, expected = POLLED[case]
    reading = binding_of(case.partition(":")[0]).read_poll(answer_with(status, body))
    if reading.status is SUCCEEDED:
        # Nobody looks at what stands at a success's error pointers.
        reading = msgspec.structs.replace(reading, message="")
    assert reading == expected
