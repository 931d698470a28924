"""Every shipped recipe against the answers that its provider documents, without a network.

The bodies are the documented shapes, shortened to what a recipe could look at. Servers that can be run here are asked
themselves in tests/upstreams.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import creche
from creche.core.binding import Binding
from creche.core.exchange import Answer, Call
from creche.core.reading import JobStatus, Reading
from creche.core.recipe import Recipe, load_recipe
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


# -- every recipe there is -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_recipes_load_and_explain_themselves(name: str) -> None:
    """A shipped recipe has no mistake, a title, docs, a base, a comment at its top, and a word about each parameter."""
    recipe = recipe_of(name)
    assert recipe.title != name
    assert recipe.docs
    assert recipe.base
    assert (FOLDER / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")
    assert [key for key, param in recipe.params.items() if not param.about] == []
    reserved = {"task", "token", "user", "job", "input", "secret"}
    assert recipe.params.keys() & reserved == set()


@pytest.mark.parametrize("name", NAMES)
def test_recipes_tell_the_ends_apart(name: str) -> None:
    """A shipped recipe can read success, failure and a job that somebody cancelled."""
    poll = recipe_of(name).poll
    known = {*poll.statuses.values(), *(rule.then for rule in poll.rules)}
    assert known >= {SUCCEEDED, FAILED, CANCELLED}


@pytest.mark.parametrize("name", NAMES)
def test_unknown_words_do_not_end_a_job(name: str) -> None:
    """A status that the recipe has never heard of is `processing`, and marked."""
    binding = binding_of(name)
    pointer = binding.recipe.poll.status
    assert pointer is not None
    body: Any = "levitating"
    for member in reversed(pointer[1:].split("/")):
        body = {member: body}
    reading = binding.read_poll(answer_with(200, body))
    assert reading == Reading(status=PROCESSING, provider_status="levitating", known=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, CredentialsRefused),
        (402, CredentialsRefused),
        (403, CredentialsRefused),
        (404, JobNotFound),
        (429, Throttled),
        (500, AnswerError),
        (502, Outage),
        (503, Outage),
        (504, Outage),
    ],
)
def test_polls_that_bring_errors(name: str, status: int, error: type[ProviderError]) -> None:
    """An error answer to a poll is of the kind that its HTTP status says, with the provider's hint; it is no end."""
    with pytest.raises(error) as caught:
        binding_of(name).read_poll(answer_with(status, {"error": "no"}, {"retry-after": "7"}))
    assert type(caught.value) is error
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", b'{"unrelated": 1}'])
def test_polls_that_cannot_be_read(name: str, body: bytes) -> None:
    """A 200 without a status in it counts as an error of the answer, and is no end."""
    with pytest.raises(AnswerError):
        binding_of(name).read_poll(answer_with(200, body))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, {"detail": "who are you"}, CredentialsRefused),
        (402, {"detail": "pay first"}, CredentialsRefused),
        (408, {"detail": "too slow"}, CreateUncertain),
        (422, {"detail": "no such argument"}, CreateRefused),
        (429, {"detail": "slow down"}, Throttled),
        (500, {"detail": "oops"}, CreateUncertain),
        (503, {"detail": "away"}, CreateUncertain),
        (200, {"unrelated": 1}, CreateUncertain),
        (200, b"<html>", CreateUncertain),
    ],
)
def test_creates_that_bring_errors(name: str, status: int, body: object, error: type[ProviderError]) -> None:
    """Busy and refused creates have made no job; where that cannot be told, the error says so."""
    with pytest.raises(error) as caught:
        binding_of(name).read_create(answer_with(status, body), task_with({}))
    assert type(caught.value) is error


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("status", "error"), [(401, CredentialsRefused), (429, Throttled), (503, Outage)])
def test_cancels_that_bring_errors(name: str, status: int, error: type[ProviderError]) -> None:
    """A cancel that did not get through is asked again later."""
    with pytest.raises(error):
        binding_of(name).read_cancel(answer_with(status, {"error": "no"}))


@pytest.mark.parametrize("name", NAMES)
def test_creates_that_cannot_be_repeated_use_a_new_connection(name: str) -> None:
    """Without a token or an id of ours, a create is never sent into a connection that may be closing."""
    binding = binding_of(name)
    assert binding.create_call(task_with({})).fresh is not binding.repeatable


@pytest.mark.parametrize("name", NAMES)
def test_the_credential_goes_to_the_provider(name: str) -> None:
    """Each request to the provider's own address carries the credential, once and in no URL."""
    binding = binding_of(name)
    assert binding.recipe.credentials
    for call in calls_of(binding, job_of(name)):
        assert SECRET not in call.url
        assert len([value for _, value in call.headers if SECRET in value]) == len(binding.recipe.credentials)


@pytest.mark.parametrize("name", NAMES)
def test_the_credential_goes_nowhere_else(name: str) -> None:
    """A URL in an answer that leads elsewhere is asked without the credential."""
    binding = binding_of(name)
    elsewhere = dict.fromkeys(KEEP.get(name, {}), "https://queue.fal.run.elsewhere.test/j-1")
    strays = [
        call for call in calls_of(binding, job_of(name, elsewhere)) if "//queue.fal.run.elsewhere.test" in call.url
    ]
    assert len(strays) == (3 if name == "fal" else 0)
    assert [call for call in strays if SECRET in str(call)] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_echoed_credential_is_not_shown(name: str) -> None:
    """A provider that repeats the credential in its complaint does not bring it into our messages."""
    with pytest.raises(CredentialsRefused) as caught:
        binding_of(name).read_poll(answer_with(401, f"bad key {SECRET}".encode()))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if not recipe_of(name).secret_required])
