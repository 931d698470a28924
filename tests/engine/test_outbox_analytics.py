"""Events for collectors: they go together, wait for one that is away, and are neither lost nor in the way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from creche.core.analytics import GATHER_S, Collector
from creche.core.reading import JobStatus, Reading
from creche.core.webhooks import DELAYS_S, MAX_AGE_S, Delivery, Endpoint
from creche.engine.outbox import BATCH, CLAIM_S, SPREAD_S, Outbox, Sent
from creche.testing import FakeProvider
from tests.engine.conftest import Lasting, submit_all
from tests.engine.test_outbox import Alone, Receiver

if TYPE_CHECKING:
    from creche.engine.ports import Provider
    from tests.engine.conftest import Engine

DONE = Reading(status=JobStatus.SUCCEEDED)
NAME = "analytics.c"
HOOK = "hook"


class Collecting:
    """A collector and a receiver of webhooks: what they have, in which requests, and who is away."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []
        self.got: Counter[str] = Counter()
        self.told: list[dict[str, object]] = []
        self.hooks: dict[str, float] = {}
        self.away = False
        self.slow_s = 0.1

    async def __call__(self, endpoint: Endpoint | Collector, deliveries: Sequence[Delivery]) -> Sent:
        if endpoint.name == HOOK:
            [delivery] = deliveries
            self.hooks[delivery.task] = trio.current_time()
            return Sent(200)
        self.requests.append([json.loads(one.body)["id"] for one in deliveries])
        await trio.sleep(self.slow_s)
        if self.away:
            return Sent(None, "it is away")
        self.got.update(self.requests[-1])
        self.told += [json.loads(one.body) for one in deliveries]
        return Sent(200)


@pytest.fixture
def collecting(engine: Engine) -> Collecting:
    """In place before the engine starts."""
    collecting = Collecting()
    endpoints: dict[str, Endpoint | Collector] = {
        NAME: Collector(name=NAME, url="https://c"),
        HOOK: Endpoint(name=HOOK, url="https://h", keys=(b"k" * 24,)),
    }
    engine.messages = lambda: Outbox(
        engine.journal,
        collecting,
        endpoints,
        wall=engine.wall,
        dice=lambda: 0.5,
        max_inline=100,
        keep_s=30 * 86400.0,
    )
    return collecting


async def begin(engine: Engine, provider: Provider | None = None) -> None:
    await engine.start(engine.algorithm(provider or FakeProvider(poll=[DONE])))


