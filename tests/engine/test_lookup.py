"""Creates that may have arrived, at a provider where one can look: what is found is minded, the rest is made."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Status, Succeeded, Task
from creche.core.way import Way
from creche.errors import AnswerError, CreateUncertain, Outage, ProviderError
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, count, times

MADE = Reading(status=JobStatus.WAITING)
FOUND = Reading(status=JobStatus.WAITING, job="found", keep={"url": "there"})
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))
LOST = CreateUncertain("reset by peer")
APPEARS_S = 30.0
WAY = Way(repeat="lookup", digest="w", within_s=86_400.0, appears_within_s=APPEARS_S)


def provider_of(**scripts: Any) -> FakeProvider:  # noqa: ANN401 - what a FakeProvider takes
    """A provider where one can look."""
    return FakeProvider(**{"create": [LOST, MADE], "way": WAY, **scripts})


def methods(provider: FakeProvider) -> list[str]:
    """What was asked, each only once in a row."""
    calls = [call.method for call in provider.calls]
    return [method for number, method in enumerate(calls) if number == 0 or calls[number - 1] != method]


async def test_what_is_found_is_minded(engine: Engine, autojump_clock: object) -> None:
    """With the values that the list had; nothing is created again."""
    provider = provider_of(find=[FOUND])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    task = await engine.at_rest()
    assert isinstance(task.outcome, Succeeded)
    assert task.job is not None
    assert (task.job.id, task.job.keep) == ("found", {"url": "there"})
    assert [call.method for call in provider.calls] == ["create", "find", "poll"]


async def test_what_is_not_shown_yet_is_looked_for_again(engine: Engine, autojump_clock: object) -> None:
    """A list may lag behind."""
    provider = provider_of(find=[None, None, FOUND])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "create") == 1


async def test_what_is_not_there_is_made(engine: Engine, autojump_clock: object) -> None:
    """But only when it was looked for after it must have been shown; with the same token, and its slot is kept."""
    tokens: list[str] = []

    async def create(task: Task) -> Reading:
        tokens.append(task.token)
        if len(tokens) == 1:
            await trio.sleep(20)
            raise LOST
        return MADE

    provider = provider_of(create=[create], find=[None])
    await engine.start(engine.algorithm(provider, in_flight=1))
    await engine.submit()
    await engine.submit("u")
    await trio.sleep_until(20 + APPEARS_S)
    assert (engine.stored().status, engine.stored("u").status) == (Status.CREATING, Status.ACCEPTED)
    assert isinstance(await engine.result(), Succeeded)
    assert tokens[:2] == [tokens[0]] * 2
    assert times(provider, "create")[1] >= 20 + APPEARS_S
    assert max(times(provider, "find")) >= 20 + APPEARS_S


async def test_a_restart_looks_first(engine: Engine, autojump_clock: object) -> None:
    """And waits as long as if the create had been sent just before."""

    async def create(_: Task) -> Reading:
        await trio.sleep_forever()

    await engine.start(engine.algorithm(provider_of(create=[create])))
    await engine.submit()
    await trio.sleep_until(5)
    await engine.crash()
    later = provider_of(create=[MADE], find=[None])
    await engine.start(engine.algorithm(later))
    assert isinstance(await engine.result(), Succeeded)
    assert methods(later) == ["find", "create", "poll"]
    assert times(later, "create")[0] >= 5 + APPEARS_S


@pytest.mark.parametrize(("find", "outcome"), [(FOUND, Succeeded(DONE.result)), (None, Cancelled("client"))])
async def test_a_cancel_waits_for_what_is_found(
    engine: Engine, autojump_clock: object, find: Reading | None, outcome: object
) -> None:
    """A job that is there is asked to end, and its own end counts; where there is none nothing is made any more."""
    provider = provider_of(find=[None, find], poll=[DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(2)
    await engine.supervisor.cancel("t")
    assert await engine.result() == outcome
    assert count(provider, "create") == 1
    assert count(provider, "cancel") == (find is not None)


async def test_an_outage_of_the_search_is_waited_out(engine: Engine, autojump_clock: object) -> None:
    """It says nothing about the job."""
    provider = provider_of(find=[Outage("away")] * 6 + [FOUND])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(30)
    assert engine.condition() == "unreachable"
    assert isinstance(await engine.result(), Succeeded)
    assert count(provider, "create") == 1


@pytest.mark.parametrize("error", [AnswerError("the list goes on"), Outage("away")])
async def test_a_search_that_leads_nowhere_ends(engine: Engine, autojump_clock: object, error: ProviderError) -> None:
    """Then a person must look; the note says what happened."""
    provider = provider_of(find=[error])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    task = await engine.at_rest()
    assert task.status is Status.UNKNOWN
    assert task.note == f"cannot tell whether a job was made: reset by peer; looked for, the provider said: {error}"
    assert count(provider, "create") == 1
    assert engine.supervisor.roster.slots("draw").holders == set()


async def test_a_changed_way_is_not_repeated(engine: Engine, autojump_clock: object) -> None:
    """Killed while the create was on the wire, started with another recipe: a second create would be another job."""

    async def create(_: Task) -> Reading:
        await trio.sleep_forever()

    await engine.start(engine.algorithm(FakeProvider(create=[create], way=Way(repeat="token", digest="old"))))
    await engine.submit()
    await trio.sleep_until(5)
    await engine.crash()
    later = FakeProvider(way=Way(repeat="token", digest="new"))
    await engine.start(engine.algorithm(later))
    task = await engine.at_rest()
    assert task.status is Status.UNKNOWN
    assert "the way in which it is sent has changed" in task.note
    assert later.calls == []


async def test_a_reload_with_another_way_repeats_nothing(engine: Engine, autojump_clock: object) -> None:
    """The same without a restart; creates that certainly made no job go on by the new way."""
    old = FakeProvider(create=[LOST], way=Way(repeat="token", digest="old"))
    await engine.start(engine.algorithm(old))
    await engine.submit()
    await trio.sleep_until(1)
    new = FakeProvider(way=Way(repeat="token", digest="new"))
    engine.supervisor.reload({"draw": engine.algorithm(new)})
    await engine.submit("u")
    assert (await engine.at_rest()).status is Status.UNKNOWN
    assert isinstance(await engine.result("u"), Succeeded)
    assert [call.id for call in new.calls if call.method == "create"] == ["u"]
