"""The limits that the tasks of one algorithm share: rates and the breaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import trio

from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Job, Status, Succeeded, Task
from creche.errors import CreateUncertain, Outage, Throttled
from creche.testing import FakeProvider
from tests.engine.conftest import Engine, Lasting, count, settle_all, submit_all, times

RUNNING = Reading(status=JobStatus.PROCESSING)
DONE = Reading(status=JobStatus.SUCCEEDED)
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
    await trio.sleep_until(630 + 15 + 2 * 3)
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
    assert engine.supervisor.roster.gate("draw").breaker.is_open
    assert {engine.condition(name) for name in NAMES} == {"throttled"}


async def test_a_create_that_was_answered_with_nonsense_was_answered(engine: Engine, autojump_clock: object) -> None:
    """So it closes the breaker; one whose answer was lost is a failure."""
    provider = FakeProvider(create=[CreateUncertain("HTTP 500", answered=True)], repeat="none")
    await engine.start(engine.algorithm(provider))
    await submit_all(engine, NAMES)
    await trio.sleep_until(1)
    assert not engine.supervisor.roster.gate("draw").breaker.is_open
    lost = FakeProvider(create=[CreateUncertain("lost")], repeat="none")
    engine.supervisor.reload({"draw": engine.algorithm(lost)})
    await submit_all(engine, [f"again-{name}" for name in NAMES])
    await trio.sleep_until(2)
    assert engine.supervisor.roster.gate("draw").breaker.is_open


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
    """A rate that is lifted lets everybody go, those too who wait for their turn."""
    provider = Lasting(1000)
    await engine.start(engine.algorithm(provider, creates_per_s=0.1))
    await submit_all(engine, ["a", "b"])
    await trio.sleep_until(1)
    engine.supervisor.reload({"draw": engine.algorithm(provider)})
    await submit_all(engine, ["c", "d"])
    await trio.sleep_until(2)
    assert sorted(provider.created) == ["a", "b", "c", "d"]


# -- many jobs at once -----------------------------------------------------------------------------------


class Crowded(Lasting):
    """A provider that can be asked for many jobs at once."""

    def __init__(self, seconds: float, *, batch: int = 10) -> None:
        super().__init__(seconds)
        self.batch = batch

    async def poll_many(self, jobs: Sequence[Job]) -> Mapping[str, Reading]:
        """As many single polls would say, of those whose id does not end in 7."""
        self._note("poll_many", ",".join(job.id for job in jobs))
        await trio.sleep(0.1)
        said = {job.id: RUNNING if job.id in self.running else DONE for job in jobs}
        return {job_id: reading for job_id, reading in said.items() if not job_id.endswith("7")}


async def test_tasks_of_one_account_are_asked_for_together(engine: Engine, autojump_clock: object) -> None:
    """Those that the answer does not mention are asked for by themselves; all come to their ends."""
    provider = Crowded(60)
    await engine.start(engine.algorithm(provider))
    await submit_all(engine, NAMES)
    assert {type(task.outcome) for task in await settle_all(engine, NAMES)} == {Succeeded}
    assert count(provider, "poll_many") <= 60
    alone = {call.id for call in provider.calls if call.method == "poll"}
    assert alone == {"job-t7", "job-t17"}


async def test_a_request_for_many_jobs_is_one_poll_of_the_rate(engine: Engine, autojump_clock: object) -> None:
    """Eighteen tasks share their polls at one a second: nobody waits for eighteen turns."""
    provider = Crowded(1000, batch=20)
    await engine.start(engine.algorithm(provider, polls_per_s=1.0))
    await submit_all(engine, [name for name in NAMES if not name.endswith("7")])
    await trio.sleep_until(100)
    asked = [call.at for call in provider.calls if call.method == "poll_many"]
    assert all(later - earlier >= 0.99 for earlier, later in pairwise(asked))
    assert len(asked) >= 25
    assert count(provider, "poll") == 0


async def test_two_algorithms_of_one_account_share_a_request(engine: Engine, autojump_clock: object) -> None:
    """And after a reload no longer, if one of them has another account now."""
    provider = Crowded(10_000, batch=50)
    await engine.start(engine.algorithm(provider), engine.algorithm(provider, "paint"))
    await submit_all(engine, ["a", "b"])
    await engine.submit("c", "paint")
    await trio.sleep_until(20)
    assert {frozenset(call.id.split(",")) for call in provider.calls[-3:]} == {frozenset({"job-a", "job-b", "job-c"})}
    other = Crowded(10_000, batch=50)
    other.account, other.ends = "other", provider.ends
    engine.supervisor.reload({"draw": engine.algorithm(provider), "paint": engine.algorithm(other, "paint")})
    await trio.sleep_until(40)
    assert {frozenset(call.id.split(",")) for call in provider.calls[-3:]} == {frozenset({"job-a", "job-b"})}
    assert count(other, "poll_many") == 0, "one job has no company"
    assert count(other, "poll") > 3


async def test_an_outage_of_a_request_for_many_is_one_of_each(engine: Engine, autojump_clock: object) -> None:
    """The breaker opens; when the provider is back the tasks come together again."""

    class Away(Crowded):
        async def poll_many(self, jobs: Sequence[Job]) -> Mapping[str, Reading]:
            self._check()
            return await super().poll_many(jobs)

        async def poll(self, job: Job) -> Reading:
            self._check()
            return await super().poll(job)

        def _check(self) -> None:
            if 20 <= trio.current_time() < 100:
                raise Outage("no connection")

    provider = Away(10_000)
    await engine.start(engine.algorithm(provider))
    await submit_all(engine, ["a", "b", "c", "d", "e", "f"])
    await trio.sleep_until(90)
    assert engine.supervisor.roster.gate("draw").breaker.is_open
    assert engine.condition("a") == "unreachable"
    await trio.sleep_until(200)
    assert engine.condition("a") is None
    assert provider.calls[-1].method == "poll_many"