async def test_a_job_and_an_end_are_told(
    engine: Engine, collecting: Collecting, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """The one while the job runs, the other when it has ended; once each."""
    await begin(engine, Lasting(60))
    await engine.submit("a", user="u")
    await trio.sleep(3 * GATHER_S)
    assert [(event["event"], event["user"], event["job"]) for event in collecting.told] == [("created", "u", "job-a")]
    await engine.result("a")
    await trio.sleep(3 * GATHER_S)
    assert collecting.got == {"a.created": 1, "a.settled": 1}
    assert collecting.told[1]["status"] == "succeeded"
    assert engine.store.outbox.count() == (0, 0)
    nursery.cancel_scope.cancel()


async def test_a_job_that_was_there_is_no_news(
    engine: Engine, collecting: Collecting, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """A task that was submitted with its job is told of when it ends."""
    await begin(engine)
    await engine.submit("a", job="j")
    await engine.result("a")
    await trio.sleep(3 * GATHER_S)
    assert collecting.got == {"a.settled": 1}
    nursery.cancel_scope.cancel()


async def test_events_go_together(
    engine: Engine, collecting: Collecting, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Those of a few seconds, in no more requests than they need."""
    await begin(engine, Lasting(1000))
    await submit_all(engine, [f"t{number}" for number in range(2 * BATCH)])
    await trio.sleep(3 * GATHER_S)
    assert len(collecting.got) == 2 * BATCH
    assert len(collecting.requests) <= 4
    nursery.cancel_scope.cancel()


async def test_a_collector_that_is_away_is_asked_by_one(
    engine: Engine, collecting: Collecting, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """What comes meanwhile waits in the store, holds no webhook up, and all of it comes when the collector is back."""
    collecting.away, collecting.slow_s = True, 15.0
    await begin(engine, FakeProvider(poll=[DONE]))
    ids = [f"t{number}" for number in range(300)]
    settled_at = {}
    for task_id in ids:
        await engine.submit(task_id)
        await engine.result(task_id)
        settled_at[task_id] = trio.current_time()
    await trio.sleep(300)
    assert len(collecting.requests) < 20
    assert max(collecting.hooks[task_id] - settled_at[task_id] for task_id in ids) < 1.0
    assert engine.store.outbox.count() == (2 * len(ids), 0)
    collecting.away, collecting.slow_s = False, 0.1
    await trio.sleep(2 * 1800)
    assert collecting.got == {f"{task_id}.{event}": 1 for task_id in ids for event in ("created", "settled")}
    nursery.cancel_scope.cancel()


async def test_one_refusal_puts_nothing_off_for_long(autojump_clock: object, nursery: trio.Nursery) -> None:
    """A thousand events that were tried often, and a collector that fails once: what was not sent is no attempt."""
    collecting = Collecting()
    alone = Alone(nursery, Receiver())
    alone.outbox.reconfigure(collecting, {NAME: Collector(name=NAME, url="https://c")})
    for number in range(1000):
        alone.settle(f"t{number}")
    tried = [msgspec.structs.replace(one, attempts=9) for one in alone.store.outbox._rows.values()]
    alone.store.outbox._rows = {one.id: one for one in tried}
    collecting.away = True
    await trio.sleep(GATHER_S + 1)
    collecting.away = False
    sent = sum(map(len, collecting.requests))
    assert sent <= BATCH
    await trio.sleep(2 * SPREAD_S)
    assert len(collecting.got) >= 1000 - sent
    assert alone.store.outbox.count()[1] == 0
    nursery.cancel_scope.cancel()


async def test_what_waits_for_days_is_given_up_without_an_attempt(
    autojump_clock: object, nursery: trio.Nursery, errors_logged: list[str]
) -> None:
    """While one request at a time asks whether the collector is back, the others grow old; the log says so."""
    collecting = Collecting()
    collecting.away = True
    alone = Alone(nursery, Receiver())
    alone.outbox.reconfigure(collecting, {NAME: Collector(name=NAME, url="https://c")})
    for number in range(3 * BATCH):
        alone.settle(f"t{number}")
    old = [msgspec.structs.replace(one, since=-MAX_AGE_S - 1.0) for one in alone.store.outbox._rows.values()]
    alone.store.outbox._rows = {one.id: one for one in old}
    await trio.sleep(GATHER_S + 1)
    tried = sum(map(len, collecting.requests))
    assert alone.store.outbox.count() == (tried, 3 * BATCH - tried)
    assert alone.outbox.counts[NAME, "given_up"] == 3 * BATCH - tried
    assert any("it takes none since days" in said for said in errors_logged)
    nursery.cancel_scope.cancel()


async def test_a_slow_collector_gets_each_event_once(autojump_clock: object, nursery: trio.Nursery) -> None:
    """However long its answers take: what waits for it is sent before its claim has run out."""
    collecting = Collecting()
    collecting.slow_s = 14.0
    alone = Alone(nursery, Receiver())
    alone.outbox.reconfigure(collecting, {NAME: Collector(name=NAME, url="https://c")})
    for number in range(3000):
        alone.settle(f"t{number}")
    await trio.sleep(3600)
    assert collecting.got == {f"t{number}.settled": 1 for number in range(3000)}
    nursery.cancel_scope.cancel()


async def test_events_outlive_a_crash(
    engine: Engine, collecting: Collecting, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """They are written with what they tell of."""
    collecting.away = True
    await begin(engine)
    await engine.submit("a")
    await engine.result("a")
    await trio.sleep(2 * GATHER_S)
    await engine.crash()
    collecting.away = False
    await begin(engine)
    await trio.sleep(CLAIM_S + DELAYS_S[0] + DELAYS_S[1])
    assert collecting.got == {"a.created": 1, "a.settled": 1}
    nursery.cancel_scope.cancel()


async def test_events_are_given_up_in_the_end(
    autojump_clock: object, nursery: trio.Nursery, errors_logged: list[str]
) -> None:
    """After some days, like webhooks, with one line in the log; they can be sent again."""
    collecting = Collecting()
    collecting.away = True
    alone = Alone(nursery, Receiver())
    alone.outbox.reconfigure(collecting, {NAME: Collector(name=NAME, url="https://c")})
    alone.settle("a")
    alone.settle("b")
    await trio.sleep(1.3 * sum(DELAYS_S))
    assert alone.store.outbox.count() == (0, 2)
    assert errors_logged == [
        f"a.settled.{NAME} and 1 more: given up after 11 attempts, `creche webhooks retry` sends it again: it is away"
    ]
    collecting.away = False
    await alone.outbox.again(None)
    await trio.sleep(600)
    assert collecting.got == {"a.settled": 1, "b.settled": 1}
    nursery.cancel_scope.cancel()
