"""The files of a result: saved before the task ends, and no reason for it to fail."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import trio

from creche.core.assets import Asset
from creche.core.exchange import Call
from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Succeeded
from creche.engine.saving import AT_ONCE, ATTEMPTS
from creche.errors import AnswerError, Outage
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, count

URLS = [f"https://files.example/{number}.png" for number in range(6)]
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(msgspec.json.encode(URLS)))


class Saver:
    """Saves nothing; `trouble` decides, by the file's number and the attempt, what is raised. Each takes a second."""

    def __init__(self, trouble: Callable[[int, int], Exception | None] = lambda _number, _attempt: None) -> None:
        self.asked: list[int] = []
        self.at_once = self.most = 0
        self._trouble = trouble

    async def save(self, _task_id: str, number: int, call: Call) -> Asset:
        self.asked.append(number)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await trio.sleep(1)
        finally:
            self.at_once -= 1
        trouble = self._trouble(number, self.asked.count(number))
        if trouble is not None:
            raise trouble
        return saved(number, call.url)


def saved(number: int, url: str) -> Asset:
    return Asset(url=url, path=f"/assets/{number:03}.png", media_type="image/png", bytes=3, sha256="abc")


ALL = tuple(saved(number, url) for number, url in enumerate(URLS))


async def test_a_task_ends_when_its_files_are_saved(engine: Engine, autojump_clock: object) -> None:
    """All of them, in the order of the result, a few at a time."""
    saver = Saver()
    await engine.start(engine.algorithm(FakeProvider(poll=[DONE]), saver=saver))
    await engine.submit()
    assert await engine.result() == Succeeded(DONE.result, assets=ALL)
    assert saver.most == AT_ONCE
    assert trio.current_time() >= len(URLS) / AT_ONCE


