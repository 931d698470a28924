"""The recipe "bentoml" against a real BentoML server."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import trio

from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Task
from creche.edges.http_provider import HttpProvider
from creche.errors import CreateRefused, JobNotFound

MakeProvider = Callable[..., HttpProvider]

POINTS = {"points": [[0, 1], [1, 0], [0.2, 0.9], [0.9, 0.1]], "labels": [1, 0, 1, 0]}


@pytest.fixture
def train(provider: MakeProvider, bentoml_url: str) -> HttpProvider:
    return provider("bentoml", bentoml_url, path="/train")


def task_with(task_input: object) -> Task:
    return Task(id="t-1", algorithm="a", input=msgspec.Raw(msgspec.json.encode(task_input)), token="t", accepted_at=0.0)


async def created(provider: HttpProvider, task_input: object) -> tuple[Job, Reading]:
    reading = await provider.create(task_with(task_input))
    assert reading.job is not None
    return Job(reading.job, reading.keep), reading


async def poll_until(provider: HttpProvider, job: Job, *statuses: JobStatus) -> Reading:
    with trio.fail_after(20):
        while True:
            reading = await provider.poll_of(job)()
            if reading.status in statuses:
                return reading
            await trio.sleep(0.05)


async def test_a_task_runs_to_its_result(train: HttpProvider) -> None:
    """Created, it is in progress with an id; at its end the second request brings the trained model."""
    job, first = await created(train, POINTS | {"seconds": 0.5})
    assert (first.status, first.provider_status, first.known) == (JobStatus.PROCESSING, "in_progress", True)
    assert (await train.poll_of(job)()).status is JobStatus.PROCESSING
    end = await poll_until(train, job, JobStatus.SUCCEEDED)
    assert end.to_fetch
    complete = await train.fetch(job, end)
    assert complete.status is JobStatus.SUCCEEDED
    assert msgspec.json.decode(complete.result)["accuracy"] == 1.0


async def test_a_crash_is_a_failure(train: HttpProvider) -> None:
    """A method that raises fails its job; BentoML keeps the exception's text to its own log."""
    job, _ = await created(train, POINTS | {"fail": True})
    end = await poll_until(train, job, JobStatus.FAILED)
    complete = await train.fetch(job, end)
    assert complete.status is JobStatus.FAILED
    assert complete.message == "HTTP 500: An unexpected error has occurred, please check the server log."


async def test_bad_arguments_are_a_failure_that_says_so(train: HttpProvider) -> None:
    """The submit takes anything; what is wrong with the arguments comes with the result."""
    job, _ = await created(train, {"points": "none"})
    complete = await train.fetch(job, await poll_until(train, job, JobStatus.FAILED))
    assert complete.status is JobStatus.FAILED
    assert complete.message == "HTTP 400: 2 validation error for Input"


async def test_a_cancel_is_refused_and_not_kept_to(train: HttpProvider) -> None:
    """The local server answers that it cannot cancel, says "canceled" all the same, and then completes the work."""
    job, _ = await created(train, POINTS | {"seconds": 1.5})
    assert await train.cancel(job) is False
    assert (await train.poll_of(job)()).status is JobStatus.CANCELLED
    end = await poll_until(train, job, JobStatus.SUCCEEDED)
    assert (await train.fetch(job, end)).status is JobStatus.SUCCEEDED


async def test_a_cancel_after_the_end_changes_nothing(train: HttpProvider) -> None:
    """A completed job stays completed, whatever the cancel is answered with."""
    job, _ = await created(train, POINTS)
    await poll_until(train, job, JobStatus.SUCCEEDED)
    assert await train.cancel(job) is False
    assert (await train.poll_of(job)()).status is JobStatus.SUCCEEDED


async def test_an_unknown_id_is_not_found(train: HttpProvider) -> None:
    """The server says that it does not know the job, except when asked to cancel it."""
    with pytest.raises(JobNotFound, match="HTTP 404: task_id not found"):
        await train.poll_of(Job("no-such-id"))()
    assert await train.cancel(Job("no-such-id")) is False


async def test_a_wrong_path_is_refused(provider: MakeProvider, bentoml_url: str) -> None:
    """A method that does not exist cannot be given a task."""
    with pytest.raises(CreateRefused, match="HTTP 404: Not Found"):
        await provider("bentoml", bentoml_url, path="/nothing").create(task_with({}))
