"""Slots: how many jobs exist at once, and whose turn it is."""

from __future__ import annotations

from datetime import UTC, datetime

import trio
from trio.testing import wait_all_tasks_blocked

from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Status, Succeeded, Task
from creche.errors import CreateUncertain, Outage
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, Lasting, settle_all, submit_all

QUEUED = Reading(status=JobStatus.WAITING)


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
    assert engine.supervisor.roster.slots("draw").holders == set()


async def test_who_waits_for_a_slot_costs_no_child(engine: Engine, autojump_clock: object) -> None:
    """A task gets its child with its slot; a long queue is only records."""
    provider = Lasting(1000)
    await engine.start(engine.algorithm(provider, in_flight=1))
    await submit_all(engine, "ab")
    await wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    await submit_all(engine, "cdefghij")
    await wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_queue_moves_up_when_the_limit_is_raised(engine: Engine, autojump_clock: object) -> None:
    """A reload gives slots to the first who wait for them; the others wait on."""
    provider = Lasting(1000)
    await engine.start(engine.algorithm(provider, in_flight=1))
    await submit_all(engine, "abcde")
    await trio.sleep(10)
    engine.supervisor.reload({"draw": engine.algorithm(provider, in_flight=3)})
    await trio.sleep(10)
    assert sorted(provider.created) == ["a", "b", "c"]


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

    await engine.start(engine.algorithm(FakeProvider(create=[create], repeat="none"), in_flight=1))
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
