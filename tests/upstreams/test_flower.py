"""The recipe "flower" against a real Flower, with real Celery workers and a real broker behind it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import trio

from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Task
from creche.edges.http_provider import HttpProvider
from creche.errors import CreateRefused, CreateUncertain

MakeProvider = Callable[..., HttpProvider]


@pytest.fixture
def celery(provider: MakeProvider, flower_url: str) -> Callable[..., HttpProvider]:
    """The provider of one Celery task, by its name."""

    def make(name: str, call: str = "async-apply") -> HttpProvider:
        return provider("flower", flower_url, name=f"celery_app.{name}", call=call)

    return make


async def created(provider: HttpProvider, task_input: object) -> tuple[Job, Reading]:
    raw = msgspec.Raw(msgspec.json.encode(task_input))
    reading = await provider.create(Task(id="t-1", algorithm="a", input=raw, token="t", accepted_at=0.0))
    assert reading.job is not None
    return Job(reading.job, reading.keep), reading


async def poll_until(provider: HttpProvider, job: Job, *statuses: JobStatus) -> Reading:
    with trio.fail_after(20):
        while True:
            reading = await provider.poll_of(job)()
            if reading.status in statuses:
                return reading
            await trio.sleep(0.05)


async def test_a_task_runs_to_its_result(celery: MakeProvider) -> None:
    """Created, it waits or runs; at its end the second request brings the returned value."""
    slow = celery("slow")
    job, first = await created(slow, {"args": [0.5]})
    assert first.status.running
    assert (await poll_until(slow, job, JobStatus.PROCESSING)).provider_status == "STARTED"
    end = await poll_until(slow, job, JobStatus.SUCCEEDED)
    assert end.to_fetch
    assert msgspec.json.decode((await slow.fetch(job, end)).result) == "done"


async def test_a_task_that_is_over_at_once_still_has_its_result(celery: MakeProvider) -> None:
    """An end that is in the create's answer is not complete before the fetch, which has the value."""
    add = celery("add")
    for _ in range(20):
        job, first = await created(add, {"kwargs": {"x": 2, "y": 3}})
        assert first.status.running or first.to_fetch
        end = await poll_until(add, job, JobStatus.SUCCEEDED)
        assert msgspec.json.decode((await add.fetch(job, end)).result) == 5


async def test_an_exception_is_a_failure_with_its_text(celery: MakeProvider) -> None:
    """A task that raises fails its job, with the exception as Python writes it."""
    fail = celery("fail")
    job, _ = await created(fail, {"args": ["no luck"]})
    end = await poll_until(fail, job, JobStatus.FAILED)
    assert end.message == "ValueError('no luck')"
    complete = await fail.fetch(job, end)
    assert (complete.status, complete.message) == (JobStatus.FAILED, "ValueError('no luck')")


async def test_a_running_task_is_killed_by_a_cancel(celery: MakeProvider) -> None:
    """Workers that are processes end at once, and the job is cancelled."""
    slow = celery("slow")
    job, _ = await created(slow, {"args": [60]})
    await poll_until(slow, job, JobStatus.PROCESSING)
    assert await slow.cancel(job) is True
    end = await poll_until(slow, job, JobStatus.CANCELLED)
    assert (end.provider_status, end.message) == ("REVOKED", "TaskRevokedError('terminated')")


async def test_a_waiting_task_is_cancelled_before_it_begins(celery: MakeProvider) -> None:
    """A task that a worker holds back for later is revoked without ever running."""
    slow = celery("slow")
    job, _ = await created(slow, {"args": [0], "countdown": 60})
    assert await slow.cancel(job) is True
    end = await poll_until(slow, job, JobStatus.CANCELLED)
    assert end.message == "TaskRevokedError('revoked')"


async def test_a_thread_cannot_be_killed(celery: MakeProvider) -> None:
    """Workers that are threads agree to the cancel as well, but the work goes on to its own end."""
    slow = celery("slow")
    job, _ = await created(slow, {"args": [1], "queue": "threads"})
    await poll_until(slow, job, JobStatus.PROCESSING)
    assert await slow.cancel(job) is True
    end = await poll_until(slow, job, JobStatus.SUCCEEDED, JobStatus.CANCELLED)
    assert msgspec.json.decode((await slow.fetch(job, end)).result) == "done"


async def test_a_cancel_after_the_end_changes_nothing(celery: MakeProvider) -> None:
    """A finished job stays finished, though the cancel is agreed to."""
    add = celery("add")
    job, _ = await created(add, {"args": [1, 2]})
    await poll_until(add, job, JobStatus.SUCCEEDED)
    assert await add.cancel(job) is True
    assert (await add.poll_of(job)()).status is JobStatus.SUCCEEDED


async def test_an_unknown_id_looks_like_a_waiting_job(celery: MakeProvider) -> None:
    """Flower cannot tell a lost job from a queued one, and revokes it as gladly."""
    add = celery("add")
    reading = await add.poll_of(Job("no-such-id"))()
    assert (reading.status, reading.provider_status) == (JobStatus.WAITING, "PENDING")
    assert await add.cancel(Job("no-such-id")) is True


async def test_an_unknown_task_is_refused(celery: MakeProvider) -> None:
    """A name that Flower has not imported cannot be created."""
    with pytest.raises(CreateRefused, match="HTTP 404: Unknown task"):
        await created(celery("nothing"), {})


async def test_wrong_arguments_leave_open_whether_there_is_a_job(celery: MakeProvider) -> None:
    """Flower answers them with a bare 500, as when it breaks after sending; "send-task" lets the job fail instead."""
    with pytest.raises(CreateUncertain, match="HTTP 500"):
        await created(celery("add"), {"args": [1]})
    unchecked = celery("add", "send-task")
    job, _ = await created(unchecked, {"args": [1]})
    end = await poll_until(unchecked, job, JobStatus.FAILED)
    assert "missing 1 required positional argument" in end.message
