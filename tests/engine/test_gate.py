"""The limits that the tasks of one algorithm share: rates and the breaker."""

from __future__ import annotations

from itertools import pairwise

import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Job, Status, Succeeded, Task
from creche.errors import CreateUncertain, Outage, Throttled
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, Lasting, settle_all, submit_all, times

RUNNING = Reading(status=JobStatus.PROCESSING)
NAMES = [f"t{number}" for number in range(20)]


class Reachable(FakeProvider):
    """A provider that is away between two times, with jobs that run for ever."""

    def __init__(self, gone_at: float, back_at: float) -> None:
        super().__init__()
        self.gone_at, self.back_at = gone_at, back_at
        self.creates: list[float] = []

    @property
    def is_away(self) -> bool:
        return self.gone_at <= trio.current_time() < self.back_at

    async def create(self, task: Task) -> Reading:
        """A job, if it is there."""
        self.creates.append(trio.current_time())
        if self.is_away:
            raise Outage("no connection")
        return await super().create(task)

    async def poll(self, job: Job) -> Reading:
        """Running, if it is there."""
        self._note("poll", job.id)
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise Outage("no connection")
        return RUNNING

    def polls_between(self, begin: float, end: float) -> list[float]:
        """When it was polled."""
        return [call.at for call in self.calls if call.method == "poll" and begin <= call.at < end]


async def test_creates_keep_their_rate(engine: Engine, autojump_clock: object) -> None:
    """Two a second, in the order of acceptance."""
    provider = Lasting(1000)
    await engine.start(engine.algorithm(provider, creates_per_s=2.0))
    await submit_all(engine, NAMES)
    await trio.sleep_until(12)
    assert provider.created == NAMES
    assert all(later - earlier >= 0.49 for earlier, later in pairwise(times(provider, "create")))


async def test_polls_keep_their_rate_and_everyone_gets_a_turn(engine: Engine, autojump_clock: object) -> None:
    """Twenty tasks that want to ask every 3 s, at two polls a second: each asks every 10 s."""
    provider = FakeProvider(poll=[RUNNING])
    await engine.start(engine.algorithm(provider, polls_per_s=2.0))
    await submit_all(engine, NAMES)
    await trio.sleep_until(100)
    polls = [call for call in provider.calls if call.method == "poll"]
    assert 190 <= len(polls) <= 201
    assert all(later.at - earlier.at >= 0.45 for earlier, later in pairwise(polls))
    for name in NAMES:
        mine = [call.at for call in polls if call.id == f"job-{name}"]
        assert len(mine) >= 9
        assert max(later - earlier for earlier, later in pairwise(mine)) <= 11


async def test_a_cancel_does_not_wait_for_the_rate_of_polls(engine: Engine, autojump_clock: object) -> None:
    """The provider hears of it at once, though the next poll's turn is far."""
    provider = Lasting(1000)
    await engine.start(engine.algorithm(provider, polls_per_s=0.05))
    await submit_all(engine, NAMES)
    await trio.sleep_until(10)
    await engine.supervisor.cancel("t19")
    await trio.sleep_until(11)
    assert times(provider, "cancel") == [10]


async def test_a_task_that_waits_for_the_rate_can_be_cancelled(engine: Engine, autojump_clock: object) -> None:
    """Before its create no provider is asked."""
    provider = Lasting(1000)
    await engine.start(engine.algorithm(provider, creates_per_s=0.01))
    await submit_all(engine, ["a", "b"])
    await trio.sleep_until(1)
    await engine.supervisor.cancel("b")
    assert await engine.result("b", within_s=1) == Cancelled(reason="client")
    assert provider.created == ["a"]


async def test_other_algorithms_have_rates_of_their_own(engine: Engine, autojump_clock: object) -> None:
    """A slow one holds up nobody else."""
    slow, free = Lasting(1000), Lasting(1000)
    await engine.start(engine.algorithm(slow, creates_per_s=0.1), engine.algorithm(free, "paint"))
    await submit_all(engine, NAMES)
    for name in NAMES:
        await engine.submit(f"p-{name}", "paint")
    await trio.sleep_until(1)
    assert len(free.created) == 20
    assert len(slow.created) == 1


