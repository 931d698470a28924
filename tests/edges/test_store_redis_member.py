"""A node's part in a fleet, over a real Valkey: who is in it, whose the tasks are, what is shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from creche.core import task as tasks
from creche.core.fleet import Limit
from creche.core.task import Cancelled, Job, Status, Task
from creche.edges import store_redis_server
from creche.engine.ports import Accept, Accepted, Places, Query, Renewal, Save, Settle, Write
from creche.errors import NotOwner, StoreUnavailable, TaskLost, TooManyTasks
from creche.testing import make_task
from tests.edges.conftest import Valkey
from tests.edges.stores import Node, member

MakeNode = Callable[[str], Node]


@pytest.fixture
def node(lasting_valkey: Valkey) -> Iterator[MakeNode]:
    """`node(name)`: one that has joined, of a fleet that begins empty."""
    lasting_valkey.client.flushall()
    made: list[Node] = []

    def make(name: str) -> Node:
        made.append(Node(lasting_valkey.url, name).open())
        return made[-1]

    yield make
    for one in made:
        one.store.close()


def renew(one: Node, *limits: Limit, beat: int = 1) -> Renewal:
    return one.membership.renew(msgspec.structs.replace(member(one.name), beat=beat), limits)


def bury(one: Node, other: str) -> None:
    """Declare another gone, as it was last seen."""
    one.membership.bury(other, renew(one).members[other])


def accept(one: Node, *names: str) -> list[Task]:
    made = [make_task(name, input=msgspec.Raw(b'{"n":1}')) for name in names]
    assert one.store.commit([Accept(task) for task in made]) == [Accepted(task, new=True) for task in made]
    return made


def running(task: Task) -> Task:
    return tasks.begin_job(task, Job("j"), 2.0)


def ended(task: Task) -> Task:
    return tasks.settle(task, Cancelled("client"), 9.0)


# -- members -------------------------------------------------------------------------------------------


def test_members_hear_of_each_other(node: MakeNode) -> None:
    """Each tells of itself with every renewal; the others see it as it was told last."""
    a, b = node("A"), node("B")
    renew(a, beat=7)
    heard = renew(b)
    assert heard.members.keys() == {"A", "B"}
    assert b'"beat":7' in heard.members["A"]
    assert (heard.gone, heard.waiting, heard.wishes, heard.owned) == ({}, 0, {}, 0)


def test_who_has_told_something_new_is_not_gone(node: MakeNode) -> None:
    """Whoever declares it gone has looked before; in between it may have been heard."""
    a, b = node("A"), node("B")
    told = renew(b).members["A"]
    renew(a, beat=8)
    b.membership.bury("A", told)
    assert renew(b).members.keys() == {"A", "B"}


def test_who_was_declared_gone_can_do_nothing(node: MakeNode) -> None:
    """No renewal, no write, no new task, no adoption, nobody else declared gone; its writes are refused one by one."""
    a, b, c = node("A"), node("B"), node("C")
    [task] = accept(a, "t")
    bury(b, "A")
    refused: list[Write] = [Save(running(task)), Settle(ended(running(task))), Accept(make_task("u"))]
    assert [type(answer) for answer in a.store.commit(refused)] == [NotOwner] * 3
    for attempt in (lambda: renew(a), lambda: a.membership.adopt(5)):
        with pytest.raises(NotOwner):
            attempt()
    a.membership.bury("C", renew(c).members["C"])
    assert renew(b).members.keys() == {"B", "C"}
    assert (b.store.get("t"), b.store.get("u")) == (task, None)


def test_who_joins_anew_leaves_what_it_had_to_others(node: MakeNode) -> None:
    """Under the new name it owns nothing."""
    a, b = node("A"), node("B")
    accept(a, "t")
    a.membership.join(member("A-2"))
    assert (a.membership.owned(), a.store.unfinished()) == ([], [])
    heard = renew(b)
    assert (set(heard.members), heard.gone) == ({"A-2", "B"}, {"A": 1})


def test_who_leaves_is_gone_at_once(node: MakeNode) -> None:
    """Its tasks may be adopted; who leaves none is forgotten."""
    a, b, c = node("A"), node("B"), node("C")
    accept(a, "t")
    a.membership.leave()
    c.membership.leave()
    heard = renew(b)
    assert (set(heard.members), heard.gone) == ({"B"}, {"A": 1})


# -- whose tasks ---------------------------------------------------------------------------------------


def test_tasks_are_adopted_in_small_claims(node: MakeNode) -> None:
    """Oldest first, whole, each by one node only; the last of them ends the memory of who is gone."""
    a, b, c = node("A"), node("B"), node("C")
    made = accept(a, *"vwxyz")
    bury(b, "A")
    first, second = b.membership.adopt(2), c.membership.adopt(10)
    assert [task.id for task in first] == ["v", "w"]
    assert first + second == [msgspec.structs.replace(task, epoch=1) for task in made]
    assert (b.membership.adopt(10), renew(b).gone) == ([], {})
    assert (b.membership.owned(), renew(c).owned) == (["v", "w"], 3)


def test_an_adopted_task_is_written_by_its_new_owner_only(node: MakeNode) -> None:
    """What the one before has still to say comes too late, also if it is back under another name."""
    a, b = node("A"), node("B")
    [task] = accept(a, "t")
    bury(b, "A")
    [adopted] = b.membership.adopt(1)
    a.membership.join(member("A-2"))
    late: list[Write] = [Save(running(task)), Settle(ended(running(task)))]
    assert [type(answer) for answer in a.store.commit(late)] == [NotOwner] * 2
    assert b.store.commit([Save(running(adopted))]) == [None]
    assert b.store.get("t") == running(adopted)


def test_a_task_that_comes_back_is_another_one_for_its_owner_of_before(node: MakeNode) -> None:
    """The epoch tells: what was written before it went is refused, what is written after it is back is not."""
    a, b = node("A"), node("B")
    [task] = accept(a, "t")
    a.membership.join(member("A-2"))
    b.membership.adopt(1)
    b.membership.leave()
    [back] = a.membership.adopt(1)
    assert back.epoch == 2
    assert [type(answer) for answer in a.store.commit([Save(running(task)), Save(running(back))])] == [
        NotOwner,
        type(None),
    ]


def test_a_settled_task_is_nobody_s(node: MakeNode) -> None:
    """Nothing of it is adopted; the same outcome again is answered with its entry, as long as one is a member."""
    a, b = node("A"), node("B")
    [task] = accept(a, "t")
    done = ended(running(task))
    [entry] = a.store.commit([Settle(done)])
    assert a.store.commit([Settle(done)]) == [entry]
    bury(b, "A")
    assert (b.membership.adopt(5), renew(b).gone) == ([], {})
    assert isinstance(a.store.commit([Settle(done)])[0], NotOwner)


def test_what_stands_is_proved_to_be_kept(node: MakeNode) -> None:
    """Whoever repeats a key or an outcome waits for replicas and disk as the first did: the answer needs a write."""
    a = node("A")

    def writes() -> int:
        return int(a.server.client.hget(a.server.meta, "probes") or 0)

    [task] = accept(a, "t")
    done = ended(running(task))
    before = writes()
    a.store.commit([Accept(task)])
    assert writes() == before + 1
    a.store.commit([Settle(done)])
    a.store.commit([Settle(done)])
    assert writes() == before + 2


def test_listeners_hear_of_what_is_kept(node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outcome that a failover may yet lose is no news, and no webhook is sent for it, until replicas have it."""
    a = node("A")
    [task] = accept(a, "t")
    a.store.commit([Settle(ended(running(task)))])
    monkeypatch.setattr(a.server, "_replicas", 1)
    monkeypatch.setattr(store_redis_server, "_KEEP_WAIT_MS", 10)
    with pytest.raises(StoreUnavailable, match="has not kept a write"):
        a.membership.news(0, Places(), changes=False, wait_s=0)
    with pytest.raises(StoreUnavailable, match="has not kept a write"):
        a.store.outbox.claim(now=0.0, until=9.0, limit=5)
    monkeypatch.setattr(a.server, "_replicas", 0)
    [entry] = a.membership.news(0, Places(), changes=False, wait_s=0).entries
    assert entry.task.id == "t"


