"""What every store promises (`ports.Store`), on each of them.

Declared differences: only `SqliteStore` is locked and outlives its process; test_store_sqlite.py is about that. Only
the store of a fleet can lose a task that it has accepted, in a failover, and tells its owner then (`TaskLost`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from creche.core import task as tasks
from creche.core.task import Failed, Job, Outcome, ResultFile, Status, Succeeded, Task
from creche.engine.ports import PAGE_BYTES, Accept, Accepted, Entry, Page, Query, Save, Settle, Store
from creche.errors import AlreadySettled, KeyConflict, TaskLost
from creche.testing import make_task

WON = Succeeded(msgspec.Raw(b'{"x": 1.50}'))
LOST = Failed("provider", "no luck")
INLINE = 100
"""Results of more bytes are kept in files."""


def settled(task: Task, outcome: Outcome = WON, now: float = 9.0) -> Task:
    """The task with an outcome."""
    return tasks.settle(tasks.begin_job(task, Job("j"), 2.0), outcome, now)


def fill(store: Store, *accepted: Task) -> None:
    """Accept tasks, in one batch."""
    assert store.commit([Accept(task) for task in accepted]) == [Accepted(task, new=True) for task in accepted]


def ids(found: list[Task] | Page) -> list[str]:
    """Their ids, in order."""
    return [task.id for task in (found.tasks if isinstance(found, Page) else found)]


@pytest.fixture
def store(every_store: Store) -> Store:
    """Each kind in turn."""
    return every_store


# -- accepting ---------------------------------------------------------------------------------------


def test_an_accepted_task_can_be_read_back_whole(store: Store) -> None:
    """Every field comes back as it was, the input byte for byte; an id that never was is None."""
    task = make_task(
        "a",
        input=msgspec.Raw('{"prompt": "ein Fuß 🦶\\u0000",  "n": 1.0}'.encode()),
        key="k",
        user="u",
        labels={"env": "prod", "": ""},
        priority=-3,
        deadline_s=0.1,
        start_at=1e9,
        traceparent="00-0-0-00",
    )
    fill(store, task)
    assert (store.get("a"), store.get("nobody")) == (task, None)
    assert store.unfinished() == [task]
    assert store.list_tasks(Query()).tasks == [msgspec.structs.replace(task, input=None)]


def test_an_input_of_a_megabyte_is_kept_verbatim(store: Store) -> None:
    """Size and spelling of the input do not matter, nor do those of the result."""
    large = msgspec.Raw(b'[ "' + b"x" * (1 << 20) + b'" ]')
    fill(store, make_task("a", input=large))
    store.commit([Settle(settled(make_task("a", input=large), Succeeded(large)))])
    found = store.get("a")
    assert found is not None
    assert found.input == large
    assert store.result_of("a") == bytes(large)


@pytest.mark.parametrize("text", ["ключ", "a\0b", "'; DROP TABLE tasks; --", '"', " ", "🦶" * 200, "%_"])
def test_names_are_only_text(store: Store, text: str) -> None:
    """Nothing in a client's words has a meaning for the store."""
    task = make_task("a", key=text, user=text, algorithm=text, labels={text: text})
    fill(store, make_task("b"), task)
    assert store.list_tasks(Query(algorithm=text, user=text, labels={text: text})).tasks == [task]
    assert store.commit([Accept(make_task("c", key=text, fingerprint="a"))]) == [Accepted(task, new=False)]


def test_the_same_key_and_content_gives_the_first_task(store: Store) -> None:
    """A repeated submit makes no second task, whatever id it came with."""
    first = make_task("a", key="k", fingerprint="f")
    again = make_task("b", key="k", fingerprint="f")
    fill(store, first)
    assert store.commit([Accept(again)]) == [Accepted(first, new=False)]
    assert store.list_tasks(Query()).tasks == [first]


def test_the_first_task_is_given_as_it_is_now(store: Store) -> None:
    """A repeated submit is told how far the first one has come."""
    first = make_task("a", key="k", fingerprint="f")
    done = settled(first)
    fill(store, first)
    store.commit([Settle(done)])
    assert store.commit([Accept(first)]) == [Accepted(done, new=False)]