def test_servers_of_ones_own_need_no_credential(name: str) -> None:
    """Where the credential is optional, requests without one carry no such header."""
    binding = binding_of(name, secret=None)
    sent = {header for call in calls_of(binding, job_of(name)) for header, _ in call.headers}
    assert sent & binding.recipe.credentials.keys() == set()


def calls_of(binding: Binding, job: Job) -> list[Call]:
    """Every request that a recipe can make."""
    calls = [binding.create_call(task_with({})), binding.poll_call(job), binding.cancel_call(job)]
    if binding.recipe.fetch is not None:
        calls.append(binding.fetch_call(job))
    return [call for call in calls if call is not None]


# -- requests ------------------------------------------------------------------------------------------


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
                "metadata": {"creche_task": "t-1"},
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


# -- what creates are answered with --------------------------------------------------------------------

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


# -- what polls are answered with ----------------------------------------------------------------------


def bento(status: str) -> dict[str, object]:
    return {"task_id": "j-1", "status": status, "created_at": "2026-11-23T15:43:46", "executed_at": None}


def batch(status: str, done: int = 0, **more: object) -> dict[str, object]:
    counts = {"total": 4, "completed": done, "failed": 0}
    return {
        "id": "j-1",
        "status": status,
        "output_file_id": None,
        "error_file_id": None,
        "request_counts": counts,
    } | more


def prediction(status: str, **more: object) -> dict[str, object]:
    return {"id": "j-1", "status": status, "output": None, "error": None, "logs": "", "data_removed": False} | more


BENTO_DONE = bento("completed")
FAL_DONE = {"status": "COMPLETED", "request_id": "j-1", "metrics": {"inference_time": 3.2}}
FLOWER_DONE = {"task-id": "j-1", "state": "SUCCESS", "result": 5}
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


# -- what the second request is answered with ----------------------------------------------------------

FETCHED: dict[str, tuple[JobStatus, int, object, JobStatus, object, str]] = {
    "bentoml: the value": (SUCCEEDED, 200, {"accuracy": 1.0}, SUCCEEDED, {"accuracy": 1.0}, ""),
    "bentoml: a crash": (FAILED, 500, {"error": "see the log"}, FAILED, None, "HTTP 500: see the log"),
    "bentoml: bad input": (FAILED, 400, {"error": "1 validation error"}, FAILED, None, "HTTP 400: 1 validation error"),
    "bentoml: its own error": (FAILED, 422, [{"error": "no points"}], FAILED, None, "HTTP 422: no points"),
    "fal: the value": (SUCCEEDED, 200, {"images": []}, SUCCEEDED, {"images": []}, ""),
    "fal: bad input": (
        SUCCEEDED,
        422,
        {"detail": [{"loc": ["body", "prompt"], "msg": "field required", "type": "missing"}]},
        FAILED,
        None,
        "HTTP 422: field required",
    ),
    "fal: a crash": (
        SUCCEEDED,
        500,
        {"detail": "Internal Server Error", "error_type": "runner_server_error"},
        FAILED,
        None,
        "HTTP 500: Internal Server Error",
    ),
    "flower: the value": (SUCCEEDED, 200, FLOWER_DONE, SUCCEEDED, 5, ""),
    "flower: nothing": (SUCCEEDED, 200, FLOWER_DONE | {"result": None}, SUCCEEDED, None, ""),
    "flower: a failure": (
        FAILED,
        200,
        {"state": "FAILURE", "result": "ValueError('no')"},
        FAILED,
        "ValueError('no')",
        "",
    ),
    "openai-batch: the lines": (
        SUCCEEDED,
        200,
        b'{"custom_id": "a"}\n{"custom_id": "b"}\n',
        SUCCEEDED,
        [{"custom_id": "a"}, {"custom_id": "b"}],
        "",
    ),
}


@pytest.mark.parametrize("case", FETCHED)
def test_what_the_second_request_is_answered_with(case: str) -> None:
    """It completes the end with the value, or reveals that the job has failed."""
    before, status, body, after, result, message = FETCHED[case]
    reading = Reading(status=before, to_fetch=True)
    found = binding_of(case.partition(":")[0]).read_fetch(answer_with(status, body), reading)
    assert (found.status, msgspec.json.decode(found.result), found.message) == (after, result, message)
    assert not found.to_fetch


@pytest.mark.parametrize("name", [name for name in NAMES if recipe_of(name).fetch is not None])
@pytest.mark.parametrize(
    ("status", "error"), [(401, CredentialsRefused), (429, Throttled), (502, Outage), (503, Outage)]
)
def test_results_that_cannot_be_had_now(name: str, status: int, error: type[ProviderError]) -> None:
    """An error of the way there does not turn a success into a failure: the result is asked for again."""
    with pytest.raises(error):
        binding_of(name).read_fetch(answer_with(status, {"error": "no"}), Reading(status=SUCCEEDED, to_fetch=True))


def test_a_batch_that_names_no_file_has_nothing_to_fetch() -> None:
    """Without an output file there is no second request."""
    assert binding_of("openai-batch").fetch_call(Job("j-1")) is None


# -- what cancels are answered with --------------------------------------------------------------------


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
