"""The simulator's recipe against its server: what the daemon would do, one request at a time."""

from __future__ import annotations

import re
import tomllib
from functools import partial
from importlib import resources
from typing import Any

import msgspec
import pytest
import trio

from creche.core.binding import Binding
from creche.core.exchange import Answer, Call
from creche.core.lookup import Search
from creche.core.many import Many
from creche.core.reading import JobStatus, Reading
from creche.core.recipe import Recipe, load_recipe
from creche.core.task import Job, Task
from creche.errors import AnswerError, CredentialsRefused, JobNotFound, Outage, Throttled
from creche.simulator import serve
from tests.simulator.conftest import LIMIT_S, START, connected


def _document() -> dict[str, Any]:
    return tomllib.loads(resources.files("creche").joinpath("recipes/simulator.toml").read_text())


RECIPE = load_recipe("simulator", _document(), "simulator.toml")


class Account:
    """The recipe at a real simulator: what the daemon would do, one request at a time."""

    def __init__(self, url: str, *, recipe: Recipe = RECIPE, secret: str | None = None) -> None:
        self.url = url
        self.binding = Binding(recipe, base=url, params={}, secret=secret)

    async def send(self, call: Call | None) -> Answer:
        """Carry one request on a connection of its own; a closed connection is an `Outage`."""
        assert call is not None
        body = call.body or b""
        lines = [
            f"{call.method} {call.url.removeprefix(self.url)} HTTP/1.1",
            f"Host: {self.url.removeprefix('http://')}",
        ]
        lines += [f"{name}: {value}" for name, value in call.headers] + [f"Content-Length: {len(body)}", "", ""]
        async with connected(self.url) as client:
            answer = await client.ask("\r\n".join(lines).encode() + body)
        if answer is None:
            raise Outage("the connection was closed")
        return answer

    async def create(self, task: Task) -> Job:
        reading = self.binding.read_create(await self.send(self.binding.create_call(task)), task)
        assert reading.job is not None
        return Job(reading.job, reading.keep)

    async def poll(self, job: Job) -> Reading:
        return self.binding.read_poll(await self.send(self.binding.poll_call(job)))

    async def world(self, **world: object) -> None:
        call = Call(method="PUT", url=f"{self.url}/v1/world", body=msgspec.json.encode(world))
        assert (await self.send(call)).status == 200

    async def tags(self) -> dict[str, int]:
        answer = await self.send(Call(method="GET", url=f"{self.url}/v1/stats?tags=1"))
        return msgspec.json.decode(answer.body, type=dict[str, int])


def _task(script: dict[str, Any], number: int = 1) -> Task:
    content = msgspec.Raw(msgspec.json.encode({"prompt": "hello", "simulate": script}))
    return Task(id="t1", algorithm="simulated", input=content, token=f"token-{number}", accepted_at=START)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ({"queue": "1h"}, JobStatus.WAITING),
        ({"queue": "0s", "run": "1h"}, JobStatus.PROCESSING),
        ({"queue": "0s", "run": "0s", "pauses": "1h"}, JobStatus.PAUSED),
        ({"queue": "0s", "run": "0s"}, JobStatus.SUCCEEDED),
    ],
)
async def test_the_recipe_knows_every_word(url: str, script: dict[str, Any], status: JobStatus) -> None:
    """In the create's answer as in a poll's, so that a job may be over at once."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        task = _task(script)
        created = account.binding.read_create(await account.send(account.binding.create_call(task)), task)
        polled = await account.poll(await account.create(task))
        for reading in (created, polled):
            assert (reading.status, reading.known) == (status, True)


async def test_the_recipe_follows_a_job_to_its_result(url: str) -> None:
    """The result comes with the last poll, as the script has it, and no further request is needed."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        job = await account.create(_task({"queue": "20ms", "run": "50ms", "output": {"n": [1]}}))
        while (reading := await account.poll(job)).status.running:
            assert reading.progress is not None
            assert reading.progress < 1
        assert (reading.status, reading.progress, reading.to_fetch) == (JobStatus.SUCCEEDED, 1.0, False)
        assert bytes(reading.result) == b'{"n":[1]}'


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        ("failed", JobStatus.FAILED, "out of memory"),
        ("expired", JobStatus.EXPIRED, "out of memory"),
        ("cancelled", JobStatus.CANCELLED, ""),
    ],
)
async def test_the_recipe_reads_every_bad_end(url: str, end: str, status: JobStatus, message: str) -> None:
    """With the provider's message where there is one."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        job = await account.create(_task({"queue": "0s", "run": "0s", "end": end, "message": "out of memory"}))
        reading = await account.poll(job)
        assert (reading.status, reading.message) == (status, message)


async def test_the_recipe_cancels(url: str) -> None:
    """The provider agrees, also when the job has ended; a refusal is told apart."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        job = await account.create(_task({"end": "never"}))
        stubborn = await account.create(_task({"refuse_cancel": True}, number=2))
        for agreed, asked in ((True, job), (True, job), (False, stubborn)):
            answer = await account.send(account.binding.cancel_call(asked))
            assert account.binding.read_cancel(answer) is agreed
        assert (await account.poll(job)).status is JobStatus.CANCELLED


