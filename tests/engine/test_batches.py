"""Many jobs in one request, on a clock that jumps: who goes together, in which order, and what each child hears."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from creche.core.limits import Rate
from creche.core.polling import Ask, Poller, Rhythm
from creche.core.reading import JobStatus, Reading
from creche.core.task import Job
from creche.engine.batches import AT_ONCE, GATHER_PART, Accounts, Batches
from creche.engine.timetable import Timetable
from creche.errors import (
    AnswerError,
    CredentialsRefused,
    JobNotFound,
    Outage,
    ProviderError,
    Throttled,
)
from creche.testing import FakeProvider
from tests.engine.conftest import count, times

GATHER_S = 0.3
LATENCY_S = 0.15
RUNNING = Reading(status=JobStatus.PROCESSING)
FREE = Rate(None)

Heard = dict[str, Reading | Exception | None]


async def tell(jobs: Sequence[Job]) -> Mapping[str, Reading]:
    """What a provider says that is well: each job runs, and its word is its own id."""
    await trio.sleep(LATENCY_S)
    return {job.id: reading_of(job.id) for job in jobs}


def reading_of(job_id: str) -> Reading:
    return Reading(status=JobStatus.PROCESSING, provider_status=job_id)


def asked(provider: FakeProvider) -> list[str]:
    """The ids in each request, in the order of the requests."""
    return [call.id for call in provider.calls if call.method == "poll_many"]


class Children:
    """Children that hand over one job each. `heard` is what each was told, or the error that it met."""

    def __init__(self, batches: Batches, nursery: trio.Nursery) -> None:
        self.batches = batches
        self.heard: Heard = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self._nursery = nursery

    async def hand_over(self, *job_ids: str) -> None:
        """Begin one child after the other; each has handed over its job when this returns."""
        for job_id in job_ids:
            self._nursery.start_soon(self._child, job_id)
            await trio.testing.wait_all_tasks_blocked()

    async def _child(self, job_id: str) -> None:
        with trio.CancelScope() as self.scopes[job_id]:
            try:
                self.heard[job_id] = await self.batches.reading(Job(job_id), gather_s=GATHER_S)
            except (ProviderError, RuntimeError) as exc:
                self.heard[job_id] = exc


Begin = Callable[[FakeProvider], Children]


@pytest.fixture
def begin(nursery: trio.Nursery) -> Begin:
    """Children of one account whose requests run beside them."""
    return lambda provider: Children(Batches(provider, nursery, name="draw", rate=FREE), nursery)


def heard_well(*job_ids: str) -> Heard:
    return {job_id: reading_of(job_id) for job_id in job_ids}


# -- who goes together -----------------------------------------------------------------------------------


async def test_a_full_batch_leaves_at_once(begin: Begin, autojump_clock: object) -> None:
    """One request, nobody waits for company, and each hears what is said about its own job."""
    children = begin(provider := FakeProvider(batch=3, poll_many=[tell]))
    await children.hand_over("a", "b", "c")
    await trio.sleep(LATENCY_S)
    assert (asked(provider), times(provider, "poll_many")) == (["a,b,c"], [0.0])
    await trio.testing.wait_all_tasks_blocked()
    assert children.heard == heard_well("a", "b", "c")


async def test_a_batch_that_is_not_full_leaves_when_its_first_has_waited(begin: Begin, autojump_clock: object) -> None:
    """Whoever comes later than that is in the next one."""
    children = begin(provider := FakeProvider(batch=10, poll_many=[tell]))
    for job_ids in (["a"], ["b"], ["c", "d"]):
        await children.hand_over(*job_ids)
        await trio.sleep(0.2)
    await trio.sleep(1)
    assert asked(provider) == ["a,b", "c,d"]
    assert times(provider, "poll_many") == [0.3, 0.7]
    assert children.heard == heard_well("a", "b", "c", "d")


async def test_who_comes_first_is_asked_first(begin: Begin, autojump_clock: object) -> None:
    """Whatever the crowd."""
    names = [f"{number:02}" for number in range(12)]
    children = begin(provider := FakeProvider(batch=3, poll_many=[tell]))
    await children.hand_over(*names)
    await trio.sleep(1)
    assert asked(provider) == ["00,01,02", "03,04,05", "06,07,08", "09,10,11"]


async def test_a_job_without_company_is_left_to_its_child(begin: Begin, autojump_clock: object) -> None:
    """Its own request asks for less. That is told when the time for company is over."""
    children = begin(provider := FakeProvider(batch=3, poll_many=[tell]))
    await children.hand_over("a")
    await trio.sleep(GATHER_S - 0.01)
    assert children.heard == {}
    await trio.sleep(0.02)
    assert (children.heard, asked(provider)) == ({"a": None}, [])


async def test_a_job_that_two_tasks_mind_is_asked_for_once(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Both hear of it."""
    batches = Batches(provider := FakeProvider(batch=3, poll_many=[tell]), nursery, name="draw", rate=FREE)
    crowd = [Children(batches, nursery) for _ in range(2)]
    for children in crowd:
        await children.hand_over("a")
    await crowd[0].hand_over("b")
    await trio.sleep(1)
    assert asked(provider) == ["a,b"]
    assert [children.heard for children in crowd] == [heard_well("a", "b"), heard_well("a")]