def test_the_same_key_with_other_content_is_a_conflict(store: Store) -> None:
    """The refusal is a value that names the first task; the rest of the batch is done."""
    fill(store, make_task("a", key="k"))
    conflict, other = store.commit([Accept(make_task("b", key="k")), Accept(make_task("c"))])
    assert isinstance(conflict, KeyConflict)
    assert "task a " in str(conflict)
    assert '"k"' in str(conflict)
    assert other == Accepted(make_task("c"), new=True)
    assert store.get("b") is None


def test_the_same_id_with_other_content_is_a_conflict(store: Store) -> None:
    """An id stands for one task only; with the same content it gives the first, also before a key is looked at."""
    first = make_task("a", fingerprint="f")
    fill(store, first, make_task("b", key="k"))
    again, conflict = store.commit([Accept(make_task("a", fingerprint="f", key="k")), Accept(make_task("a", key="k"))])
    assert again == Accepted(first, new=False)
    assert isinstance(conflict, KeyConflict)
    assert store.get("a") == first


def test_tasks_without_key_do_not_meet(store: Store) -> None:
    """No key is not a key."""
    fill(store, make_task("a", fingerprint="f"), make_task("b", fingerprint="f"))


def test_a_batch_is_done_in_order(store: Store) -> None:
    """Writes of one batch see each other as if they had come one after another."""
    task = make_task("a", key="k", fingerprint="f")
    done = settled(task)
    answers = store.commit(
        [
            Accept(task),
            Accept(make_task("b", key="k", fingerprint="f")),
            Save(tasks.begin_create(task, 2.0, "w")),
            Settle(done),
            Settle(done),
            Save(task),
            Accept(task),
        ]
    )
    accepted = Accepted(task, new=True)
    assert answers == [
        accepted,
        Accepted(task, new=False),
        None,
        Entry(1, done),
        Entry(1, done),
        None,
        Accepted(done, new=False),
    ]
    assert store.list_tasks(Query()).tasks == [done]


def test_an_empty_batch_changes_nothing(store: Store) -> None:
    """It answers nothing and moves no bound."""
    fill(store, make_task("a"))
    assert store.commit([]) == []
    assert store.feed_bounds() == (0, 0)
    assert store.unfinished() == [make_task("a")]


# -- saving and settling -----------------------------------------------------------------------------


def test_a_saved_task_replaces_the_one_before(store: Store) -> None:
    """What became of a task is kept, with its place in the order."""
    task = make_task("a", input=msgspec.Raw(b"[1]"))
    running = tasks.begin_job(task, Job("job", {"url": "http://x/"}, 3.5), 4.5)
    fill(store, task, make_task("b"))
    assert store.commit([Save(running)]) == [None]
    assert store.get("a") == running
    assert store.unfinished() == [running, make_task("b")]


def test_a_save_does_not_bring_anything_back(store: Store) -> None:
    """A note that comes late is ignored: the task settled, or is gone."""
    task = make_task("a")
    fill(store, task)
    store.commit([Settle(settled(task))])
    late, gone = store.commit([Save(task), Save(make_task("gone"))])
    assert late is None
    assert gone is None or isinstance(gone, TaskLost)
    assert store.get("a") == settled(task)
    assert store.get("gone") is None
    assert store.unfinished() == []


def test_an_outcome_is_written_once(store: Store) -> None:
    """The first outcome stands; the same again gives its entry, another one is refused as a value."""
    task = make_task("a")
    done = settled(task)
    fill(store, task)
    assert store.commit([Settle(done)]) == [Entry(1, done)]
    again, other = store.commit([Settle(settled(task, now=99.0)), Settle(settled(task, LOST))])
    assert again == Entry(1, done)
    assert isinstance(other, AlreadySettled)
    assert store.get("a") == done
    assert store.feed_after(0, 10) == [Entry(1, done)]
    assert store.feed_bounds() == (0, 1)


def test_an_outcome_of_no_task_is_refused(store: Store) -> None:
    """What retention has removed, or what never was, cannot be settled; the message says so. In a fleet it is lost."""
    (answer,) = store.commit([Settle(settled(make_task("a")))])
    assert isinstance(answer, AlreadySettled | TaskLost)
    assert "not in the store" in str(answer)
    assert store.feed_bounds() == (0, 0)


