"""Every shipped recipe against the answers that its provider documents, without a network.

The bodies are the documented shapes, shortened to what a recipe could look at. Servers that can be run here are asked
themselves in tests/upstreams.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

import creche
from creche.core.binding import Binding
from creche.core.exchange import Answer
from creche.core.reading import JobStatus, Reading
from creche.core.recipe import Recipe, load_recipe
from creche.core.task import Job, Task

FOLDER = Path(creche.__file__).parent / "recipes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
SECRET = "s3cr3t"
FAL = "https://queue.fal.run/fal-ai/flux/requests/j-1"

PARAMS: dict[str, dict[str, Any]] = {
    "bentoml": {"path": "/train"},
    "fal": {"model": "fal-ai/flux/dev"},
    "flower": {"name": "tasks.add"},
    "replicate": {"version": "owner/model"},
}
KEEP: dict[str, dict[str, str]] = {
    "fal": {"status_url": f"{FAL}/status", "response_url": FAL, "cancel_url": f"{FAL}/cancel"},
    "openai-batch": {"output_file_id": "file-out"},
}

WAITING, PROCESSING, PAUSED = JobStatus.WAITING, JobStatus.PROCESSING, JobStatus.PAUSED
SUCCEEDED, FAILED, CANCELLED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED


def recipe_of(name: str) -> Recipe:
    path = FOLDER / f"{name}.toml"
    return load_recipe(name, tomllib.loads(path.read_text(encoding="utf-8")), path.name)


def binding_of(name: str, secret: str | None = SECRET) -> Binding:
    recipe = recipe_of(name)
    params = {key: param.default for key, param in recipe.params.items()} | PARAMS.get(name, {})
    return Binding(recipe, base=recipe.base, params=params, secret=secret)


def task_with(task_input: object) -> Task:
    return Task(
        id="t-1", algorithm="a", input=msgspec.Raw(msgspec.json.encode(task_input)), token="tok", accepted_at=0.0
    )


def answer_with(status: int, body: object = None, headers: dict[str, str] | None = None) -> Answer:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Answer(status=status, headers=headers or {}, body=raw)


def job_of(name: str, keep: dict[str, str] | None = None) -> Job:
    return Job("j-1", KEEP.get(name, {}) if keep is None else keep)


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def ended(word: str, status: JobStatus, **more: Any) -> Reading:  # noqa: ANN401 - any field of a reading
    return Reading(status=status, provider_status=word, **more)


def batch(status: str, done: int = 0, **more: object) -> dict[str, object]:
    """A batch of OpenAI's, of four lines."""
    counts = {"total": 4, "completed": done, "failed": 0}
    return {
        "id": "j-1",
        "status": status,
        "output_file_id": None,
        "error_file_id": None,
        "request_counts": counts,
    } | more


def prediction(status: str, **more: object) -> dict[str, object]:
    """A prediction of Replicate's."""
    return {"id": "j-1", "status": status, "output": None, "error": None, "logs": "", "data_removed": False} | more


FLOWER_DONE = {"task-id": "j-1", "state": "SUCCESS", "result": 5}
