"""The fake store against the real ones, under random walks: the fake may be trusted as far as this holds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from creche.core.task import Cancelled, Failed, Job, Outcome, Status, Succeeded, Task, status_of
from creche.edges.store_sqlite import SqliteStore
from creche.engine.ports import Accept, Query, Save, Settle, Store, Write, Written
from creche.errors import AlreadySettled, StoreUnavailable, TaskLost
from creche.testing import MemoryStore, make_task
from tests.edges.conftest import Valkey
from tests.edges.stores import Node

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
IDS = st.sampled_from(["a", "b", "c", "d", "e"])
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
RAWS = (JSONS | st.sampled_from(["x" * 19, "y" * 19])).map(lambda value: msgspec.Raw(msgspec.json.encode(value)))
OUTCOMES: st.SearchStrategy[Outcome] = st.builds(Succeeded, RAWS, st.booleans()) | st.sampled_from(
    [Failed("provider", "no luck"), Cancelled("client")]
)
CHANGES = st.fixed_dictionaries(
    {
        "status": st.sampled_from([Status.WAITING, Status.PROCESSING, Status.UNKNOWN]),
        "note": TEXTS,
        "progress": st.none() | st.floats(0, 1),
        "job": st.none() | st.builds(Job, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=2), st.floats(0, 1e10)),
    }
)


def said(task_id: str) -> Task:
    """What the client said about a task; it follows from the id, because it never changes."""
    number = ord(task_id)
    return make_task(
        task_id,
        algorithm=f"al{number % 2}",
        user=None if number % 3 == 0 else f"u{number % 2}",
        labels={"n": str(number % 2)} | ({"m": "1"} if number % 3 == 1 else {}),
        input=msgspec.Raw(b'{"n":%d}' % number) if number % 2 else None,
    )


def comparable(batch: list[Write], answers: list[Written]) -> list[object]:
    """Refusals by kind; their wording is each store's own. That a task is not there a fleet's store tells as a loss."""
    gone = [AlreadySettled if isinstance(write, Settle) else None for write in batch]
    return [
        absent if isinstance(answer, TaskLost) else type(answer) if isinstance(answer, Exception) else answer
        for absent, answer in zip(gone, answers, strict=True)
    ]


class Comparison(RuleBasedStateMachine):
    """All stores do the same and must answer the same."""

    valkey: Valkey

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock = 0.0
        self.memory = MemoryStore(max_inline=20)
        self.sqlite = SqliteStore(Path(self.folder.name) / "creche.db", max_inline=20)
        self.sqlite.open()
        self.valkey.client.flushall()
        self.node = Node(self.valkey.url, "A", max_inline=20).open()
        self.real: list[Store] = [self.sqlite, self.node.store]

    def agree(self, asked: Callable[[Store], object]) -> None:
        said = asked(self.memory)
        for store in self.real:
            assert asked(store) == said

    def teardown(self) -> None:
        for store in self.real:
            store.close()
        self.folder.cleanup()

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        batch: list[Write] = []
        for _ in range(data.draw(st.integers(0, 6))):
            task = said(data.draw(IDS))
            kind = data.draw(st.sampled_from(["accept", "accept", "save", "settle", "settle"]))
            if kind == "accept":
                changes = {
                    "key": data.draw(st.sampled_from([None, "k", "l"])),
                    "fingerprint": data.draw(st.sampled_from("fg")),
                }
                batch.append(Accept(msgspec.structs.replace(task, **changes)))
                continue
            changed = msgspec.structs.replace(task, **data.draw(CHANGES))
            if kind == "save":
                batch.append(Save(changed))
            else:
                self.clock += data.draw(st.sampled_from([0.0, 1.0, -1.0]))
                outcome = data.draw(OUTCOMES)
                end = {"outcome": outcome, "status": status_of(outcome), "settled_at": self.clock}
                batch.append(Settle(msgspec.structs.replace(changed, **end)))
        self.agree(lambda store: comparable(batch, store.commit(batch)))

    @rule(age=st.integers(-2, 4), keep=st.integers(0, 5), limit=st.integers(1, 4))
    def prune(self, age: int, keep: int, limit: int) -> None:
        self.agree(lambda store: store.prune(settled_before=self.clock - age, keep=keep, limit=limit))
        self.read()

    @rule()
    def restart(self) -> None:
        self.sqlite.close()
        self.sqlite.open()
        self.read()

    @rule()
    def read(self) -> None:
        def everything(store: Store) -> object:
            return (
                store.unfinished(),
                store.feed_bounds(),
                store.feed_after(0, 100),
                [(store.get(name), store.result_of(name)) for name in "abcde"],
                store.left_results(),
            )

        self.agree(everything)

    @rule(
        statuses=st.frozensets(st.sampled_from(Status), max_size=3),
        algorithm=st.none() | st.just("al1"),
        user=st.none() | st.just("u1"),
        labels=st.dictionaries(st.sampled_from("nm"), st.just("1")),
        limit=st.integers(1, 5),
        after=st.none() | IDS,
    )
    def list_tasks(self, **wanted: Any) -> None:  # noqa: ANN401 - the fields of a query
        query = Query(**wanted)
        self.agree(lambda store: store.list_tasks(query))


@pytest.mark.slow
def test_all_stores_agree(lasting_valkey: Valkey) -> None:
    """Whatever is done to all, all answer the same."""
    run_state_machine_as_test(
        type("Comparison", (Comparison,), {"valkey": lasting_valkey}),
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_the_fake_fails_when_told() -> None:
    """While `failing` nothing is written or read; afterwards all is as before."""
    store = MemoryStore()
    store.failing = True
    for attempt in (lambda: store.commit([Accept(make_task("a"))]), store.unfinished, store.feed_bounds):
        with pytest.raises(StoreUnavailable):
            attempt()
    store.failing = False
    assert store.unfinished() == []
