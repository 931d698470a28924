"""The recipe "ogc-processes" against a real pygeoapi."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
import trio

from creche.core.reading import JobStatus
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.errors import CreateRefused, JobNotFound
from tests.upstreams.conftest import ENVIRONMENTS, SERVICES, ask, free_port, running
from tests.upstreams.jobs import MakeProvider, created, ended, result_of, task_with


@pytest.fixture(scope="module")
def pygeoapi_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Pygeoapi with the process of pygeoapi_process.py; its OpenAPI document must be there before it starts."""
    folder, port = tmp_path_factory.mktemp("pygeoapi"), free_port()
    url, program = f"http://127.0.0.1:{port}", str(ENVIRONMENTS / "pygeoapi/bin/pygeoapi")
    environ = {
        "PYGEOAPI_PORT": str(port),
        "PYGEOAPI_JOBS": str(folder),
        "PYGEOAPI_CONFIG": str(SERVICES / "pygeoapi.yml"),
        "PYGEOAPI_OPENAPI": str(folder / "openapi.yml"),
        "PYTHONPATH": str(SERVICES),
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    document = [
        program,
        "openapi",
        "generate",
        environ["PYGEOAPI_CONFIG"],
        "--output-file",
        environ["PYGEOAPI_OPENAPI"],
    ]
    subprocess.run(document, env=environ, check=True, capture_output=True, timeout=60)  # noqa: S603 - our own command
    with running([program, "serve"], folder / "log", lambda: ask(url).status == 200, environ):
        yield url


@pytest.fixture
def shout(provider: MakeProvider, pygeoapi_url: str) -> HttpProvider:
    return provider("ogc-processes", pygeoapi_url, process="shout")


def work(**inputs: object) -> dict[str, object]:
    return {"inputs": inputs}


async def test_a_job_comes_to_its_result(shout: HttpProvider) -> None:
    """Its id is in the header Location; at its end the second request brings the result."""
    job = await created(shout, work(question="hi", seconds=0.5))
    assert result_of(await ended(shout, job)) == {"answer": "HI"}


async def test_a_failure_says_why(shout: HttpProvider) -> None:
    """The process's exception is in the message."""
    end = await ended(shout, await created(shout, work(question="hi", fail="no way")))
    assert end.status is JobStatus.FAILED
    assert end.message == "InvalidParameterValue: Error executing process: no way"


async def test_a_cancel_dismisses_the_job(shout: HttpProvider) -> None:
    """It is agreed to, and the server then does not know the job any more."""
    job = await created(shout, work(question="hi", seconds=2))
    await trio.sleep(0.2)
    assert await shout.cancel(job) is True
    with pytest.raises(JobNotFound):
        await shout.poll_of(job)()
    assert await shout.cancel(job) is True


async def test_an_unknown_job_is_not_found(shout: HttpProvider) -> None:
    """The server says so."""
    with pytest.raises(JobNotFound):
        await shout.poll_of(Job("nope"))()


async def test_a_wrong_process_is_refused(provider: MakeProvider, pygeoapi_url: str) -> None:
    """A process that does not exist gets no job."""
    with pytest.raises(CreateRefused, match="HTTP 404: identifier not found"):
        await provider("ogc-processes", pygeoapi_url, process="nope").create(task_with(work()))
