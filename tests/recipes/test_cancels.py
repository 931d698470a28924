"""How the shipped recipes read what cancels are answered with."""

from __future__ import annotations

import pytest

from tests.recipes.conftest import answer_with, batch, binding_of, prediction


@pytest.mark.parametrize(
    ("name", "status", "body", "agreed"),
    [
        ("bentoml", 200, {"task_id": "j-1"}, True),
        ("bentoml", 400, {"error": "task cancellation is not supported in local development server"}, False),
        ("fal", 202, {"status": "CANCELLATION_REQUESTED"}, True),
        ("fal", 400, {"status": "ALREADY_COMPLETED"}, True),
        ("fal", 404, {"status": "NOT_FOUND"}, True),
        ("flower", 200, {"message": "Revoked 'j-1'"}, True),
        ("openai-batch", 200, batch("cancelling"), True),
        ("openai-batch", 409, {"error": {"message": "Cannot cancel a batch with status 'completed'."}}, True),
        ("replicate", 200, prediction("canceled"), True),
        ("replicate", 404, {"detail": "not found"}, True),
        ("simulator", 200, {"id": "j-1", "status": "cancelled"}, True),
        ("simulator", 400, {"error": {"message": "no"}}, False),
    ],
)
def test_what_cancels_are_answered_with(name: str, status: int, body: object, agreed: bool) -> None:  # noqa: FBT001
    """A provider agrees, says that the job is over, or refuses; only polls tell what became of the job."""
    assert binding_of(name).read_cancel(answer_with(status, body)) is agreed
