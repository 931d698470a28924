"""Admission, slots, reload, stop, a store that is away, the error boundary, the feed: the engine as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Job, ServerFailed, Status, Succeeded, Task, TimedOut
from creche.core.wire import TaskIn
from creche.engine.feed import OLDEST
from creche.engine.supervisor import CREATE_GRACE_S
from creche.errors import (
    CreateUncertain,
    CrecheError,
    Draining,
    InvalidRequest,
    KeyConflict,
    Outage,
    StoreUnavailable,
    TaskNotFound,
    TooManyTasks,
    UnknownAlgorithm,
    WrongStatus,
)
from creche.testing import FakeProvider

if TYPE_CHECKING:
    from tests.engine.conftest import Engine

RUNNING = Reading(status=JobStatus.PROCESSING)
QUEUED = Reading(status=JobStatus.WAITING)
DONE = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(b"7"))
STOPPED = Reading(status=JobStatus.CANCELLED)


class Lasting(FakeProvider):
    """Its jobs run for a while each; `running` are those that exist now, `most` how many there ever were at once."""

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.ends: dict[str, float] = {}
        self.created: list[str] = []
        self.most = 0

    async def create(self, task: Task) -> Reading:
        """Make a job that ends by itself."""
        self.ends[f"job-{task.id}"] = trio.current_time() + self.seconds
        self.created.append(task.id)
        self.most = max(self.most, len(self.running))
        return await super().create(task)

    async def poll(self, job: Job) -> Reading:
        """Running, until it ends."""
        await super().poll(job)
        return RUNNING if job.id in self.running else DONE

    async def cancel(self, job: Job) -> bool:
        """End it now."""
        self.ends[job.id] = trio.current_time()
        return await super().cancel(job)

    @property
    def running(self) -> list[str]:
        """The jobs that run now."""
        return [job for job, ends in self.ends.items() if trio.current_time() < ends]


async def submit_all(engine: Engine, task_ids: Sequence[str], priority: int = 0) -> None:
    """Submit one after the other."""
    for task_id in task_ids:
        await engine.submit(task_id, priority=priority)


async def settle_all(engine: Engine, task_ids: Sequence[str]) -> list[Task]:
    """Wait for all."""
    return [await engine.at_rest(task_id) for task_id in task_ids]


# -- submit --------------------------------------------------------------------------------------------


async def test_a_task_is_durable_before_its_client_hears_of_it(engine: Engine, autojump_clock: object) -> None:
    """And it is being minded then."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    task = await engine.submit()
    assert engine.stored().id == task.id
    assert engine.supervisor.live_task("t") is not None


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


# -- slots ---------------------------------------------------------------------------------------------


async def test_no_more_jobs_exist_than_there_are_slots(engine: Engine, autojump_clock: object) -> None:
    """Two at a time; all get their turn, in order of arrival."""
    provider = Lasting()
    await engine.start(engine.algorithm(provider, in_flight=2))
    for task_id in "abcde":
        await engine.submit(task_id)
        await trio.sleep(1)
    await settle_all(engine, "abcde")
    assert provider.most == 2
    assert provider.created == list("abcde")
    assert engine.supervisor.slots("draw").holders == set()


async def test_priority_comes_first(engine: Engine, autojump_clock: object) -> None:
    """Then arrival."""
    provider = Lasting()
    await engine.start(engine.algorithm(provider, in_flight=1))
    await submit_all(engine, "ab")
    await submit_all(engine, "xy", priority=5)
    await submit_all(engine, "z", priority=-1)
    await submit_all(engine, "c")
    await settle_all(engine, "abcxyz")
    assert provider.created == list("axybcz")


async def test_each_algorithm_has_its_own_slots(engine: Engine, autojump_clock: object) -> None:
    """One that is full holds up nobody else."""
    busy, free = Lasting(1000), Lasting()
    await engine.start(engine.algorithm(busy, in_flight=1), engine.algorithm(free, "paint", in_flight=1))
    await submit_all(engine, "ab")
    await engine.submit("p", algorithm="paint")
    await engine.result("p", within_s=20)


async def test_a_cancelled_job_s_slot_is_free(engine: Engine, autojump_clock: object) -> None:
    """As soon as the task is settled."""
    provider = Lasting(1000)
    await engine.start(engine.algorithm(provider, in_flight=1))
    await submit_all(engine, "ab")
    await trio.sleep(10)
    await engine.supervisor.cancel("a")
    await trio.sleep(1)
    assert provider.created == ["a", "b"]


async def test_who_is_cancelled_in_the_queue_is_passed_over(engine: Engine, autojump_clock: object) -> None:
    """It ends at once, without a job, and holds nothing."""
    provider = Lasting(100)
    await engine.start(engine.algorithm(provider, in_flight=1))
    await submit_all(engine, "abc")
    await trio.sleep(10)
    await engine.supervisor.cancel("b")
    assert await engine.result("b", within_s=1) == Cancelled(reason="client")
    await settle_all(engine, "ac")
    assert provider.created == ["a", "c"]


