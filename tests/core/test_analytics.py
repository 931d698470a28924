"""Events about tasks, for those who count."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from creche.core import task as tasks
from creche.core.analytics import GATHER_S, Collector, Event, events
from creche.core.task import Failed, Job, Task
from creche.testing import make_task

ALL = Collector(name="analytics.a", url="https://a/x?key=geheim", secret="geheim")
SOME = Collector(name="analytics.b", url="https://b", algorithms=frozenset({"other"}))


def running() -> Task:
    return tasks.begin_job(make_task("t", user="u"), Job("j"), 2.0)


def read(body: bytes) -> Event:
    return msgspec.json.decode(body, type=Event)


def test_a_job_is_an_event() -> None:
    """With who wanted it, by what, and when."""
    task = running()
    [delivery] = events(task, [ALL, SOME], 1_800_000_001.25)
    assert (delivery.id, delivery.endpoint, delivery.task) == ("t.created.analytics.a", "analytics.a", "t")
    assert read(delivery.body) == Event(
        id="t.created",
        event="created",
        time=datetime(2027, 1, 15, 8, 0, 1, 250_000, tzinfo=UTC),
        task="t",
        algorithm=task.algorithm,
        user="u",
        job="j",
        status=task.status,
        reason=None,
        seconds=round(1_800_000_001.25 - task.accepted_at, 3),
        trace=None,
    )


def test_an_end_is_an_event() -> None:
    """With how it ended, and after how long."""
    task = tasks.settle(running(), Failed("provider", "no luck"), 9.0)
    [delivery] = events(task, [ALL], 9.0)
    told = read(delivery.body)
    assert (told.id, told.event, told.status, told.reason) == ("t.settled", "settled", "failed", "provider")
    assert told.seconds == 9.0 - task.accepted_at


def test_events_of_some_seconds_are_due_together() -> None:
    """At the end of them, and never later than that."""
    due = {now: events(running(), [ALL], now)[0].due_at for now in (100.1, 102.0, 105.0, 105.1)}
    assert due == {100.1: 105.0, 102.0: 105.0, 105.0: 105.0, 105.1: 110.0}
    assert GATHER_S == 5.0


def test_a_collector_shows_no_secret() -> None:
    """Wherever it is printed."""
    assert repr(ALL) == "Collector(analytics.a)"