async def test_few_requests_are_on_the_wire_at_once(begin: Begin, autojump_clock: object) -> None:
    """What has to wait for one to end leaves then, in order, with whoever came meanwhile."""
    names = [f"{number:02}" for number in range(2 * AT_ONCE + 3)]
    children = begin(provider := FakeProvider(batch=2, poll_many=[tell]))
    await children.hand_over(*names)
    await trio.sleep(LATENCY_S - 0.01)
    assert len(asked(provider)) == AT_ONCE
    await children.hand_over("last")
    await trio.sleep(1)
    assert asked(provider)[AT_ONCE:] == [",".join(names[-3:-1]), f"{names[-1]},last"]
    assert children.heard == heard_well(*names, "last")


async def test_a_wait_for_the_wire_counts_as_a_wait_for_company(begin: Begin, autojump_clock: object) -> None:
    """A batch that is not full leaves with the next request, once its first has waited long enough."""

    async def slow(jobs: Sequence[Job]) -> Mapping[str, Reading]:
        await trio.sleep(10)
        return await tell(jobs)

    children = begin(provider := FakeProvider(batch=3, poll_many=[*[slow] * AT_ONCE, tell]))
    await children.hand_over(*map(str, range(3 * AT_ONCE)), "x", "y")
    await trio.sleep(20)
    assert asked(provider)[-1] == "x,y"
    assert times(provider, "poll_many")[-1] == round(10 + LATENCY_S, 1)


# -- cancelled -------------------------------------------------------------------------------------------


async def test_a_child_that_goes_while_it_gathers_is_not_asked_for(begin: Begin, autojump_clock: object) -> None:
    """Nor does it hold its place in the batch."""
    children = begin(provider := FakeProvider(batch=3, poll_many=[tell]))
    await children.hand_over("a", "b")
    children.scopes["a"].cancel()
    await children.hand_over("c", "d")
    await trio.sleep(1)
    assert asked(provider) == ["b,c,d"]
    assert children.heard == heard_well("b", "c", "d")


async def test_a_child_that_goes_does_not_disturb_those_on_the_wire(begin: Begin, autojump_clock: object) -> None:
    """The request goes on without it."""
    children = begin(provider := FakeProvider(batch=3, poll_many=[tell]))
    await children.hand_over("a", "b", "c")
    children.scopes["a"].cancel()
    await trio.sleep(1)
    assert asked(provider) == ["a,b,c"]
    assert children.heard == heard_well("b", "c")


async def test_a_request_that_nobody_waits_for_ends(begin: Begin, autojump_clock: object) -> None:
    """Its place on the wire is free for others."""
    ended = []

    async def hang(_: Sequence[Job]) -> Mapping[str, Reading]:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    children = begin(provider := FakeProvider(batch=2, poll_many=[*[hang] * AT_ONCE, tell]))
    names = [f"{number}" for number in range(2 * AT_ONCE)]
    await children.hand_over(*names, "x", "y")
    await trio.sleep(5)
    for name in names[:2]:
        children.scopes[name].cancel()
    await trio.sleep(1)
    assert ended == [5.0]
    assert asked(provider)[-1] == "x,y"
    assert children.heard == heard_well("x", "y")
    for name in names:
        children.scopes[name].cancel()


async def test_when_all_go_nothing_is_asked(begin: Begin, autojump_clock: object) -> None:
    """And the next ones find all as new."""
    children = begin(provider := FakeProvider(batch=3, poll_many=[tell]))
    await children.hand_over("a", "b")
    for scope in children.scopes.values():
        scope.cancel()
    await trio.sleep(1)
    assert provider.calls == []
    await children.hand_over("c", "d")
    await trio.sleep(1)
    assert children.heard == heard_well("c", "d")


async def test_an_end_of_the_nursery_leaves_nobody_waiting(autojump_clock: object) -> None:
    """Children elsewhere, on the wire or in the queue, are told to ask for themselves."""

    async def hang(_: Sequence[Job]) -> Mapping[str, Reading]:
        return await trio.sleep_forever()

    provider = FakeProvider(batch=2, poll_many=[hang])
    async with trio.open_nursery() as elsewhere, trio.open_nursery() as nursery:
        children = Children(Batches(provider, nursery, name="draw", rate=FREE), elsewhere)
        await children.hand_over("a", "b", "c")
        nursery.cancel_scope.cancel()
    assert children.heard == {"a": None, "b": None, "c": None}