def test_a_lost_task_is_told_to_its_owner(node: MakeNode) -> None:
    """Who writes about it hears that it is not there, whatever is written; accepted once more it is as it was."""
    a = node("A")
    [task] = accept(a, "t")
    a.server.client.flushall()
    a.store.open()
    a.membership.join(member("A"))
    saved, ended_ = a.store.commit([Save(running(task)), Settle(ended(running(task)))])
    assert (type(saved), type(ended_)) == (TaskLost, TaskLost)
    assert a.store.commit([Accept(running(task))]) == [Accepted(running(task), new=True)]
    assert a.store.get("t") == running(task)


def test_a_task_without_room_waits_for_a_node_that_has_some(node: MakeNode) -> None:
    """By priority, then in order; until then nobody owns it, and nobody can write about it."""
    a, b = node("A"), node("B")
    made = [make_task("low"), make_task("high", priority=5), make_task("late")]
    a.store.commit([Accept(task, waits=True) for task in made])
    assert renew(b).waiting == 3
    assert isinstance(a.store.commit([Save(running(made[0]))])[0], NotOwner)
    assert [task.id for task in b.membership.adopt(2)] == ["high", "low"]
    assert [task.id for task in a.membership.adopt(2)] == ["late"]
    assert renew(b).waiting == 0