async def test_an_unknown_task_holds_no_slot(engine: Engine, autojump_clock: object) -> None:
    """A person may take days to resolve it."""

    async def create(task: Task) -> Reading:
        if task.id == "a":
            raise CreateUncertain("lost")
        return QUEUED

    await engine.start(engine.algorithm(FakeProvider(create=[create], repeatable=False), in_flight=1))
    await submit_all(engine, "ab")
    assert isinstance(await engine.result("b"), Succeeded)
    assert (await engine.supervisor.get("a")).status is Status.UNKNOWN


async def test_a_busy_provider_s_task_keeps_its_slot(engine: Engine, autojump_clock: object) -> None:
    """Put back, it tries again; those behind it would be turned away as well."""
    provider = FakeProvider(create=[Outage("away")])
    await engine.start(engine.algorithm(provider, in_flight=1))
    await submit_all(engine, "abc")
    await trio.sleep(1000)
    assert {call.id for call in provider.calls} == {"a"}


async def test_attached_jobs_hold_slots_whatever_the_limit(engine: Engine, autojump_clock: object) -> None:
    """They exist; new ones wait until there is room."""
    provider = Lasting()
    provider.ends = {"j1": 10.0, "j2": 20.0}
    await engine.start(engine.algorithm(provider, in_flight=1))
    await engine.submit("one", job="j1")
    await engine.submit("two", job="j2")
    await engine.submit("three")
    await trio.sleep_until(15)
    assert provider.created == []
    await engine.result("three")
    assert provider.created == ["three"]


async def test_more_slots_let_waiting_tasks_go(engine: Engine, autojump_clock: object) -> None:
    """At once when the configuration is read again; fewer take nobody's job away."""
    provider = Lasting(1000)
    await engine.start(engine.algorithm(provider, in_flight=1))
    await submit_all(engine, "abcde")
    await trio.sleep(10)
    engine.supervisor.reload({"draw": engine.algorithm(provider, in_flight=3)})
    await trio.sleep(1)
    assert sorted(provider.created) == ["a", "b", "c"]
    engine.supervisor.reload({"draw": engine.algorithm(provider, in_flight=1)})
    await trio.sleep(1)
    assert len(provider.running) == 3
    await settle_all(engine, "abcde")
    assert provider.most == 3


async def test_a_task_can_be_made_to_wait_for_its_time(engine: Engine, autojump_clock: object) -> None:
    """`start_at` comes first, and until then no slot is taken."""
    provider = Lasting(1)
    await engine.start(engine.algorithm(provider, in_flight=1))
    start_at = datetime.fromtimestamp(engine.wall() + 500, UTC)
    await engine.submit("later", start_at=start_at)
    await engine.submit("now")
    await engine.result("now", within_s=10)
    await trio.sleep_until(499)
    assert provider.created == ["now"]
    await engine.result("later", within_s=10)


async def test_waiting_for_a_time_can_be_cancelled(engine: Engine, autojump_clock: object) -> None:
    """At once, without a provider."""
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    await engine.submit(start_at=datetime.fromtimestamp(engine.wall() + 500, UTC))
    await trio.sleep(10)
    await engine.supervisor.cancel("t")
    assert await engine.result(within_s=1) == Cancelled(reason="client")
    assert provider.calls == []


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


# -- stop ----------------------------------------------------------------------------------------------


async def test_a_stop_leaves_jobs_as_they_are(engine: Engine, autojump_clock: object) -> None:
    """At once: nothing is settled, cancelled or waited for; the next start goes on."""
    provider = Lasting(100)
    await engine.start(engine.algorithm(provider, in_flight=2))
    await submit_all(engine, "abc")
    await trio.sleep_until(10)
    await engine.stop()
    assert trio.current_time() == pytest.approx(10)
    assert [engine.stored(task_id).status for task_id in "abc"] == [
        Status.PROCESSING,
        Status.PROCESSING,
        Status.ACCEPTED,
    ]
    assert engine.feed_ids() == []
    assert len(engine.pulse) == 0
    await engine.start()
    assert all(task.ended for task in await settle_all(engine, "abc"))
    assert provider.created == ["a", "b", "c"]
    assert not [call for call in provider.calls if call.method == "cancel"]


async def test_after_a_stop_nothing_is_accepted(engine: Engine, autojump_clock: object) -> None:
    """The answer says that it will pass."""
    await engine.start(engine.algorithm(FakeProvider(poll=[RUNNING])))
    engine.supervisor.stop()
    with pytest.raises(Draining):
        await engine.submit()
    assert engine.store.unfinished() == []


