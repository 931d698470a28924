"""How the shipped recipes read what the second request is answered with, where there is one."""

from __future__ import annotations

import msgspec
import pytest

from creche.core.reading import JobStatus, Reading
from creche.core.task import Job
from creche.errors import CredentialsRefused, Outage, ProviderError, Throttled
from tests.recipes.conftest import FAILED, FLOWER_DONE, NAMES, SUCCEEDED, answer_with, binding_of, recipe_of

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
