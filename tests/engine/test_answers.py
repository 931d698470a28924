"""What the provider said last is kept with the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from creche.core.reading import JobStatus, Reading
from creche.core.task import MAX_ANSWERS
from creche.errors import AnswerError, Outage
from creche.testing import FakeProvider

if TYPE_CHECKING:
    from tests.engine.conftest import Engine

RUNNING = Reading(status=JobStatus.PROCESSING, provider_status="busy")
DONE = Reading(status=JobStatus.SUCCEEDED, provider_status="done", to_fetch=True)


def said(engine: Engine) -> list[tuple[str, str]]:
    return [(answered.request, answered.said) for answered in engine.stored().answers]


async def test_the_answers_are_in_the_record(engine: Engine, autojump_clock: object) -> None:
    """From the create to the fetch, errors among them; what is said again is one."""
    provider = FakeProvider(
        poll=[RUNNING, RUNNING, Outage("HTTP 503"), RUNNING, DONE], fetch=[AnswerError("no JSON"), RUNNING]
    )
    provider._fetch = [AnswerError("no JSON"), Reading(status=JobStatus.SUCCEEDED, provider_status="done")]
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await engine.result()
    assert said(engine) == [
        ("create", "waiting"),
        ("poll", "busy"),
        ("poll", "HTTP 503"),
        ("poll", "busy"),
        ("poll", "done"),
        ("fetch", "no JSON"),
        ("fetch", "done"),
    ]
    answers = engine.stored().answers
    assert [answered.at for answered in answers] == sorted(answered.at for answered in answers)
    assert all(answered.seconds is not None for answered in answers)


async def test_only_the_last_ones_are_kept(engine: Engine, autojump_clock: object) -> None:
    """However much there is to say."""
    words = [Reading(status=JobStatus.PROCESSING, provider_status=f"{number}") for number in range(20)]
    await engine.start(engine.algorithm(FakeProvider(poll=[*words, DONE], fetch=[DONE])))
    await engine.submit()
    await engine.result()
    assert len(said(engine)) == MAX_ANSWERS
    assert said(engine)[0] == ("poll", "14")


async def test_a_cancel_is_answered_too(engine: Engine, autojump_clock: object) -> None:
    """By agreement, here."""
    provider = FakeProvider(poll=[RUNNING] * 3 + [Reading(status=JobStatus.CANCELLED, provider_status="stopped")])
    await engine.start(engine.algorithm(provider))
    await engine.submit(job="j")
    await engine.supervisor.cancel("t")
    await engine.at_rest()
    assert ("cancel", "agreed") in said(engine)
