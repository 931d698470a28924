"""The recipe "cog" against a real Cog server."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from creche.core.reading import JobStatus
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.errors import AnswerError, Throttled
from tests.upstreams.conftest import ENVIRONMENTS, SERVICES, ask, free_port, running
from tests.upstreams.jobs import MakeProvider, result_of, task_with


@pytest.fixture(scope="module")
def cog_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Cog server with the model of cog_model."""
    folder, port = tmp_path_factory.mktemp("cog"), free_port()
    url, scripts = f"http://127.0.0.1:{port}", ENVIRONMENTS / "cog/bin"
    environ = {"COG_PREDICT_TYPE_STUB": "run.py:Runner", "PORT": str(port)}
    environ["PATH"] = f"{scripts}:{os.environ['PATH']}"  # its worker is the first python there
    command = [str(scripts / "python"), "-m", "cog.server.http"]

    def ready() -> bool:
        return bool(ask(f"{url}/health-check").body["status"] == "READY")

    with running(command, folder / "log", ready, environ, cwd=SERVICES / "cog_model"):
        yield url


@pytest.fixture
def model(provider: MakeProvider, cog_url: str) -> HttpProvider:
    return provider("cog", cog_url)


async def test_a_prediction_runs_to_its_result(model: HttpProvider) -> None:
    """The create waits, and is answered with the end."""
    reading = await model.create(task_with({"question": "hi", "seconds": 0.5}))
    assert reading.job is not None
    assert result_of(reading) == "HI"


async def test_a_failure_says_why(model: HttpProvider) -> None:
    """The model's exception is the message."""
    reading = await model.create(task_with({"fail": "no way"}, "b" * 32))
    assert reading.status is JobStatus.FAILED
    assert reading.message.endswith("ValueError: no way")


async def test_a_busy_server_makes_no_job_and_a_cancel_frees_it(model: HttpProvider, cog_url: str) -> None:
    """One prediction at a time: the next is refused until the first, made elsewhere, is cancelled."""
    url = f"{cog_url}/predictions/elsewhere"
    body = {"input": {"seconds": 30.0}}
    assert ask(url, method="PUT", body=body, headers={"Prefer": "respond-async"}).status == 202
    with pytest.raises(Throttled, match="At capacity"):
        await model.create(task_with({"question": "hi"}, "c" * 32))
    assert await model.cancel(Job("elsewhere")) is True


async def test_a_prediction_cannot_be_asked_for(model: HttpProvider) -> None:
    """Cog has no poll; who attaches a prediction hears of that."""
    with pytest.raises(AnswerError, match="HTTP 405"):
        await model.poll_of(Job("elsewhere"))()