@pytest.mark.parametrize("seed", range(20))
async def test_nobody_is_forgotten_in_a_bustle(
    seed: int, nursery: trio.Nursery, autojump_clock: object, warnings_logged: list[str]
) -> None:
    """Children come and go at any moment of requests that end in any way: whoever stays hears; the books are empty."""
    chance = random.Random(seed)  # noqa: S311 - chance, not secrets

    async def anything(jobs: Sequence[Job]) -> Mapping[str, Reading]:
        await trio.sleep(chance.choice([0, 0.05, 0.4]))
        if (error := chance.choice([None, None, None, Outage("away"), AnswerError("500"), ValueError("oops")])) is None:
            return {job.id: reading_of(job.id) for job in jobs if chance.random() < 0.9}
        raise error

    batches = Batches(FakeProvider(batch=5, poll_many=[anything]), nursery, name="draw", rate=FREE)
    stayed, heard = set(), set()

    async def child(number: int) -> None:
        await trio.sleep(chance.uniform(0, 5))
        with trio.move_on_after(chance.choice([0, 0.1, 0.3, 0.35, 1000])) as scope:
            try:
                said = await batches.reading(Job(str(number)), gather_s=GATHER_S)
                assert said is None or said.provider_status == str(number)
            except (Outage, RuntimeError):
                pass
            heard.add(number)
        if not scope.cancelled_caught:
            stayed.add(number)

    async with trio.open_nursery() as children:
        for number in range(200):
            children.start_soon(child, number)
    await trio.sleep(GATHER_S)  # as long as the time may be kept for those who have gone
    assert heard == stayed
    assert (batches._queue, batches._on_wire, batches._timed) == ({}, 0, False)
    assert len(stayed) > 40


# -- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Outage, Throttled, CredentialsRefused])
async def test_a_provider_that_cannot_be_asked_is_told_to_each(
    error: type[ProviderError], begin: Begin, autojump_clock: object
) -> None:
    """With its words and its hint, as an exception of its own."""
    children = begin(FakeProvider(batch=3, poll_many=[error("not now", retry_after_s=7.0)]))
    await children.hand_over("a", "b", "c")
    await trio.sleep(1)
    errors = list(children.heard.values())
    assert [(type(exc), str(exc), getattr(exc, "retry_after_s", None)) for exc in errors] == [
        (error, "not now", 7.0)
    ] * 3
    assert len({id(exc) for exc in errors}) == 3


@pytest.mark.parametrize("error", [AnswerError("400: too many"), JobNotFound("404")])
async def test_a_refused_request_sends_each_its_own_way(
    error: ProviderError, begin: Begin, autojump_clock: object, warnings_logged: list[str]
) -> None:
    """One job may be the cause, so none is judged by it. It is said once, until a request has gone well."""
    children = begin(FakeProvider(batch=2, poll_many=[error, error, tell, error]))
    said = []
    for _ in range(4):
        await children.hand_over("a", "b")
        await trio.sleep(1)
        said.append((children.heard["a"] is None, len(warnings_logged)))
    assert said == [(True, 1), (True, 1), (False, 1), (True, 2)]
    assert warnings_logged[0] == f"draw: many jobs cannot be asked for at once, so each is: {error}"


async def test_a_job_that_is_not_mentioned_has_no_reading(begin: Begin, autojump_clock: object) -> None:
    """That proves nothing; the others have theirs."""
    children = begin(FakeProvider(batch=3, poll_many=[{"a": RUNNING, "stranger": RUNNING}]))
    await children.hand_over("a", "b", "c")
    await trio.sleep(1)
    assert children.heard == {"a": RUNNING, "b": None, "c": None}


async def test_a_defect_reaches_the_children_and_nobody_else(begin: Begin, autojump_clock: object) -> None:
    """Each meets it in its own boundary; the nursery of the requests goes on, and the next request is made."""
    defect = KeyError("a slip of ours")
    children = begin(FakeProvider(batch=2, poll_many=[defect, tell]))
    await children.hand_over("a", "b")
    await trio.sleep(1)
    assert [(type(exc), exc.__cause__) for exc in children.heard.values() if isinstance(exc, Exception)] == [
        (RuntimeError, defect)
    ] * 2
    await children.hand_over("a", "b")
    await trio.sleep(1)
    assert children.heard == heard_well("a", "b")


async def test_requests_for_many_jobs_keep_the_rate_of_polls(begin: Begin, autojump_clock: object) -> None:
    """Each is one poll, however many jobs are in it."""
    children = begin(provider := FakeProvider(batch=2, poll_many=[tell]))
    children.batches.rate = Rate(0.5)
    await children.hand_over("a", "b", "c", "d", "e", "f")
    await trio.sleep(10)
    assert children.heard == heard_well(*"abcdef")
    assert times(provider, "poll_many") == [0, 2, 4]


