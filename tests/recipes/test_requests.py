"""What the shipped recipes send, and where."""

from __future__ import annotations

import msgspec
import pytest

from creche.core.task import Job
from creche.errors import AnswerError
from tests.recipes.conftest import FAL, binding_of, job_of, task_with


@pytest.mark.parametrize(
    ("name", "task_input", "url", "body"),
    [
        ("bentoml", {"n": 1}, "http://127.0.0.1:3000/train/submit", {"n": 1}),
        ("fal", {"prompt": "cat"}, "https://queue.fal.run/fal-ai/flux/dev", {"prompt": "cat"}),
        ("flower", {"args": [2, 3]}, "http://127.0.0.1:5555/api/task/async-apply/tasks.add", {"args": [2, 3]}),
        (
            "openai-batch",
            {"input_file_id": "file-in"},
            "https://api.openai.com/v1/batches",
            {
                "input_file_id": "file-in",
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {"creche_task": "t-1", "creche_create": "tok"},
            },
        ),
        (
            "replicate",
            {"prompt": "cat"},
            "https://api.replicate.com/v1/predictions",
            {"version": "owner/model", "input": {"prompt": "cat"}},
        ),
        ("simulator", {"prompt": "cat"}, "http://127.0.0.1:8790/v1/jobs", {"prompt": "cat"}),
    ],
)
def test_what_creates_send(name: str, task_input: object, url: str, body: object) -> None:
    """The create goes where the documentation says, with the input where it belongs, and never asks to wait."""
    call = binding_of(name).create_call(task_with(task_input))
    assert (call.method, call.url) == ("POST", url)
    assert call.body is not None
    assert msgspec.json.decode(call.body) == body
    headers = {header.lower(): value for header, value in call.headers}
    assert headers["content-type"] == "application/json"
    assert "prefer" not in headers


@pytest.mark.parametrize(
    ("name", "poll", "fetch", "cancel"),
    [
        (
            "bentoml",
            "GET http://127.0.0.1:3000/train/status?task_id=j-1",
            "GET http://127.0.0.1:3000/train/get?task_id=j-1",
            "PUT http://127.0.0.1:3000/train/cancel?task_id=j-1",
        ),
        ("fal", f"GET {FAL}/status", f"GET {FAL}", f"PUT {FAL}/cancel"),
        (
            "flower",
            "GET http://127.0.0.1:5555/api/task/result/j-1",
            "GET http://127.0.0.1:5555/api/task/result/j-1",
            "POST http://127.0.0.1:5555/api/task/revoke/j-1?terminate=true",
        ),
        (
            "openai-batch",
            "GET https://api.openai.com/v1/batches/j-1",
            "GET https://api.openai.com/v1/files/file-out/content",
            "POST https://api.openai.com/v1/batches/j-1/cancel",
        ),
        (
            "replicate",
            "GET https://api.replicate.com/v1/predictions/j-1",
            None,
            "POST https://api.replicate.com/v1/predictions/j-1/cancel",
        ),
        ("simulator", "GET http://127.0.0.1:8790/v1/jobs/j-1", None, "POST http://127.0.0.1:8790/v1/jobs/j-1/cancel"),
    ],
)
def test_where_a_job_is_asked_for(name: str, poll: str, fetch: str | None, cancel: str) -> None:
    """Poll, fetch and cancel go where the documentation says, without a body."""
    binding = binding_of(name)
    calls = [
        binding.poll_call(job_of(name)),
        binding.fetch_call(job_of(name)) if binding.recipe.fetch is not None else None,
        binding.cancel_call(job_of(name)),
    ]
    assert [call and f"{call.method} {call.url}" for call in calls] == [poll, fetch, cancel]
    assert [call.body for call in calls if call is not None and call.body is not None] == []


def test_a_fal_job_without_its_urls_cannot_be_asked_for() -> None:
    """The URLs at fal cannot be built from an id: a job that is attached without them says what is missing."""
    with pytest.raises(AnswerError, match=r"keep\.status_url"):
        binding_of("fal").poll_call(Job("j-1"))
