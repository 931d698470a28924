"""What the tests against real servers do with jobs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Task
from creche.edges.http_provider import HttpProvider

MakeProvider = Callable[..., HttpProvider]

TOKEN = "0b5e1d3c7c1f4b399d0a6b9f0f4a5e77"


def task_with(task_input: object, token: str = TOKEN) -> Task:
    raw = msgspec.Raw(msgspec.json.encode(task_input))
    return Task(id="t-1", algorithm="a", input=raw, token=token, accepted_at=0.0)


async def created(provider: HttpProvider, task_input: object, token: str = TOKEN) -> Job:
    """A job that was made and, as far as its create tells, runs."""
    reading = await provider.create(task_with(task_input, token))
    assert reading.job is not None
    assert reading.status.running
    return Job(reading.job, reading.keep)


async def ended(provider: HttpProvider, job: Job, *, within_s: float = 60.0) -> Reading:
    """The end of a job, result and all."""
    reading = await until(provider, job, lambda reading: not reading.status.running, within_s=within_s)
    return await provider.fetch(job, reading) if reading.to_fetch else reading


async def until(
    provider: HttpProvider, job: Job, wanted: Callable[[Reading], bool], *, within_s: float = 60.0
) -> Reading:
    """The first reading that is wanted; each on the way is one that the recipe knows."""
    with trio.fail_after(within_s):
        while True:
            reading = await provider.poll_of(job)()
            assert reading.known, f"the recipe does not know {reading.provider_status!r}"
            if wanted(reading):
                return reading
            await trio.sleep(0.1)


def is_processing(reading: Reading) -> bool:
    return reading.status is JobStatus.PROCESSING


def result_of(reading: Reading) -> object:
    assert reading.status is JobStatus.SUCCEEDED, reading
    return msgspec.json.decode(reading.result)