async def test_the_recipe_tells_the_provider_s_errors_apart(url: str) -> None:
    """Unknown job, throttled with a hint, outage, error, unknown word: each in its kind."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        script = {"queue": "0s", "errors": {"poll": [429, 503, 500, 0]}, "retry_after": 9, "statuses": ["odd"]}
        job = await account.create(_task(script))
        with pytest.raises(JobNotFound, match='there is no job "job-0"'):
            await account.poll(Job("job-0"))
        for kind in (Throttled, Outage, AnswerError, Outage):
            with pytest.raises(kind) as raised:
                await account.poll(job)
            assert raised.value.retry_after_s in ({9.0} if kind is Throttled else {9.0, None})
        reading = await account.poll(job)
        assert (reading.status, reading.known, reading.ask_again_s) == (JobStatus.PROCESSING, False, 9.0)


async def test_the_recipe_shows_the_key(nursery: trio.Nursery) -> None:
    """401 without the right one."""
    with trio.fail_after(LIMIT_S):
        url = await nursery.start(partial(serve, key="s3cret"))
        with pytest.raises(CredentialsRefused):
            await Account(url, secret="wrong").create(_task({}))
        account = Account(url, secret="s3cret")
        job = await account.create(_task({}))
        await account.world(unauthorized=True)
        with pytest.raises(CredentialsRefused):
            await account.poll(job)


async def test_the_recipe_repeats_a_create_whose_answer_was_lost(url: str) -> None:
    """The same token finds the job that was made: one job, whatever was lost."""
    with trio.fail_after(LIMIT_S):
        account = Account(url)
        assert account.binding.way.repeat == "token"
        task = _task({"lost_reply": True, "tag": "t1"})
        with pytest.raises(Outage):
            await account.create(task)
        await account.world(lose_replies=1.0)
        with pytest.raises(Outage):
            await account.create(task)
        await account.world()
        await account.poll(await account.create(task))
        assert await account.tags() == {"t1": 1}


async def test_a_separate_result_can_be_fetched(url: str) -> None:
    """With a `fetch` step added, the recipe brings a result that polls only name."""
    with trio.fail_after(LIMIT_S):
        document = _document()
        document["poll"]["keep"] = {"result": "/result_url"}
        document["fetch"] = {"url": "{+keep.result}"}
        account = Account(url, recipe=load_recipe("fetching", document, "fetching.toml"))
        job = await account.create(_task({"queue": "0s", "run": "0s", "separate_result": True}))
        reading = await account.poll(job)
        assert (reading.to_fetch, bytes(reading.result)) == (True, b"null")
        answer = await account.send(account.binding.fetch_call(Job(job.id, {**job.keep, **reading.keep})))
        assert bytes(account.binding.read_fetch(answer, reading).result) == b'"hello"'


async def test_a_create_can_be_looked_for(url: str) -> None:
    """With what the recipe's head describes: the job whose answer was lost is found by its token, on any page."""
    with trio.fail_after(LIMIT_S):
        head = (resources.files("creche") / "recipes/simulator.toml").read_text().partition("\ntitle")[0]
        text = head.partition("looked for instead")[2].partition("Many jobs")[0]
        settings = dict(re.findall(r"`(\w+) = (.+?)`", text.replace("\n# ", " ")))
        document = _document()
        del document["create"]["headers"]
        document["create"] |= tomllib.loads("".join(f"{key} = {settings.pop(key)}\n" for key in ("repeat", "body")))
        document["lookup"] = tomllib.loads("".join(f"{key} = {value}\n" for key, value in settings.items()))
        document["lookup"]["url"] = "/v1/jobs?limit=2"
        account = Account(url, recipe=load_recipe("looking", document, "looking.toml"))
        task = _task({"lost_reply": True})
        assert await _look_for(account, task) is None
        with pytest.raises(Outage):
            await account.create(task)
        others = [await account.create(_task({}, number=number)) for number in range(2, 5)]
        found = await _look_for(account, task)
        assert found is not None
        assert found not in [job.id for job in others]
        assert (await account.poll(Job(found))).status is JobStatus.WAITING


async def _look_for(account: Account, task: Task) -> str | None:
    search = Search(account.binding, task)
    while search.call is not None:
        search.take(await account.send(search.call))
    reading = search.result()
    return None if reading is None else reading.job


async def test_many_jobs_can_be_asked_for_at_once(url: str) -> None:
    """With the table `many` that the recipe's head describes; a job that the provider misses is in no reading."""
    with trio.fail_after(LIMIT_S):
        head = (resources.files("creche") / "recipes/simulator.toml").read_text().partition("\ntitle")[0]
        settings = re.findall(r"`(\w+ = .+?)`", head.partition("[many]")[2])
        document = _document() | {"many": tomllib.loads("\n".join(settings))}
        account = Account(url, recipe=load_recipe("batched", document, "batched.toml"))
        assert account.binding.recipe.many is not None
        done = await account.create(_task({"queue": "0s", "run": "0s", "output": 7}))
        runs = await account.create(_task({"queue": "0s", "end": "never"}, number=2))
        inquiry = Many(account.binding).about([done, runs, Job("job-0")])
        readings = inquiry.take(await account.send(inquiry.call))
        assert inquiry.call is None
        assert {job_id: reading.status for job_id, reading in readings.items()} == {
            done.id: JobStatus.SUCCEEDED,
            runs.id: JobStatus.PROCESSING,
        }
        assert readings[done.id] == await account.poll(done)