@pytest.mark.parametrize(
    "outcome",
    [
        WON,
        Succeeded(partial=True),
        LOST,
        tasks.Cancelled("client"),
        tasks.TimedOut(3600.0),
        tasks.ServerFailed(5, "500"),
    ],
)
def test_every_outcome_can_be_read_back(store: Store, outcome: Outcome) -> None:
    """Each end keeps its own fields."""
    task = make_task("a")
    fill(store, task)
    store.commit([Settle(settled(task, outcome))])
    assert store.get("a") == settled(task, outcome)


# -- the feed and retention --------------------------------------------------------------------------


def filled_feed(store: Store, count: int) -> list[Entry]:
    """A feed of so many entries, settled at 1.0, 2.0, ...; one more task is unfinished."""
    accepted = [make_task(f"t{number}", key=f"k{number}") for number in range(count)]
    fill(store, *accepted, make_task("open"))
    answers = store.commit([Settle(settled(task, now=at)) for at, task in enumerate(accepted, 1)])
    return [answer for answer in answers if isinstance(answer, Entry)]


def test_the_feed_is_in_the_order_of_settling(store: Store) -> None:
    """Not in that of acceptance; pages join without gap or repeat."""
    accepted = [make_task(name) for name in "abcde"]
    fill(store, *accepted)
    for task in reversed(accepted):
        store.commit([Settle(settled(task))])
    first = store.feed_after(0, 2)
    rest = store.feed_after(first[-1].seq, 10)
    assert ids([entry.task for entry in first + rest]) == list("edcba")
    assert sorted({entry.seq for entry in first + rest}) == [entry.seq for entry in first + rest]
    assert store.feed_bounds() == (0, rest[-1].seq)
    assert store.feed_after(rest[-1].seq, 10) == []


def test_old_ones_are_pruned(store: Store) -> None:
    """Those settled before the time go, in order and no more than the limit; the floor follows."""
    entries = filled_feed(store, 6)
    assert store.prune(settled_before=5.0, keep=100, limit=3) == 3
    assert store.feed_bounds() == (entries[2].seq, entries[5].seq)
    assert store.prune(settled_before=5.0, keep=100, limit=3) == 1
    assert store.prune(settled_before=5.0, keep=100, limit=3) == 0
    assert store.feed_after(0, 10) == entries[4:]
    assert store.get("t0") is None
    assert store.get("open") is not None


def test_too_many_are_pruned(store: Store) -> None:
    """Only the newest `keep` stay."""
    entries = filled_feed(store, 6)
    assert store.prune(settled_before=0.0, keep=4, limit=100) == 2
    assert store.prune(settled_before=0.0, keep=4, limit=100) == 0
    assert store.feed_after(0, 10) == entries[2:]
    assert store.prune(settled_before=0.0, keep=0, limit=100) == 4
    assert store.feed_bounds() == (entries[5].seq, entries[5].seq)
    assert ids(store.list_tasks(Query())) == ["open"]


def test_both_rules_together(store: Store) -> None:
    """A limit that the old ones do not use up goes to those that are too many."""
    entries = filled_feed(store, 6)
    assert store.prune(settled_before=2.0, keep=2, limit=3) == 3
    assert store.feed_after(0, 10) == entries[3:]


@pytest.mark.parametrize(
    ("settled_at", "kept"),
    [
        ((3.0, 3.0, 0.0, 3.0), "abcd"),
        ((0.0, 3.0, 0.0, 3.0), "bcd"),
        ((0.0, 0.0, 1e10, 0.0), "cd"),
    ],
)
def test_a_clock_that_jumped_leaves_no_hole(store: Store, settled_at: tuple[float, ...], kept: str) -> None:
    """The first that is too young ends it: whatever is behind the floor is there, and nothing that is young goes."""
    accepted = [make_task(name) for name in "abcd"]
    fill(store, *accepted)
    store.commit([Settle(settled(task, now=at)) for task, at in zip(accepted, settled_at, strict=True)])
    assert store.prune(settled_before=2.0, keep=100, limit=10) == 4 - len(kept)
    floor, head = store.feed_bounds()
    assert ids([entry.task for entry in store.feed_after(floor, 10)]) == list(kept)
    assert (floor, head) == (4 - len(kept), 4)