async def test_a_stop_lets_creates_on_the_wire_finish(engine: Engine, autojump_clock: object) -> None:
    """Their jobs are on disk, so the next start needs not guess."""

    async def create(_: Task) -> Reading:
        await trio.sleep(3)
        return QUEUED

    provider = FakeProvider(create=[create], repeatable=False)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(1)
    await engine.stop()
    assert trio.current_time() == pytest.approx(3)
    assert engine.stored().job is not None
    await engine.start()
    assert isinstance(await engine.result(), Succeeded)
    assert [call.method for call in provider.calls] == ["create", "poll"]


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_stop_waits_for_creates_only_so_long(
    engine: Engine,
    autojump_clock: object,
    repeatable: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Five seconds; then the create is uncertain: repeated by the next start, or left to a person."""

    async def create(_: Task) -> Reading:
        if trio.current_time() < 100:
            await trio.sleep_forever()
        return QUEUED

    provider = FakeProvider(create=[create], repeatable=repeatable)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    await trio.sleep_until(1)
    await engine.stop()
    assert trio.current_time() == pytest.approx(1 + CREATE_GRACE_S)
    assert engine.stored().status is (Status.CREATING if repeatable else Status.UNKNOWN)
    assert engine.feed_ids() == []
    await trio.sleep_until(100)
    await engine.start()
    task = await engine.at_rest()
    assert task.status is (Status.SUCCEEDED if repeatable else Status.UNKNOWN)
    assert len([call for call in provider.calls if call.method == "create"]) == 1 + repeatable


async def test_a_stop_is_not_held_up_by_a_create_that_begins_with_it(engine: Engine, autojump_clock: object) -> None:
    """Its intent was just being written when the stop came: it gets no more time than those on the wire."""

    async def create(_: Task) -> Reading:
        await trio.sleep(1000)
        return QUEUED

    commit = engine.store.commit

    def commit_and_stop(writes: Sequence[object]) -> object:
        if any(write.task.status is Status.CREATING for write in writes):  # type: ignore[attr-defined]
            engine.supervisor.stop()
        return commit(writes)  # type: ignore[arg-type]

    engine.store.commit = commit_and_stop  # type: ignore[assignment, method-assign]
    engine.around_io = no_checkpoint
    provider = FakeProvider(create=[create])
    for number in range(8):  # whose turn it is in that moment is up to the scheduler
        await engine.start(engine.algorithm(provider))
        began = trio.current_time()
        with trio.move_on_after(1):
            await engine.submit(f"t{number}")
        await engine.stop()
        assert trio.current_time() - began < 10


async def no_checkpoint() -> None:
    """A store that answers at once."""


async def test_an_outcome_that_is_in_hand_is_written_before_the_end(engine: Engine, autojump_clock: object) -> None:
    """A stop while a task is being settled loses nothing: it is in the feed, once."""
    answer = trio.Event()
    await engine.start(engine.algorithm(until(5, engine)))
    await engine.submit()
    await trio.sleep_until(5)
    before, engine.around_io = engine.around_io, answer.wait
    await trio.sleep_until(7)
    engine.supervisor.stop()
    await trio.testing.wait_all_tasks_blocked()
    engine.around_io = before
    answer.set()
    await engine.stop()
    assert engine.feed_ids() == ["t"]


def until(at_s: float, engine: Engine) -> FakeProvider:
    """A provider whose jobs end at a time."""

    async def poll(_: Job) -> Reading:
        return RUNNING if trio.current_time() < at_s else DONE

    return FakeProvider(poll=[poll])


# -- the store is away ---------------------------------------------------------------------------------


async def test_without_a_store_nothing_is_accepted(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """Nothing starts; when it is back, the same submit is taken."""
    provider = FakeProvider()
    await engine.start(engine.algorithm(provider))
    engine.store.failing = True
    with pytest.raises(StoreUnavailable):
        await engine.submit()
    await trio.sleep(100)
    assert provider.calls == []
    faults = [engine.journal.fault]
    engine.store.failing = False
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    faults.append(engine.journal.fault)
    assert faults == ["the store was told to fail", None]
    assert len(errors_logged) == 1


async def test_an_outcome_waits_for_the_store(engine: Engine, autojump_clock: object, errors_logged: list[str]) -> None:
    """However long; nobody hears of it before it is durable, and then once."""
    await engine.start(engine.algorithm(until(10, engine), deadline_s=100))
    reader = engine.feed.reader(None, lambda _: True)
    await engine.submit()
    await trio.sleep_until(5)
    engine.store.failing = True
    await trio.sleep_until(1000)
    assert await reader.next_nowait() == []
    assert (await engine.supervisor.wait("t", 10)).status is Status.PROCESSING
    engine.store.failing = False
    assert isinstance(await engine.result(within_s=3), Succeeded)
    await trio.sleep(100)
    assert engine.feed_ids() == ["t"]
    assert [item.task.id for item in await reader.next_nowait()] == ["t"]
    assert len(errors_logged) == 1


async def test_a_cancel_that_cannot_be_written_is_not_promised(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """The client is told so, each time it asks; when the store is back the next cancel is durable."""
    await engine.start(engine.algorithm(FakeProvider(poll=[*[RUNNING] * 12, STOPPED])))
    await engine.submit()
    await trio.sleep_until(4)
    engine.store.failing = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await engine.supervisor.cancel("t")
    engine.store.failing = False
    await engine.supervisor.cancel("t")
    assert engine.stored().cancel_reason == "client"
    assert await engine.result() == Cancelled(reason="client")
    assert len(errors_logged) == 1


async def test_a_retried_write_does_not_take_back_a_cancel(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """The job's id could not be written, then a cancel could: what is on disk in the end has both."""

    async def create(_: Task) -> Reading:
        engine.store.failing = True
        return QUEUED

    await engine.start(engine.algorithm(FakeProvider(create=[create], poll=[QUEUED]), rhythm=Rhythm(first_s=60)))
    await engine.submit()
    await trio.sleep_until(1.5)
    engine.store.failing = False
    await engine.supervisor.cancel("t")
    assert engine.stored().cancel_reason == "client"
    await trio.sleep_until(30)
    assert engine.stored().cancel_reason == "client"
    assert engine.stored().job is not None
    assert len(errors_logged) == 1


async def test_a_task_that_ends_while_its_cancel_is_written_keeps_its_end(
    engine: Engine, autojump_clock: object
) -> None:
    """The cancel came too late, and says so."""
    answer = trio.Event()
    await engine.start(engine.algorithm(until(6, engine)))
    await engine.submit()
    await trio.sleep_until(5)
    before, engine.around_io = engine.around_io, answer.wait
    await trio.sleep_until(7)
    async with trio.open_nursery() as client:
        client.start_soon(cancel_too_late, engine)
        await trio.testing.wait_all_tasks_blocked()
        engine.around_io = before
        answer.set()
    assert isinstance(await engine.result(), Succeeded)
    assert engine.stored().cancel_reason is None


async def cancel_too_late(engine: Engine) -> None:
    """Cancel, and be refused or told the end."""
    with contextlib.suppress(WrongStatus):
        assert (await engine.supervisor.cancel("t")).status is Status.SUCCEEDED


# -- the error boundary --------------------------------------------------------------------------------


async def test_a_defect_once_is_survived(engine: Engine, autojump_clock: object, errors_logged: list[str]) -> None:
    """It is logged with the task's id, and the task goes on."""
    provider = FakeProvider(poll=[RUNNING, RuntimeError("boom"), DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert len(errors_logged) == 1
    assert errors_logged[0].startswith("t: ")


async def test_five_defects_in_a_row_end_their_task_alone(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """`server_failed` with the reason `internal`; the others are unharmed."""
    await engine.start(
        engine.algorithm(FakeProvider(poll=[RuntimeError("boom")])), engine.algorithm(Lasting(100), "paint")
    )
    await engine.submit("ill")
    await engine.submit("well", algorithm="paint")
    outcome = await engine.result("ill")
    assert isinstance(outcome, ServerFailed)
    assert (outcome.failures, outcome.reason) == (5, "internal")
    assert isinstance(await engine.result("well"), Succeeded)
    assert len(errors_logged) == 5
    assert engine.supervisor.slots("draw").holders == set()
    assert engine.feed_ids() == ["ill", "well"]


async def test_good_answers_between_defects_forgive_them(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """Only those in a row count: five in an hour, each survived, end nothing."""
    steps: list[Reading | Exception] = [RUNNING, RuntimeError("boom")]
    provider = FakeProvider(poll=[*steps * 8, DONE])
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert isinstance(await engine.result(), Succeeded)
    assert len(errors_logged) == 8


async def test_a_defect_in_a_create_makes_no_second_job(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """Nobody knows how far it came: it is as uncertain as a lost answer."""
    provider = FakeProvider(create=[RuntimeError("boom"), DONE], repeatable=False)
    await engine.start(engine.algorithm(provider))
    await engine.submit()
    assert (await engine.at_rest()).status is Status.UNKNOWN
    assert len(provider.calls) == 1
    assert len(errors_logged) == 1


async def test_a_defect_does_not_stretch_the_deadline(
    engine: Engine, autojump_clock: object, errors_logged: list[str]
) -> None:
    """It is the task's, not the child's."""
    provider = FakeProvider(poll=[RuntimeError("boom"), RUNNING])
    await engine.start(engine.algorithm(provider, deadline_s=100))
    await engine.submit()
    assert await engine.result() == TimedOut(after_s=100)
    assert trio.current_time() == pytest.approx(100, abs=0.1)
    assert len(errors_logged) == 1


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
