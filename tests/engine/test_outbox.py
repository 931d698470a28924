"""Messages are delivered at least once, whatever the receiver, the store and the daemon do; on a simulated clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from creche.core.analytics import Collector
from creche.core.reading import JobStatus, Reading
from creche.core.task import Job, Status, Succeeded, begin_job, settle
from creche.core.webhooks import CALLBACK, DELAYS_S, Delivery, Endpoint
from creche.core.wire import ResolveIn, TaskIn
from creche.engine.journal import Journal
from creche.engine.outbox import AT_ONCE, CLAIM_S, Outbox, Sent
from creche.engine.ports import Accept, Settle
from creche.errors import InvalidRequest
from creche.testing import FakeProvider, MemoryStore, make_task

if TYPE_CHECKING:
    from tests.engine.conftest import Engine

T = TypeVar("T")

DAY_S = 86400.0
KEEP_S = 2 * DAY_S
DONE = Reading(status=JobStatus.SUCCEEDED)
GOOD = Sent(204)
KEY = b"k" * 24


class Receiver:
    """A user's server: what it answers is told by `answers`, at most one task waits for `gate`."""

    def __init__(self, answers: Callable[[Delivery], Sent] = lambda _: GOOD) -> None:
        self.answers = answers
        self.got: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()
        self.slow_s = 0.0
        self.at_once = self.most_at_once = 0

    async def __call__(self, endpoint: Endpoint | Collector, deliveries: Sequence[Delivery]) -> Sent:
        assert isinstance(endpoint, Endpoint)
        [delivery] = deliveries
        self.tried[delivery.id] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.slow_s)
        finally:
            self.at_once -= 1
        sent = self.answers(delivery)
        if sent == GOOD:
            self.got[delivery.id] += 1
        return sent


def endpoints(*names: str) -> dict[str, Endpoint]:
    return {name: Endpoint(name=name, url="https://u", keys=(KEY,)) for name in names}


class Told:
    """An engine whose outcomes are told to `receiver`; `begin` starts both, `crash` ends both."""

    def __init__(self, engine: Engine, receiver: Receiver, *names: str) -> None:
        self.engine = engine
        self.receiver = receiver
        self._endpoints = endpoints(*(names or ("e",)))

    async def begin(self) -> None:
        engine = self.engine
        engine.messages = self._make
        await engine.start(engine.algorithm(FakeProvider(poll=[DONE])))

    def _make(self) -> Outbox:
        engine = self.engine
        self.outbox = Outbox(
            engine.journal,
            self.receiver,
            self._endpoints,
            wall=engine.wall,
            dice=lambda: 0.5,
            max_inline=100,
            keep_s=KEEP_S,
        )
        return self.outbox

    async def crash(self) -> None:
        await self.engine.crash()


class Alone:
    """An outbox over a store, without an engine, whose pulse would make days long; `begin_again` is a restart."""

    def __init__(self, nursery: trio.Nursery, receiver: Receiver, *, keep_s: float = 30 * DAY_S) -> None:
        self.receiver = receiver
        self.store = MemoryStore()
        self._keep_s = keep_s
        self._nursery = nursery
        self._begin()

    def _begin(self) -> None:
        journal = Journal(self.store, run_write=in_place, run_read=in_place)
        self.outbox = Outbox(
            journal,
            self.receiver,
            endpoints("e"),
            wall=trio.current_time,
            dice=lambda: 0.5,
            max_inline=100,
            keep_s=self._keep_s,
        )
        self._nursery.start_soon(self.outbox.run)

    def begin_again(self) -> None:
        self.outbox.stop()
        self._begin()

    def settle(self, task_id: str) -> None:
        task = settle(begin_job(make_task(task_id), Job("j"), 2.0), Succeeded(), 9.0)
        self.store.commit([Accept(make_task(task_id)), Settle(task, self.outbox.about(task))])
        self.outbox.look()


