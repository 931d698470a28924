"""The recipe "dagster" against a real Dagster: webserver and daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from creche.core.reading import JobStatus
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.errors import CreateRefused, JobNotFound
from tests.upstreams.conftest import ENVIRONMENTS, SERVICES, ask, free_port, running
from tests.upstreams.jobs import MakeProvider, created, ended, is_processing, task_with, until

LOCATIONS = "{repositoriesOrError{... on RepositoryConnection{nodes{name}}}}"


@pytest.fixture(scope="module")
def dagster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Dagster with the job of dagster_job.py; ready when it has loaded that."""
    folder, port = tmp_path_factory.mktemp("dagster"), free_port()
    (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    url, scripts = f"http://127.0.0.1:{port}", ENVIRONMENTS / "dagster/bin"
    command = [
        str(scripts / "dagster"),
        "dev",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-f",
        str(SERVICES / "dagster_job.py"),
    ]
    environ = {"DAGSTER_HOME": str(folder), "PATH": f"{scripts}:{os.environ['PATH']}"}

    def loaded() -> bool:
        answer = ask(f"{url}/graphql", method="POST", body={"query": LOCATIONS})
        return answer.status == 200 and bool(answer.body["data"]["repositoriesOrError"].get("nodes"))

    with running(command, folder / "log", loaded, environ, cwd=folder):
        yield url


@pytest.fixture
def pipeline(provider: MakeProvider, dagster_url: str) -> HttpProvider:
    return provider("dagster", dagster_url, location="dagster_job.py", name="pipeline")


def work(**config: object) -> dict[str, object]:
    return {"ops": {"work": {"config": config}}}


async def test_a_run_succeeds(pipeline: HttpProvider) -> None:
    """It is queued, started, and ends well; the outcome is its record."""
    job = await created(pipeline, work(seconds=0.5))
    end = await ended(pipeline, job)
    assert end.status is JobStatus.SUCCEEDED
    assert job.id.encode() in bytes(end.result)


async def test_a_failure_says_of_which_kind_it_is(pipeline: HttpProvider) -> None:
    """Why it failed stands in its events; its tags tell in which way."""
    end = await ended(pipeline, await created(pipeline, work(fail="no way")))
    assert end.status is JobStatus.FAILED
    assert '{"key":"dagster/failure_reason","value":"STEP_FAILURE"}' in end.message


async def test_a_cancel_ends_the_run(pipeline: HttpProvider) -> None:
    """It is agreed to, and kept to; after the end it is refused."""
    job = await created(pipeline, work(seconds=120))
    await until(pipeline, job, is_processing)
    await until(pipeline, job, lambda reading: reading.provider_status == "STARTED")
    assert await pipeline.cancel(job) is True
    assert (await ended(pipeline, job)).status is JobStatus.CANCELLED
    assert await pipeline.cancel(job) is False


async def test_many_runs_are_asked_for_at_once(pipeline: HttpProvider) -> None:
    """One query tells the states of several runs."""
    job = await created(pipeline, work())
    await ended(pipeline, job)
    found = await pipeline.poll_many([job, Job("01a21ab0-80d2-7cd9-8c61-a8ff93b081fe")])
    assert {job_id: reading.status for job_id, reading in found.items()} == {job.id: JobStatus.SUCCEEDED}


async def test_an_unknown_run_is_not_found(pipeline: HttpProvider) -> None:
    """A union's member says so, with HTTP 200."""
    with pytest.raises(JobNotFound, match="could not be found"):
        await pipeline.poll_of(Job("nope"))()


async def test_bad_configuration_is_refused(provider: MakeProvider, dagster_url: str, pipeline: HttpProvider) -> None:
    """With HTTP 200 as well; and so is a job that does not exist."""
    with pytest.raises(CreateRefused, match='unexpected config entry "nope"'):
        await pipeline.create(task_with(work(nope=1)))
    wrong = provider("dagster", dagster_url, location="dagster_job.py", name="nope")
    with pytest.raises(CreateRefused, match="Could not find Pipeline"):
        await wrong.create(task_with(work()))