# -- accounts --------------------------------------------------------------------------------------------


async def test_algorithms_of_one_account_share_requests(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Those of another account do not, and a provider that knows no such request has no batches."""
    accounts = Accounts(nursery)
    one, same, other = (FakeProvider(batch=4, account=account, poll_many=[tell]) for account in ("x", "x", "y"))
    crowds = []
    for provider, job_ids in ((one, ["a", "b"]), (other, ["c", "d"]), (same, ["e"])):
        batches = accounts.of(provider, "draw", FREE)
        assert batches is not None
        crowds.append(Children(batches, nursery))
        await crowds[-1].hand_over(*job_ids)
    await trio.sleep(1)
    assert sorted(asked(one) + asked(same)) == ["a,b,e"]
    assert asked(other) == ["c,d"]
    assert crowds[2].heard == heard_well("e")
    assert accounts.of(FakeProvider(), "draw", FREE) is None


async def test_accounts_that_left_the_configuration_are_forgotten(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Their credentials with them; jobs that were handed over still hear."""
    accounts = Accounts(nursery)
    old, kept = (FakeProvider(batch=2, account=account, poll_many=[tell]) for account in ("x", "y"))
    before, stays = accounts.of(old, "draw", FREE), accounts.of(kept, "paint", FREE)
    assert before is not None
    children = Children(before, nursery)
    await children.hand_over("a", "b")
    accounts.keep_only({"y"})
    await trio.sleep(1)
    assert children.heard == heard_well("a", "b")
    assert accounts.of(old, "draw", FREE) is not before
    assert accounts.of(kept, "paint", FREE) is stays


# -- in a loop of polls ----------------------------------------------------------------------------------


class Minder:
    """Minds jobs as a task does: sleep, ask together with others, else alone."""

    def __init__(self, provider: FakeProvider, nursery: trio.Nursery, *, dice: Callable[[], float]) -> None:
        self.provider = provider
        self.polls = 0
        self._accounts = Accounts(nursery)
        self._dice = dice

    async def mind(self, job: Job, timetable: Timetable, *, first_s: float) -> None:
        """Until cancelled."""
        alarm, poller = timetable.alarm(), Poller(Rhythm(every_s=3.0))
        await alarm.sleep(first_s)
        while True:
            reading = None
            if (batches := self._accounts.of(self.provider, "draw", FREE)) is not None:
                reading = await batches.reading(job, gather_s=poller.rhythm.every_s * GATHER_PART)
            if reading is None:
                reading = await self.provider.poll(job)
            self.polls += 1
            decision = poller.good(reading, dice=self._dice())
            assert isinstance(decision, Ask)
            await alarm.sleep(decision.seconds)


@asynccontextmanager
async def minding(minder: Minder, *, jobs: int, seconds: float, starts_s: Callable[[], float]) -> AsyncIterator[None]:
    """Mind so many jobs for so long."""
    async with trio.open_nursery() as nursery:
        timetable = Timetable()
        await nursery.start(timetable.run)
        for number in range(jobs):
            nursery.start_soon(partial(minder.mind, Job(str(number)), timetable, first_s=starts_s()))
        await trio.sleep(seconds)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_ten_thousand_jobs_need_a_twentieth_of_the_requests(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """At a hundred jobs per request, though their waits vary; every job is asked for in its time."""
    chance = random.Random(1)  # noqa: S311 - as above
    provider = FakeProvider(batch=100, account="x", poll=[RUNNING], poll_many=[tell])
    minder = Minder(provider, nursery, dice=chance.random)
    async with minding(minder, jobs=10_000, seconds=15.0, starts_s=lambda: chance.uniform(0, 3)):
        requests = len(provider.calls)
    assert minder.polls >= 10_000 * 15.0 / (3.0 * (1 + GATHER_PART) + LATENCY_S) * 0.9
    assert requests <= minder.polls / 20


async def test_jobs_whose_waits_are_equal_stay_together(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Read together, due together: a batch stays as it is for as long as its jobs run."""
    provider = FakeProvider(batch=50, account="x", poll=[RUNNING], poll_many=[tell])
    minder = Minder(provider, nursery, dice=lambda: 0.5)
    starts_s = iter([0.0, 0.1, 0.2, 1.5, 1.6])
    async with minding(minder, jobs=5, seconds=60.0, starts_s=lambda: next(starts_s)):
        companies = {frozenset(call.split(",")) for call in asked(provider)}
    assert companies == {frozenset("012"), frozenset("34")}
    assert count(provider, "poll") == 0