def test_a_clock_that_was_wrong_does_not_fill_the_disk(store: Store) -> None:
    """What is dated in the far future, and all behind it, goes when there are too many."""
    late, early = make_task("late"), make_task("early")
    fill(store, late, early)
    store.commit([Settle(settled(late, now=1e10)), Settle(settled(early, now=5.0))])
    assert store.prune(settled_before=6.0, keep=2, limit=10) == 0
    assert store.prune(settled_before=6.0, keep=1, limit=10) == 2
    assert store.feed_bounds() == (2, 2)


def test_a_pruned_task_leaves_nothing_behind(store: Store) -> None:
    """Its id and key are free again, its labels find nothing, and its place in the feed is not given to another."""
    task = make_task("a", key="k", labels={"env": "prod"}, input=msgspec.Raw(b"1"))
    fill(store, task)
    store.commit([Settle(settled(task))])
    assert store.prune(settled_before=100.0, keep=100, limit=10) == 1
    other = make_task("a", key="k", fingerprint="other")
    fill(store, other)
    assert store.get("a") == other
    assert ids(store.list_tasks(Query(labels={"env": "prod"}))) == []
    assert store.commit([Settle(settled(other))]) == [Entry(2, settled(other))]
    assert store.feed_bounds() == (1, 2)


# -- listing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "fedcba"),
        ({"limit": 2}, "fe"),
        ({"after": "c"}, "ba"),
        ({"after": "a"}, ""),
        ({"after": "unknown"}, ""),
        ({"algorithm": "paint"}, "fb"),
        ({"algorithm": "PAINT"}, ""),
        ({"user": "eve"}, "ec"),
        ({"labels": {"env": "prod"}}, "dc"),
        ({"labels": {"env": "prod", "team": "x"}}, "d"),
        ({"labels": {"env": "prod"}, "after": "d"}, "c"),
        ({"labels": {"prod": "env"}}, ""),
        ({"statuses": {Status.ACCEPTED}}, "fed"),
        ({"statuses": {Status.SUCCEEDED, Status.FAILED}}, "cba"),
        ({"statuses": {Status.SUCCEEDED, Status.ACCEPTED}, "limit": 4}, "fedc"),
        ({"statuses": set(Status), "after": "e", "limit": 3}, "dcb"),
        ({"statuses": {Status.UNKNOWN}}, ""),
        ({"statuses": {Status.SUCCEEDED, Status.FAILED}, "user": "eve", "labels": {"env": "prod"}}, "c"),
    ],
)
def test_lists_are_filtered(store: Store, query: Mapping[str, Any], expected: str) -> None:
    """Newest first; every filter narrows, and they join."""
    fill(
        store,
        make_task("a"),
        make_task("b", algorithm="paint"),
        make_task("c", user="eve", labels={"env": "prod", "team": "y"}),
        make_task("d", labels={"env": "prod", "team": "x"}),
        make_task("e", user="eve", labels={"env": "test"}),
        make_task("f", algorithm="paint"),
    )
    for name, outcome in (("c", WON), ("a", LOST), ("b", WON)):
        task = store.get(name)
        assert task is not None
        store.commit([Settle(settled(task, outcome))])
    statuses = frozenset(query.get("statuses", ()))
    assert ids(store.list_tasks(Query(**{**query, "statuses": statuses}))) == list(expected)


def test_pages_do_not_shift_when_tasks_come(store: Store) -> None:
    """Who turns pages sees every task that was there once, whatever is accepted or settled meanwhile."""
    fill(store, *(make_task(f"t{number}") for number in range(10)))
    seen = ids(store.list_tasks(Query(limit=4)))
    while page := ids(store.list_tasks(Query(limit=4, after=seen[-1]))):
        seen += page
        fill(store, make_task(f"new{len(seen)}"))
        store.commit([Settle(settled(make_task(f"t{len(seen) - 1}")))])
    assert seen == [f"t{number}" for number in reversed(range(10))]