async def test_a_provider_that_is_away_is_asked_by_one_at_a_time(
    engine: Engine, autojump_clock: object, warnings_logged: list[str]
) -> None:
    """Every fifteen seconds in the end, instead of by every task; all show why they wait, the log says it once."""
    provider = Reachable(30, 630)
    await engine.start(engine.algorithm(provider))
    await submit_all(engine, NAMES)
    await trio.sleep_until(600)
    assert len(provider.polls_between(60, 600)) <= 540 / 15 + 5
    assert {engine.condition(name) for name in NAMES} == {"unreachable"}
    assert sum("one task at a time" in line for line in warnings_logged) == 1


async def test_a_provider_that_is_back_is_asked_by_all_soon_and_not_at_once(
    engine: Engine, autojump_clock: object
) -> None:
    """Within the longest pause and an interval everyone has asked again, none twice in that time, no two together."""
    chance = iter([number / 997 % 1 for number in range(0, 10_000_000, 613)])
    engine.dice = lambda: next(chance)
    provider = Reachable(30, 630)
    await engine.start(engine.algorithm(provider))
    await submit_all(engine, NAMES)
    await trio.sleep_until(630 + 15 + 15 + 3)
    back = provider.polls_between(630, 700)
    assert len({call.id for call in provider.calls if call.method == "poll" and call.at >= 630}) == 20
    assert all(engine.condition(name) is None for name in NAMES)
    assert len({round(at, 1) for at in back}) > 10


async def test_no_create_is_sent_to_a_provider_that_is_away(engine: Engine, autojump_clock: object) -> None:
    """New tasks wait with their slot, visibly, and are made when it is back, each once."""
    provider = Reachable(0, 100)
    await engine.start(engine.algorithm(provider))
    await submit_all(engine, NAMES)
    await trio.sleep_until(90)
    assert len([at for at in provider.creates if at > 20]) <= 8
    assert (await engine.supervisor.get("t7")).status is Status.ACCEPTED
    await trio.sleep_until(140)
    assert all([(await engine.supervisor.get(name)).job is not None for name in NAMES])


async def test_a_refused_key_or_an_error_about_one_task_is_an_answer(engine: Engine, autojump_clock: object) -> None:
    """Only who is away is spared: throttling opens the breaker, a failing task does not."""
    throttled = FakeProvider(poll=[Throttled("429")])
    await engine.start(engine.algorithm(throttled, rhythm=Rhythm(every_s=1)))
    await submit_all(engine, NAMES)
    await trio.sleep_until(5)
    assert engine.supervisor.gate("draw").breaker.is_open
    assert {engine.condition(name) for name in NAMES} == {"throttled"}


async def test_a_create_that_was_answered_with_nonsense_was_answered(engine: Engine, autojump_clock: object) -> None:
    """So it closes the breaker; one whose answer was lost is a failure."""
    provider = FakeProvider(create=[CreateUncertain("HTTP 500", answered=True)], repeatable=False)
    await engine.start(engine.algorithm(provider))
    await submit_all(engine, NAMES)
    await trio.sleep_until(1)
    assert not engine.supervisor.gate("draw").breaker.is_open
    lost = FakeProvider(create=[CreateUncertain("lost")], repeatable=False)
    engine.supervisor.reload({"draw": engine.algorithm(lost)})
    await submit_all(engine, [f"again-{name}" for name in NAMES])
    await trio.sleep_until(2)
    assert engine.supervisor.gate("draw").breaker.is_open


async def test_the_deadline_does_not_wait_for_the_breaker(engine: Engine, autojump_clock: object) -> None:
    """The last poll is made whatever happened before; a job that ended meanwhile is found."""
    done = Reading(status=JobStatus.SUCCEEDED)

    async def answer(_: Job) -> Reading:
        if trio.current_time() < 99:
            raise Outage("away")
        return done

    await engine.start(engine.algorithm(FakeProvider(poll=[answer]), deadline_s=100.0))
    await submit_all(engine, NAMES)
    assert {type(task.outcome) for task in await settle_all(engine, NAMES)} == {Succeeded}


async def test_changed_limits_hold_after_a_reload(engine: Engine, autojump_clock: object) -> None:
    """A rate that is lifted lets those go who have no turn yet."""
    provider = Lasting(1000)
    await engine.start(engine.algorithm(provider, creates_per_s=0.1))
    await submit_all(engine, ["a", "b"])
    await trio.sleep_until(1)
    engine.supervisor.reload({"draw": engine.algorithm(provider)})
    await submit_all(engine, ["c", "d"])
    await trio.sleep_until(2)
    assert provider.created == ["a", "c", "d"]
    await trio.sleep_until(11)
    assert provider.created == ["a", "c", "d", "b"]