def test_those_of_nodes_that_are_gone_come_before_those_that_wait(node: MakeNode) -> None:
    """They may have jobs that cost money."""
    a, b = node("A"), node("B")
    b.store.commit([Accept(make_task("waits"), waits=True)])
    accept(a, "orphan")
    a.membership.leave()
    assert [task.id for task in b.membership.adopt(1)] == ["orphan"]


def test_no_more_wait_than_may(node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is refused, as a value."""
    monkeypatch.setattr("creche.edges.store_redis.MAX_WAITING", 1)
    a = node("A")
    first, second = a.store.commit([Accept(make_task(name), waits=True) for name in "tu"])
    assert first == Accepted(make_task("t"), new=True)
    assert isinstance(second, TooManyTasks)
    assert a.store.get("u") is None


def test_every_node_sees_all(node: MakeNode) -> None:
    """Tasks, keys, lists, the feed: only what is unfinished is each member's own."""
    a, b = node("A"), node("B")
    task = make_task("t", key="k", fingerprint="f")
    a.store.commit([Accept(task)])
    assert b.store.commit([Accept(make_task("u", key="k", fingerprint="f"))]) == [Accepted(task, new=False)]
    assert b.store.list_tasks(Query()).tasks == [task]
    assert (a.store.unfinished(), b.store.unfinished()) == ([task], [])
    [entry] = a.store.commit([Settle(ended(running(task)))])
    assert b.store.feed_after(0, 10) == [entry]
    assert renew(b).counts[Status.CANCELLED] == 1


# -- news and wishes -----------------------------------------------------------------------------------


def test_news_are_outcomes_of_all_nodes_in_one_order(node: MakeNode) -> None:
    """Those behind a place, and from there on the next ones."""
    a, b = node("A"), node("B")
    for one, name in ((a, "t"), (b, "u"), (a, "v")):
        [task] = accept(one, name)
        one.store.commit([Settle(ended(running(task)))])
    news = b.membership.news(1, Places(), changes=False, wait_s=0)
    assert [entry.task.id for entry in news.entries] == ["u", "v"]
    later = b.membership.news(news.entries[-1].seq, news.places, changes=False, wait_s=0)
    assert (later.entries, later.rung, later.changed) == ([], False, frozenset())


def test_changes_are_told_to_those_who_want_them(node: MakeNode) -> None:
    """From when they began to want them."""
    a, b = node("A"), node("B")
    [task] = accept(a, "t")
    a.store.commit([Save(running(task))])
    places = b.membership.news(0, Places(), changes=True, wait_s=0).places
    a.store.commit([Save(running(task))])
    assert b.membership.news(0, places, changes=False, wait_s=0).changed == frozenset()
    assert b.membership.news(0, places, changes=True, wait_s=0).changed == {"t"}


def test_a_wish_reaches_the_owner(node: MakeNode) -> None:
    """It is told to have a look, and sees the wish until it has granted that very wish."""
    a, b = node("A"), node("B")
    accept(a, "t")
    places = a.membership.news(0, Places(), changes=False, wait_s=0).places
    assert b.membership.wish("t", b"please")
    assert a.membership.news(0, places, changes=False, wait_s=0).rung
    assert renew(a).wishes == {"t": b"please"}
    b.membership.wish("t", b"more")
    a.membership.granted("t", b"please")
    assert renew(a).wishes == {"t": b"more"}
    a.membership.granted("t", b"more")
    assert renew(a).wishes == {}


def test_a_wish_goes_with_the_task(node: MakeNode) -> None:
    """Whoever adopts it sees it; with the outcome it is gone, and of a task that has ended nothing can be wished."""
    a, b = node("A"), node("B")
    accept(a, "t")
    b.membership.wish("t", b"please")
    a.membership.leave()
    [task] = b.membership.adopt(1)
    assert renew(b).wishes == {"t": b"please"}
    b.store.commit([Settle(ended(running(task)))])
    assert renew(b).wishes == {}
    assert not b.membership.wish("t", b"please")


# -- shared limits -------------------------------------------------------------------------------------


def portion(one: Node, held: float, wanted: float, *, total: float = 10, whole: bool = True) -> float:
    limit = Limit(name="l", total=total, held=held, wanted=wanted, whole=whole)
    return renew(one, limit).portions["l"]


def test_who_is_alone_has_all(node: MakeNode) -> None:
    """Whether it wants that much or not: the next task need not wait for a renewal."""
    a = node("A")
    assert portion(a, 0, 0) == 10
    assert portion(a, 3, 50) == 10


def test_what_others_have_is_not_given_out_again(node: MakeNode) -> None:
    """A second node has nothing before the first has given something back, and then no more than that."""
    a, b = node("A"), node("B")
    assert portion(a, 10, 50) == 10
    assert portion(b, 0, 50) == 0
    assert portion(a, 10, 50) == 5  # a fair part; it holds ten, still
    assert portion(b, 0, 50) == 0
    assert portion(a, 7, 50) == 5
    assert portion(b, 0, 50) == 3
    assert portion(a, 5, 50) == 5
    assert portion(b, 3, 50) == 5


def test_who_needs_less_leaves_the_rest(node: MakeNode) -> None:
    """While another wants more than it has."""
    a, b = node("A"), node("B")
    portion(a, 2, 2)
    portion(b, 0, 50)
    assert portion(a, 2, 2) == 2
    assert portion(b, 0, 50) == 8
    assert portion(a, 2, 6) == 2
    assert portion(b, 8, 50) == 5


def test_a_rate_is_shared_in_fractions(node: MakeNode) -> None:
    """Three of one per second have a third each, and together never more than one."""
    nodes = [node(name) for name in "ABC"]
    for _ in range(3):
        portions = [portion(one, 0, 1, total=1, whole=False) for one in nodes]
    assert portions == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_the_portion_of_the_dead_comes_back_with_their_tasks(node: MakeNode) -> None:
    """As long as tasks of theirs are orphans, jobs of these may be in flight."""
    a, b = node("A"), node("B")
    accept(a, "t")
    portion(a, 3, 3)
    portion(b, 0, 50)
    portion(a, 3, 3)
    assert portion(b, 0, 50) == 7
    bury(b, "A")
    assert portion(b, 0, 50) == 7
    b.membership.adopt(1)
    assert portion(b, 1, 50) == 10


def test_a_smaller_limit_takes_nothing_from_those_who_hold(node: MakeNode) -> None:
    """But nobody gets more before all is within it."""
    a, b = node("A"), node("B")
    portion(a, 8, 8)
    assert portion(b, 0, 5, total=4) == 0
    assert portion(a, 8, 8, total=4) <= 4


# -- the server ----------------------------------------------------------------------------------------


def test_a_server_without_its_data_is_none(node: MakeNode, lasting_valkey: Valkey) -> None:
    """It says so to everyone who asks, and is not filled with what is left; minding goes on without it."""
    a = node("A")
    [task] = accept(a, "t")
    lasting_valkey.client.flushall()
    for attempt in (lambda: renew(a), lambda: a.store.commit([Save(running(task))]), a.store.feed_bounds):
        with pytest.raises(StoreUnavailable, match="has lost the store"):
            attempt()
    assert lasting_valkey.client.keys() == []


def test_a_server_that_forgot_the_script_is_given_it_once_more(node: MakeNode, lasting_valkey: Valkey) -> None:
    """Within one batch, each write is done once."""
    a = node("A")
    lasting_valkey.client.script_flush()
    accept(a, *"tuv")
    assert [task.id for task in a.store.unfinished()] == ["t", "u", "v"]


def test_numbers_of_the_feed_follow_what_a_node_has_seen(node: MakeNode, lasting_valkey: Valkey) -> None:
    """A failover that lost outcomes gives their numbers to no others: cursors that were handed out stay behind."""
    a, b = node("A"), node("B")
    [first, second] = accept(a, "t", "u")
    a.store.commit([Settle(ended(running(first)))])
    a.membership.news(0, Places(), changes=False, wait_s=0)
    a.server.known = 41  # what the server has lost
    renew(a)
    assert b.store.feed_bounds() == (0, 41)
    [entry] = a.store.commit([Settle(ended(running(second)))])
    assert getattr(entry, "seq", 0) == 42