async def test_where_they_are_not_wanted_nothing_is_saved(engine: Engine, autojump_clock: object) -> None:
    """The provider is not even asked which there are."""
    provider = FakeProvider(poll=[DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert await engine.result() == Succeeded(DONE.result)
    assert count(provider, "assets_of") == 0


async def test_a_file_is_asked_for_again_after_an_outage(engine: Engine, autojump_clock: object) -> None:
    """Also several times; then it is there."""
    saver = Saver(lambda number, attempt: Outage("away") if number == 2 and attempt < ATTEMPTS else None)
    await engine.start(engine.algorithm(FakeProvider(poll=[DONE]), saver=saver))
    await engine.submit()
    assert await engine.result() == Succeeded(DONE.result, assets=ALL)
    assert saver.asked.count(2) == ATTEMPTS


@pytest.mark.parametrize(("error", "attempts"), [(Outage("away"), ATTEMPTS), (AnswerError("HTTP 404"), 1)])
async def test_a_file_that_cannot_be_had_does_not_fail_the_task(
    engine: Engine, autojump_clock: object, error: Exception, attempts: int
) -> None:
    """Its asset says why; the result and the others are there."""
    saver = Saver(lambda number, _: error if number == 2 else None)
    await engine.start(engine.algorithm(FakeProvider(poll=[DONE]), saver=saver))
    await engine.submit()
    missing = Asset(url=URLS[2], error=str(error))
    assert await engine.result() == Succeeded(DONE.result, assets=(*ALL[:2], missing, *ALL[3:]))
    assert saver.asked.count(2) == attempts


@pytest.mark.parametrize("told_once", [False, True])
async def test_after_a_crash_the_files_are_asked_for_and_the_job_is_not(
    engine: Engine,
    autojump_clock: object,
    told_once: bool,  # noqa: FBT001 - a parameter
) -> None:
    """The result was in hand, and on disk: perhaps it would not be given out again."""
    provider = FakeProvider(poll=[DONE], told_once=told_once)
    await engine.start(engine.algorithm(provider, saver=Saver(lambda *_: Outage("away"))))
    await engine.submit()
    await trio.sleep_until(5)
    await engine.crash()
    after = FakeProvider(poll=[Reading(status=JobStatus.LOST)], told_once=told_once)
    await engine.start(engine.algorithm(after, saver=Saver()))
    assert await engine.result() == Succeeded(DONE.result, assets=ALL)
    assert count(after, "poll") == 0


async def test_at_the_deadline_the_result_counts(engine: Engine, autojump_clock: object) -> None:
    """A file that is not there by then is not waited for."""
    saver = Saver(lambda *_: Outage("away", retry_after_s=1000.0))
    await engine.start(engine.algorithm(FakeProvider(poll=[DONE]), saver=saver, deadline_s=30))
    await engine.submit()
    outcome = await engine.result()
    assert isinstance(outcome, Succeeded)
    assert outcome.result == DONE.result
    assert [asset.error for asset in outcome.assets] == ["not to be had before the deadline"]


async def test_a_job_that_is_over_at_once_has_files_too(engine: Engine, autojump_clock: object) -> None:
    """The answer to the create was the end."""
    provider = FakeProvider(create=[DONE])
    await engine.start(engine.algorithm(provider, saver=Saver()))
    await engine.submit()
    assert await engine.result() == Succeeded(DONE.result, assets=ALL)
    assert count(provider, "poll") == 0


async def test_a_fetched_result_has_files_too(engine: Engine, autojump_clock: object) -> None:
    """They are those of the result, and not of the poll's answer."""
    provider = FakeProvider(poll=[Reading(status=JobStatus.SUCCEEDED, to_fetch=True)], fetch=[DONE])
    await engine.start(engine.algorithm(provider, saver=Saver()))
    await engine.submit()
    assert await engine.result() == Succeeded(DONE.result, assets=ALL)
    assert count(provider, "fetch") == 1


async def test_a_failure_has_no_files(engine: Engine, autojump_clock: object) -> None:
    """Nothing is asked for."""
    saver = Saver()
    await engine.start(engine.algorithm(FakeProvider(poll=[Reading(status=JobStatus.FAILED)]), saver=saver))
    await engine.submit()
    await engine.result()
    assert saver.asked == []


async def test_the_files_of_a_result_that_was_left_are_saved(engine: Engine, autojump_clock: object) -> None:
    """It was too large for a record, and the process ended before its outcome was written: nobody is asked for it."""
    provider = FakeProvider(poll=[Reading(status=JobStatus.PROCESSING)])
    await engine.start(engine.algorithm(provider, saver=Saver()))
    await engine.submit()
    await trio.sleep_until(4)
    await engine.crash()
    engine.store.files["t"] = bytes(DONE.result)
    after = FakeProvider()
    await engine.start(engine.algorithm(after, saver=Saver()))
    assert await engine.result() == Succeeded(DONE.result, assets=ALL)
    assert [call.method for call in after.calls] == ["assets_of"]


async def test_a_stop_while_files_are_saved_leaves_the_task_to_the_next_start(
    engine: Engine, autojump_clock: object
) -> None:
    """It has not ended, and its job is not asked again."""
    provider = FakeProvider(poll=[DONE])
    await engine.start(engine.algorithm(provider, saver=Saver(lambda *_: Outage("away", retry_after_s=600.0))))
    await engine.submit()
    await trio.sleep_until(5)
    await engine.stop()
    assert not engine.stored().ended
    await engine.start(engine.algorithm(provider, saver=Saver()))
    assert await engine.result() == Succeeded(DONE.result, assets=ALL)
    assert count(provider, "poll") == 1


async def test_files_that_cannot_be_named_are_one_that_is_missing(engine: Engine, autojump_clock: object) -> None:
    """The result is there, and says nothing of where they are."""

    class Nameless(FakeProvider):
        def assets_of(self, job: Job, reading: Reading) -> list[Call]:
            raise AnswerError(f"the file of {job.id} needs a name, {reading.status}")

    saver = Saver()
    await engine.start(engine.algorithm(Nameless(poll=[DONE]), saver=saver))
    await engine.submit()
    missing = Asset(url="", error="the file of job-t needs a name, succeeded")
    assert await engine.result() == Succeeded(DONE.result, assets=(missing,))
    assert saver.asked == []


async def test_what_a_partial_success_has_is_saved(engine: Engine, autojump_clock: object) -> None:
    """And it stays partial."""
    partial = msgspec.structs.replace(DONE, partial=True)
    await engine.start(engine.algorithm(FakeProvider(poll=[partial]), saver=Saver()))
    await engine.submit()
    assert await engine.result() == Succeeded(DONE.result, partial=True, assets=ALL)
