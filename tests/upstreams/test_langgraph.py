"""The recipe "langgraph" against a real LangGraph server."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator

import pytest

from creche.core.reading import JobStatus
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.errors import CreateRefused, JobNotFound
from tests.upstreams.conftest import ENVIRONMENTS, SERVICES, ask, free_port, running
from tests.upstreams.jobs import MakeProvider, created, ended, is_processing, result_of, task_with, until


@pytest.fixture(scope="module")
def langgraph_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The development server with the agent of langgraph_agent.py; it writes where its files are."""
    folder, port = tmp_path_factory.mktemp("langgraph"), free_port()
    for name in ("langgraph_agent.py", "langgraph.json"):
        shutil.copy(SERVICES / name, folder)
    url = f"http://127.0.0.1:{port}"
    command = [str(ENVIRONMENTS / "langgraph/bin/langgraph"), "dev", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--no-browser", "--no-reload", "--config", str(folder / "langgraph.json")]
    environ = {"LANGSMITH_TRACING": "false", "PATH": os.environ["PATH"]}
    with running(command, folder / "log", lambda: ask(f"{url}/ok").status == 200, environ, cwd=folder):
        yield url


@pytest.fixture
def agent(provider: MakeProvider, langgraph_url: str) -> HttpProvider:
    return provider("langgraph", langgraph_url)


async def test_a_run_comes_to_its_result(agent: HttpProvider) -> None:
    """One request makes thread and run; at its end the second request brings the graph's state."""
    job = await created(agent, {"question": "hi", "seconds": 0.5}, secrets.token_hex(16))
    assert result_of(await ended(agent, job)) == {"question": "hi", "seconds": 0.5, "answer": "HI"}


async def test_a_failure_says_why(agent: HttpProvider) -> None:
    """Only who joins a failed run hears why, and with HTTP 200."""
    job = await created(agent, {"question": "hi", "fail": "no way"}, secrets.token_hex(16))
    end = await ended(agent, job)
    assert (end.status, end.message) == (JobStatus.FAILED, "no way")


async def test_a_cancel_interrupts_the_run(agent: HttpProvider) -> None:
    """It is agreed to at once, and kept to; once more it is not found, which is agreed to as well."""
    job = await created(agent, {"question": "hi", "seconds": 60}, secrets.token_hex(16))
    await until(agent, job, is_processing)
    assert await agent.cancel(job) is True
    assert (await ended(agent, job)).status is JobStatus.CANCELLED
    assert await agent.cancel(job) is True


async def test_a_run_is_found_by_its_token(agent: HttpProvider) -> None:
    """After a lost answer it is looked for in its thread, which need not be there."""
    token = secrets.token_hex(16)
    assert await agent.find(task_with({}, token)) is None
    job = await created(agent, {"question": "hi"}, token)
    found = await agent.find(task_with({}, token))
    assert found is not None
    assert (found.job, found.keep) == (job.id, job.keep)


async def test_an_unknown_run_is_not_found(agent: HttpProvider) -> None:
    """The server says so."""
    job = await created(agent, {"question": "hi"}, secrets.token_hex(16))
    with pytest.raises(JobNotFound):
        await agent.poll_of(Job("01a21aa6-c300-72eb-85b3-41d00538da1a", job.keep))()


async def test_a_wrong_assistant_is_refused(provider: MakeProvider, langgraph_url: str) -> None:
    """A graph that does not exist gets no run."""
    with pytest.raises(CreateRefused, match="Invalid assistant"):
        await provider("langgraph", langgraph_url, assistant="nope").create(task_with({}, secrets.token_hex(16)))