async def in_place(function: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return function()


async def test_an_outcome_is_told_at_once(engine: Engine, autojump_clock: object, nursery: trio.Nursery) -> None:
    """And once; what was delivered is gone from the store."""
    told = Told(engine, Receiver(), "a", "b")
    await told.begin()
    await engine.submit()
    await engine.result()
    await trio.sleep(1)
    assert told.receiver.got == {"t.a": 1, "t.b": 1}
    assert engine.store.outbox.count() == (0, 0)
    assert told.outbox.counts == {("a", "good"): 1, ("b", "good"): 1}
    nursery.cancel_scope.cancel()


async def test_a_receiver_that_is_down_for_a_day_hears_of_all(autojump_clock: object, nursery: trio.Nursery) -> None:
    """Of outcomes before and during it, each once after it; the daemon ends and starts again in between."""
    alone = Alone(nursery, Receiver(lambda _: GOOD if trio.current_time() > DAY_S else Sent(None, "no answer")))
    for number in range(50):
        alone.settle(f"t{number}")
        await trio.sleep(600)
        if number == 25:
            alone.begin_again()
    await trio.sleep(2.5 * DAY_S)
    assert alone.receiver.got == {f"t{number}.e": 1 for number in range(50)}
    assert alone.store.outbox.count() == (0, 0)
    alone.outbox.stop()


async def test_what_was_being_sent_in_a_crash_is_sent_again(
    engine: Engine, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Within two minutes: the message was claimed for so long."""
    receiver = Receiver()
    receiver.slow_s = 10.0
    told = Told(engine, receiver)
    await told.begin()
    await engine.submit()
    await engine.result()
    await trio.sleep(5)
    await told.crash()
    assert receiver.got == {}
    await told.begin()
    await trio.sleep(CLAIM_S + 20)
    assert receiver.got == {"t.e": 1}
    nursery.cancel_scope.cancel()


async def test_a_message_that_nobody_takes_is_given_up(
    autojump_clock: object, nursery: trio.Nursery, errors_logged: list[str]
) -> None:
    """Loudly, and it stays where a person can send it again."""
    alone = Alone(nursery, Receiver(lambda _: Sent(500)))
    alone.settle("t")
    await trio.sleep(4 * DAY_S)
    assert alone.receiver.tried == {"t.e": len(DELAYS_S) + 1}
    assert [line.startswith("t.e: given up after 11 attempts") for line in errors_logged] == [True]
    assert (alone.outbox.pending, alone.outbox.given_up) == (0, 1)
    alone.receiver.answers = lambda _: GOOD
    assert await alone.outbox.again(None) == ["t.e"]
    await trio.sleep(1)
    assert alone.receiver.got == {"t.e": 1}
    alone.outbox.stop()


async def test_what_was_given_up_is_forgotten(
    autojump_clock: object, nursery: trio.Nursery, errors_logged: list[str]
) -> None:
    """When it is as old as tasks may become. A receiver that says 410 gets nothing more."""
    alone = Alone(nursery, Receiver(lambda _: Sent(410)), keep_s=KEEP_S)
    alone.settle("t")
    await trio.sleep(10)
    assert (alone.receiver.tried, alone.store.outbox.count()) == ({"t.e": 1}, (0, 1))
    await trio.sleep(KEEP_S - 7200)
    assert alone.store.outbox.count() == (0, 1)
    await trio.sleep(3 * 3600)
    assert alone.store.outbox.count() == (0, 0)
    assert len(errors_logged) == 1
    alone.outbox.stop()


async def test_a_store_that_fails_delays_and_loses_nothing(
    engine: Engine, autojump_clock: object, nursery: trio.Nursery, errors_logged: list[str]
) -> None:
    """A message whose delivery could not be noted is sent once more."""
    receiver = Receiver()
    receiver.slow_s = 2.0
    told = Told(engine, receiver)
    await told.begin()
    await engine.submit()
    await engine.result()
    await trio.sleep(1)
    engine.store.failing = True
    await trio.sleep(60)
    assert receiver.got == {"t.e": 1}
    engine.store.failing = False
    await trio.sleep(CLAIM_S + 10)
    assert receiver.got == {"t.e": 2}
    assert engine.store.outbox.count() == (0, 0)
    nursery.cancel_scope.cancel()


async def test_only_so_many_are_on_their_way(engine: Engine, autojump_clock: object, nursery: trio.Nursery) -> None:
    """And all of them come."""
    receiver = Receiver()
    receiver.slow_s = 1.0
    told = Told(engine, receiver)
    await told.begin()
    count = 3 * AT_ONCE
    for number in range(count):
        await engine.submit(f"t{number}")
    await trio.sleep(60)
    assert receiver.got == {f"t{number}.e": 1 for number in range(count)}
    assert receiver.most_at_once == AT_ONCE
    nursery.cancel_scope.cancel()


async def test_a_webhook_that_is_configured_no_more_waits(
    engine: Engine, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """It is told once it is there again, under the same name."""
    told = Told(engine, Receiver(lambda _: Sent(500)))
    await told.begin()
    await engine.submit()
    await engine.result()
    await trio.sleep(1)
    told.outbox.reconfigure(told.receiver, {})
    await trio.sleep(100)
    [waiting] = engine.store.outbox.listed(10)
    assert waiting.error == 'the configuration has no endpoint "e" any more'
    told.receiver.answers = lambda _: GOOD
    told.outbox.reconfigure(told.receiver, endpoints("e"))
    await trio.sleep(1000)
    assert told.receiver.got == {"t.e": 1}
    nursery.cancel_scope.cancel()


async def test_a_callback_is_a_webhook_of_one_task(
    engine: Engine, autojump_clock: object, nursery: trio.Nursery
) -> None:
    """Without a secret for callbacks it is refused."""
    told = Told(engine, Receiver(), CALLBACK)
    await told.begin()
    task = TaskIn(algorithm="draw", input=b"1", id="t", callback="https://mine/hook")  # type: ignore[arg-type]
    await engine.supervisor.submit(task)
    await engine.result()
    await trio.sleep(1)
    assert told.receiver.got == {"t.callback": 1}
    told.outbox.reconfigure(told.receiver, {})
    with pytest.raises(InvalidRequest, match=r"\[callbacks\] secret"):
        await engine.supervisor.submit(TaskIn(algorithm="draw", input=b"1", callback="https://mine/"))  # type: ignore[arg-type]
    nursery.cancel_scope.cancel()


async def test_a_dropped_task_is_told_of(engine: Engine, autojump_clock: object, nursery: trio.Nursery) -> None:
    """As every other end."""
    told = Told(engine, Receiver())
    engine.store.commit([Accept(make_task("t", status=Status.UNKNOWN))])
    await told.begin()
    await engine.supervisor.resolve("t", ResolveIn(action="drop"))
    await trio.sleep(1)
    assert told.receiver.got == {"t.e": 1}
    nursery.cancel_scope.cancel()


async def test_a_defect_of_ours_costs_an_attempt(
    engine: Engine, autojump_clock: object, nursery: trio.Nursery, errors_logged: list[str]
) -> None:
    """It ends neither the daemon nor the message."""

    def fail(_: Delivery) -> Sent:
        raise ZeroDivisionError

    told = Told(engine, Receiver(fail))
    await told.begin()
    await engine.submit()
    await engine.result()
    await trio.sleep(1)
    told.receiver.answers = lambda _: GOOD
    await trio.sleep(60)
    assert told.receiver.got == {"t.e": 1}
    assert errors_logged == ["t.e: cannot be sent, by a defect of creche"]
    nursery.cancel_scope.cancel()
