"""What the supervisor is asked: to take tasks, to take over a new configuration, to tell of ends and changes."""

from __future__ import annotations

import msgspec
import pytest
import trio
from loguru import logger

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Status, Succeeded
from creche.core.wire import TaskIn
from creche.engine.feed import OLDEST
from creche.errors import (
    CreateUncertain,
    CrecheError,
    InvalidRequest,
    KeyConflict,
    TaskNotFound,
    TooManyTasks,
    UnknownAlgorithm,
)
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, Lasting, settle_all, submit_all

RUNNING = Reading(status=JobStatus.PROCESSING)
QUEUED = Reading(status=JobStatus.WAITING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))


# -- submit --------------------------------------------------------------------------------------------


async def test_a_task_is_durable_before_its_client_hears_of_it(engine: Engine, autojump_clock: object) -> None:
    """And it is being minded then."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    task = await engine.submit()
    assert engine.stored().id == task.id
    assert engine.supervisor.roster.live_task("t") is not None


async def test_repeating_a_key_returns_the_first_task(engine: Engine, autojump_clock: object) -> None:
    """Nothing is made a second time; with another content it is refused."""
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    first = await engine.submit("one", key="k")
    again = await engine.submit("two", key="k")
    assert again.id == first.id == "one"
    with pytest.raises(KeyConflict):
        await engine.submit("three", key="k", user="somebody else")
    await engine.at_rest("one")
    assert [call.method for call in provider.calls] == ["create", "poll"]


async def test_of_many_each_is_answered_on_its_own(engine: Engine, autojump_clock: object) -> None:
    """In order; refusals are values."""
    await engine.start(engine.algorithm(FakeProvider()))
    content = msgspec.Raw(b"{}")
    answers = await engine.supervisor.submit_many(
        [
            TaskIn(algorithm="draw", input=content, id="a"),
            TaskIn(algorithm="drew", input=content),
            TaskIn(algorithm="draw"),
            TaskIn(algorithm="draw", input=content, id="b"),
        ]
    )
    assert [answer.code if isinstance(answer, CrecheError) else answer.task.id for answer in answers] == [
        "a",
        UnknownAlgorithm.code,
        InvalidRequest.code,
        "b",
    ]


async def test_an_unknown_algorithm_gets_a_hint(engine: Engine, autojump_clock: object) -> None:
    """What was probably meant."""
    await engine.start(engine.algorithm(FakeProvider()))
    with pytest.raises(UnknownAlgorithm, match='"draw"'):
        await engine.submit(algorithm="drow")


async def test_only_so_many_tasks_may_be_unfinished(engine: Engine, autojump_clock: object) -> None:
    """One that has ended makes room."""
    engine.max_tasks = 2
    await engine.start(engine.algorithm(Lasting()))
    await submit_all(engine, "ab")
    with pytest.raises(TooManyTasks):
        await engine.submit("c")
    await engine.at_rest("a")
    await engine.submit("c")


async def test_a_task_that_nobody_knows_is_not_found(engine: Engine, autojump_clock: object) -> None:
    """By any of the questions."""
    await engine.start(engine.algorithm(FakeProvider()))
    for question in (engine.supervisor.get, engine.supervisor.cancel):
        with pytest.raises(TaskNotFound):
            await question("nobody")
    with pytest.raises(TaskNotFound):
        await engine.supervisor.wait("nobody", 1)


async def test_waiting_has_an_end(engine: Engine, autojump_clock: object) -> None:
    """The task as it is after the time, or as soon as it has ended; at once when it had ended before."""
    await engine.start(engine.algorithm(Lasting(100)))
    await engine.submit()
    assert (await engine.supervisor.wait("t", 30)).status is Status.PROCESSING
    assert trio.current_time() == pytest.approx(30)
    assert (await engine.supervisor.wait("t", 1000)).ended
    assert trio.current_time() < 104
    before = trio.current_time()
    assert (await engine.supervisor.wait("t", 1000)).ended
    assert trio.current_time() == before


# -- reload --------------------------------------------------------------------------------------------


async def test_a_running_task_takes_over_new_settings(engine: Engine, autojump_clock: object) -> None:
    """The new provider and the new rhythm, from the next request."""
    old, new = FakeProvider(poll=[RUNNING]), FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(old))
    await engine.submit()
    await trio.sleep_until(10)
    engine.supervisor.reload({"draw": engine.algorithm(new, rhythm=Rhythm(every_s=100))})
    await trio.sleep_until(250)
    assert len([call for call in old.calls if call.method == "poll"]) == 4
    assert [round(call.at, 1) for call in new.calls] == [10, 110, 210]


async def test_tasks_of_an_algorithm_that_vanished_wait(engine: Engine, autojump_clock: object) -> None:
    """Visibly, nothing is lost, nothing counts; when it returns they go on."""
    provider = Lasting(50)
    algorithm = engine.algorithm(provider)
    await engine.start(algorithm)
    await engine.submit()
    await trio.sleep_until(10)
    engine.supervisor.reload({})
    await trio.sleep_until(1000)
    assert engine.condition() == "unreachable"
    asked = len(provider.calls)
    await trio.sleep_until(2000)
    assert len(provider.calls) == asked
    engine.supervisor.reload({"draw": algorithm})
    assert isinstance(await engine.result(within_s=1), Succeeded)


async def test_a_vanished_algorithm_takes_no_new_tasks(engine: Engine, autojump_clock: object) -> None:
    """It is not known any more."""
    await engine.start(engine.algorithm(FakeProvider()))
    engine.supervisor.reload({})
    with pytest.raises(UnknownAlgorithm):
        await engine.submit()


async def test_tasks_that_wait_for_a_slot_keep_waiting_while_the_algorithm_is_away(
    engine: Engine, autojump_clock: object
) -> None:
    """Its limit comes back with it: no more jobs than slots, then as before."""
    provider = Lasting()
    algorithm = engine.algorithm(provider, in_flight=2)
    await engine.start(algorithm)
    await submit_all(engine, "abcdef")
    await trio.sleep_until(5)
    engine.supervisor.reload({})
    await trio.sleep_until(100)
    engine.supervisor.reload({"draw": algorithm})
    await settle_all(engine, "abcdef")
    assert provider.most == 2


async def test_an_unconfirmed_create_waits_for_its_provider(engine: Engine, autojump_clock: object) -> None:
    """While the algorithm is away nobody decides about it; when it is back, its provider's class does."""
    provider = FakeProvider(create=[CreateUncertain("lost"), DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(1)
    engine.supervisor.reload({})
    await trio.sleep_until(500)
    assert engine.stored().status is Status.CREATING
    engine.supervisor.reload({"draw": engine.algorithm(provider)})
    assert isinstance(await engine.result(within_s=1), Succeeded)


# -- the feed ------------------------------------------------------------------------------------------


async def test_each_outcome_is_told_once_in_the_order_of_commits(engine: Engine, autojump_clock: object) -> None:
    """To a reader that is there, to one that comes later, and to one that resumes with a cursor."""
    task_ids = [f"t{number:02}" for number in range(20)]
    provider = Lasting(30)
    await engine.start(engine.algorithm(provider, in_flight=7))
    there = engine.feed.reader(None, lambda _: True)
    await submit_all(engine, task_ids)
    heard: list[str] = []
    while len(heard) < 10:
        heard += [item.task.id for item in await there.next(limit=3)]
    resumed = engine.feed.reader(there.cursor, lambda _: True)
    while len(heard) < 20:
        heard += [item.task.id for item in await resumed.next()]
    later = [item.task.id for item in await engine.feed.reader(OLDEST, lambda _: True).next_nowait()]
    assert heard == later == engine.feed_ids()
    assert sorted(heard) == task_ids


async def test_a_cursor_holds_across_a_restart(engine: Engine, autojump_clock: object) -> None:
    """What was heard is not told again, what was not is."""
    await engine.start(engine.algorithm(FakeProvider()))
    await submit_all(engine, "ab")
    await settle_all(engine, "ab")
    reader = engine.feed.reader(OLDEST, lambda _: True)
    assert len(await reader.next_nowait(limit=1)) == 1
    await engine.crash()
    await engine.start()
    await engine.submit("c")
    await engine.at_rest("c")
    resumed = engine.feed.reader(reader.cursor, lambda _: True)
    heard = [item.task.id for item in await resumed.next_nowait()]
    assert heard == engine.feed_ids()[1:]


async def test_watchers_hear_of_changes(engine: Engine, autojump_clock: object) -> None:
    """Status and progress of a running task, without asking."""
    half = msgspec.structs.replace(RUNNING, progress=0.5)
    await engine.start(engine.algorithm(FakeProvider(poll=[QUEUED, half, DONE])))
    watcher = engine.tools.updates.watch(lambda _: True)
    await engine.submit()
    seen: list[tuple[Status, float | None]] = []
    while not seen or seen[-1] != (Status.PROCESSING, 0.5):
        for task_id in await watcher.next():
            task = await engine.supervisor.get(task_id)
            seen.append((task.status, task.progress))
    watcher.close()
    assert (Status.WAITING, None) in seen


async def test_each_transition_is_a_line_in_the_log(engine: Engine, autojump_clock: object) -> None:
    """With what finds it again: task, algorithm, user, job and trace. Acceptance aside, which the API tells."""
    lines: list[tuple[str, str, dict[str, object]]] = []
    sink = logger.add(
        lambda message: lines.append(
            (message.record["level"].name, message.record["message"], dict(message.record["extra"]))
        ),
        level="DEBUG",
    )
    running = Reading(status=JobStatus.PROCESSING, provider_status="running")
    done = Reading(status=JobStatus.SUCCEEDED)
    await engine.start(engine.algorithm(FakeProvider(poll=[running, done])))
    await engine.submit("t", user="u", traceparent=f"00-{32 * 'a'}-{16 * 'b'}-01")
    await engine.result()
    logger.remove(sink)
    about = [(level, message) for level, message, extra in lines if extra.get("task") == "t"]
    assert about == [
        ("DEBUG", "t: creating, before accepted"),
        ("DEBUG", "t: waiting, before creating"),
        ("INFO", "t: job job-t created"),
        ("DEBUG", "t: processing, before waiting"),
        ("INFO", "t: succeeded after 3.0 s"),
    ]
    extra = next(extra for _, message, extra in lines if "succeeded" in message)
    assert extra == {"task": "t", "algorithm": "draw", "user": "u", "job": "job-t", "trace": 32 * "a"}
