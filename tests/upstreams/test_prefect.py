"""The recipe "prefect" against a real Prefect server, with a process that serves a flow."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

import pytest

from creche.core.reading import JobStatus
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.errors import CreateRefused, JobNotFound
from tests.upstreams.conftest import ENVIRONMENTS, SERVICES, ask, free_port, running
from tests.upstreams.jobs import MakeProvider, created, ended, is_processing, task_with, until


@pytest.fixture(scope="module")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server that keeps its database in a folder of its own, and the flow of prefect_flow.py."""
    folder, port = tmp_path_factory.mktemp("prefect"), free_port()
    url, scripts = f"http://127.0.0.1:{port}/api", ENVIRONMENTS / "prefect/bin"
    environ = {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PATH": f"{scripts}:{os.environ['PATH']}",
    }
    server = [str(scripts / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    flow = [str(scripts / "python"), str(SERVICES / "prefect_flow.py")]

    def healthy() -> bool:
        return ask(f"{url}/health").status == 200

    def served() -> bool:
        return ask(f"{url}/deployments/name/shout/test").status == 200

    with contextlib.ExitStack() as processes:
        processes.enter_context(running(server, folder / "server.log", healthy, environ))
        processes.enter_context(running(flow, folder / "flow.log", served, environ))
        yield url


@pytest.fixture
def flow(provider: MakeProvider, prefect_url: str) -> HttpProvider:
    deployment = ask(f"{prefect_url}/deployments/name/shout/test").body["id"]
    return provider("prefect", prefect_url, deployment=deployment)


def work(**parameters: object) -> dict[str, object]:
    return {"parameters": parameters}


async def test_a_run_completes(flow: HttpProvider) -> None:
    """It waits for the runner, runs, and ends well."""
    job = await created(flow, work(question="hi", seconds=0.5), secrets.token_hex(16))
    assert (await ended(flow, job)).status is JobStatus.SUCCEEDED


async def test_a_failure_says_why(flow: HttpProvider) -> None:
    """The flow's exception is the message."""
    end = await ended(flow, await created(flow, work(fail="no way"), secrets.token_hex(16)))
    assert end.status is JobStatus.FAILED
    assert end.message == "Flow run encountered an exception: ValueError: no way"


async def test_a_repeated_create_makes_no_second_run(flow: HttpProvider) -> None:
    """The same token is answered with the first run."""
    token = secrets.token_hex(16)
    first = await created(flow, work(question="hi"), token)
    assert (await created(flow, work(question="hi"), token)).id == first.id


async def test_a_cancel_ends_the_run(flow: HttpProvider) -> None:
    """It is agreed to, goes by "cancelling", and is kept to."""
    job = await created(flow, work(seconds=120), secrets.token_hex(16))
    await until(flow, job, is_processing)
    assert await flow.cancel(job) is True
    assert (await ended(flow, job)).status is JobStatus.CANCELLED


async def test_many_runs_are_asked_for_at_once(flow: HttpProvider) -> None:
    """One request tells the states of several runs, and leaves out those that it does not know."""
    jobs = [await created(flow, work(seconds=0.1), secrets.token_hex(16)) for _ in range(2)]
    for job in jobs:
        await ended(flow, job)
    unknown = Job("01a21ab0-80d2-7cd9-8c61-a8ff93b081fe")
    found = await flow.poll_many([*jobs, unknown])
    assert {job_id: reading.status for job_id, reading in found.items()} == {
        job.id: JobStatus.SUCCEEDED for job in jobs
    }


async def test_an_unknown_run_is_not_found(flow: HttpProvider) -> None:
    """The server says so."""
    with pytest.raises(JobNotFound, match="Flow run not found"):
        await flow.poll_of(Job("01a21ab0-80d2-7cd9-8c61-a8ff93b081fe"))()


async def test_wrong_parameters_are_refused(flow: HttpProvider) -> None:
    """The server checks them against the flow's."""
    with pytest.raises(CreateRefused, match="Validation failed for field 'seconds'"):
        await flow.create(task_with(work(seconds="x"), secrets.token_hex(16)))
