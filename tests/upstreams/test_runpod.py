"""The recipe "runpod-local" against the local API of a real RunPod worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from creche.core.reading import JobStatus
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.errors import CreateRefused
from tests.upstreams.conftest import ENVIRONMENTS, SERVICES, ask, free_port, running
from tests.upstreams.jobs import MakeProvider, created, ended, result_of, task_with


@pytest.fixture(scope="module")
def runpod_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The worker of runpod_worker.py."""
    folder, port = tmp_path_factory.mktemp("runpod"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(ENVIRONMENTS / "runpod/bin/python"), str(SERVICES / "runpod_worker.py"), "--rp_serve_api"]
    command += ["--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    with running(command, folder / "log", lambda: ask(f"{url}/docs").status == 200):
        yield url


@pytest.fixture
def worker(provider: MakeProvider, runpod_url: str) -> HttpProvider:
    return provider("runpod-local", runpod_url)


async def test_a_job_is_done_within_its_poll(worker: HttpProvider) -> None:
    """The poll, by POST, waits for the work and brings its result."""
    job = await created(worker, {"question": "hi", "seconds": 0.5})
    assert result_of(await worker.poll_of(job)()) == {"answer": "HI"}


async def test_a_failure_says_why(worker: HttpProvider) -> None:
    """The worker's exception is in the message."""
    end = await ended(worker, await created(worker, {"question": "hi", "fail": "no way"}))
    assert end.status is JobStatus.FAILED
    assert "no way" in end.message


async def test_an_end_is_told_once(worker: HttpProvider) -> None:
    """Whoever asks again, or for what never was, hears that there is no such job: it is lost, not failed."""
    job = await created(worker, {"question": "hi"})
    await ended(worker, job)
    for gone in (job, Job("nope")):
        assert (await worker.poll_of(gone)()).status is JobStatus.LOST


async def test_a_create_without_an_object_is_refused(worker: HttpProvider) -> None:
    """The worker takes objects only."""
    with pytest.raises(CreateRefused, match="HTTP 422"):
        await worker.create(task_with("hi"))
