"""What every outbox promises (`ports.Outbox`), on each store."""

from __future__ import annotations

import msgspec
import pytest

from creche.core import task as tasks
from creche.core.task import Failed, Job, Succeeded, Task
from creche.core.webhooks import Delivery
from creche.engine.ports import Accept, Entry, Save, Settle, Store
from creche.testing import make_task


@pytest.fixture
def store(every_store: Store) -> Store:
    """Each kind in turn."""
    return every_store


def message(one: str, due_at: float = 10.0, **changes: object) -> Delivery:
    base = Delivery(id=one, task="t", endpoint="e", url="http://u", since=due_at, due_at=due_at)
    base = msgspec.structs.replace(base, body=b'{"\xc3\xa4": 1}', traceparent="00-a-b-01")
    return msgspec.structs.replace(base, **changes)


def ended(task: Task) -> Task:
    return tasks.settle(tasks.begin_job(task, Job("j"), 2.0), Succeeded(msgspec.Raw(b"1")), 9.0)


def put(store: Store, *messages: Delivery) -> None:
    """Settle the task `t` with these messages."""
    [_, entry] = store.commit([Accept(make_task("t")), Settle(ended(make_task("t")), messages)])
    assert isinstance(entry, Entry)


def ids(found: list[Delivery]) -> list[str]:
    return [delivery.id for delivery in found]


def test_messages_come_with_the_outcome(store: Store) -> None:
    """Whole, byte for byte; when they are due, and no sooner."""
    put(store, message("a"), message("b", 20.0))
    assert store.outbox.claim(9.9, 99.0, 10) == []
    assert store.outbox.claim(10.0, 99.0, 10) == [message("a")]
    assert store.outbox.count() == (2, 0)


def test_messages_come_with_what_is_saved(store: Store) -> None:
    """With each save, once: one that is there stays as it is. A save that is ignored brings none."""
    task = tasks.begin_job(make_task("t"), Job("j"), 2.0)
    store.commit([Accept(make_task("t")), Save(task, (message("a"), message("b", 20.0)))])
    store.outbox.put_off([message("a", 30.0, attempts=2)])
    store.commit([Save(task, (message("a"),))])
    assert [(one.id, one.due_at) for one in store.outbox.claim(50.0, 99.0, 9)] == [("b", 20.0), ("a", 30.0)]
    store.commit([Settle(ended(make_task("t")))])
    store.commit([Save(task, (message("c"),)), Save(make_task("gone"), (message("d"),))])
    assert sorted(ids(store.outbox.listed(9))) == ["a", "b"]


def test_a_settle_that_is_repeated_or_refused_brings_none(store: Store) -> None:
    """Its messages were written with the first, and may be delivered by now; those of another outcome never come."""
    task = make_task("t")
    put(store, message("a"))
    store.outbox.done(["a"])
    store.commit([Settle(ended(task), (message("a"),))])
    other = tasks.settle(tasks.begin_job(task, Job("j"), 2.0), Failed("provider"), 9.0)
    store.commit([Settle(other, (message("b"),)), Settle(ended(make_task("unknown")), (message("c"),))])
    assert store.outbox.listed(10) == []


def test_what_is_claimed_is_due_again_later(store: Store) -> None:
    """Whoever claimed it may have ended; the longest due comes first, no more than wanted."""
    put(store, message("a", 3.0), message("b", 1.0), message("c", 2.0))
    assert ids(store.outbox.claim(5.0, 50.0, 2)) == ["b", "c"]
    assert ids(store.outbox.claim(5.0, 60.0, 2)) == ["a"]
    assert ids(store.outbox.claim(49.0, 99.0, 2)) == []
    assert ids(store.outbox.claim(55.0, 99.0, 9)) == ["b", "c"]


def test_what_is_done_is_gone(store: Store) -> None:
    """Nothing that is said of it later brings it back."""
    put(store, message("a"))
    store.outbox.done(["a"])
    store.outbox.done(["a"])
    store.outbox.put_off([message("a", 1.0)])
    assert store.outbox.again(["a"], 1.0) == []
    assert store.outbox.claim(99.0, 100.0, 9) == []
    assert store.outbox.count() == (0, 0)


def test_what_is_put_off_waits(store: Store) -> None:
    """With what is known of the attempts; its body stays as it was."""
    put(store, message("a"))
    store.outbox.claim(10.0, 99.0, 9)
    store.outbox.put_off([message("a", since=10.0, due_at=30.0, attempts=1, error="HTTP 500", body=b"")])
    assert store.outbox.claim(29.0, 99.0, 9) == []
    [found] = store.outbox.claim(30.0, 99.0, 9)
    assert (found.attempts, found.error, found.body) == (1, "HTTP 500", message("a").body)


def test_what_is_given_up_stays_until_it_is_forgotten(store: Store) -> None:
    """It is never due, unless somebody asks for it again."""
    put(store, message("a", 10.0), message("b", 20.0), message("c", 30.0))
    for one, since in (("a", 10.0), ("b", 20.0)):
        store.outbox.put_off([msgspec.structs.replace(message(one, since), due_at=None, attempts=9, error="gone")])
    assert store.outbox.count() == (1, 2)
    assert ids(store.outbox.claim(99.0, 100.0, 9)) == ["c"]
    assert [(found.id, found.due_at, found.error, found.body) for found in store.outbox.listed(9)] == [
        ("b", None, "gone", b""),
        ("a", None, "gone", b""),
        ("c", 100.0, "", b""),
    ]
    assert ids(store.outbox.listed(2)) == ["b", "a"]
    assert ids(store.outbox.listed(1)) == ["b"]
    store.outbox.forget(20.0)
    assert ids(store.outbox.listed(9)) == ["b", "c"]
    assert store.outbox.again(None, 50.0) == ["b"]
    assert ids(store.outbox.claim(50.0, 60.0, 9)) == ["b"]
    assert store.outbox.count() == (2, 0)


def test_a_message_can_be_asked_for_again_by_its_id(store: Store) -> None:
    """Pending or given up; of those that are not there nothing is said."""
    put(store, message("a"), message("b", 77.0))
    assert store.outbox.again(["b", "never"], 5.0) == ["b"]
    assert ids(store.outbox.claim(5.0, 60.0, 9)) == ["b"]