def test_the_last_page_says_so(store: Store) -> None:
    """Also where the limit is just met."""
    fill(store, *(make_task(f"t{number}") for number in range(4)))
    assert [store.list_tasks(Query(limit=limit)).more for limit in (3, 4, 5)] == [True, False, False]
    assert not store.list_tasks(Query(limit=2, after="t2")).more
    assert not store.list_tasks(Query(after="unknown")).more


# -- large results -------------------------------------------------------------------------------------

LARGE = Succeeded(msgspec.Raw(b'"%s"' % (b"x" * INLINE)), partial=True)
APART = Succeeded(partial=True, file=ResultFile(INLINE + 2, hashlib.sha256(bytes(LARGE.result)).hexdigest()))


def test_a_large_result_is_kept_apart(store: Store) -> None:
    """Entry, record and feed say how long it is and what it hashes to; its bytes are had by themselves."""
    task = make_task("a")
    fill(store, task)
    kept = settled(task, APART)
    assert store.commit([Settle(settled(task, LARGE))]) == [Entry(1, kept)]
    assert store.get("a") == kept
    assert store.feed_after(0, 10) == [Entry(1, kept)]
    assert store.result_of("a") == bytes(LARGE.result)
    assert store.left_results() == []


def test_a_result_as_long_as_allowed_stays_in_the_record(store: Store) -> None:
    """The limit is the longest that does."""
    task = make_task("a")
    fill(store, task)
    longest = Succeeded(msgspec.Raw(b'"%s"' % (b"x" * (INLINE - 2))))
    assert store.commit([Settle(settled(task, longest))]) == [Entry(1, settled(task, longest))]
    assert store.result_of("a") is None


def test_a_large_result_stands_as_any_outcome(store: Store) -> None:
    """The same again gives its entry; another is refused, and changes neither record nor file."""
    task = make_task("a")
    fill(store, task)
    store.commit([Settle(settled(task, LARGE))])
    assert store.commit([Settle(settled(task, LARGE))]) == [Entry(1, settled(task, APART))]
    other = Succeeded(msgspec.Raw(b'"%s"' % (b"y" * INLINE)))
    assert isinstance(store.commit([Settle(settled(task, other))])[0], AlreadySettled)
    assert store.get("a") == settled(task, APART)
    assert store.result_of("a") == bytes(LARGE.result)


def test_retention_removes_large_results_too(store: Store) -> None:
    """With their tasks, and no others."""
    fill(store, make_task("a"), make_task("b"))
    store.commit([Settle(settled(make_task(name), LARGE)) for name in "ab"])
    assert store.prune(settled_before=0.0, keep=1, limit=10) == 1
    assert (store.result_of("a"), store.result_of("b")) == (None, bytes(LARGE.result))


def test_a_page_is_bounded_in_bytes(store: Store) -> None:
    """It ends with the record that brings it to its size, and there is more; one too large for any page comes alone."""
    sizes = [PAGE_BYTES // 2, PAGE_BYTES // 2, 1, PAGE_BYTES * 2, 1]
    accepted = [make_task(f"t{number}") for number in range(len(sizes))]
    fill(store, *accepted)
    for task, size in zip(accepted, sizes, strict=True):
        store.commit([Settle(settled(task, Failed("provider", "x" * size)))])
    fed: list[list[str]] = [[]]
    while page := store.feed_after(sum(map(len, fed)), 100):
        fed.append([entry.task.id for entry in page])
    assert fed[1:] == [["t0", "t1"], ["t2", "t3"], ["t4"]]
    listed = [store.list_tasks(Query())]
    while listed[-1].more:
        listed.append(store.list_tasks(Query(after=listed[-1].tasks[-1].id)))
    assert [ids(page) for page in listed] == [["t4", "t3"], ["t2", "t1", "t0"]]


@pytest.mark.slow
def test_ten_thousand_unfinished_tasks_come_back_in_order(store: Store) -> None:
    """What a start after a crash asks for."""
    names = [f"t{number}" for number in range(10_000)]
    fill(store, *map(make_task, names))
    store.commit([Settle(settled(make_task(name))) for name in names[::2]])
    assert ids(store.unfinished()) == names[1::2]
