"""Bugs to be found: each breaks the daemon in one way while the block lasts. A simulation must miss none of them."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import trio

from creche.core import reconcile
from creche.core import task as rules
from creche.core.limits import Slots
from creche.core.task import Task
from creche.edges import store_redis_server, store_sqlite_schema
from creche.edges.store_redis_member import RedisMembership
from creche.edges.store_sqlite import SqliteStore
from creche.engine.fleet import Fleet
from creche.engine.journal import Journal
from creche.engine.live import LiveTask
from creche.engine.ports import Entry, News, Places, Settle, Written
from creche.engine.pulse import Pulse
from creche.engine.roster import Roster
from creche.engine.supervisor import Supervisor

Plant = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def settle_before_commit() -> Iterator[None]:
    """An outcome is told before it is on disk: a crash in between takes it back."""
    settle_surely = Journal.settle_surely

    async def early(
        self: Journal, settle: Callable[[], Settle], *, record: Callable[[], Task], then: Callable[[Written], None]
    ) -> None:
        _, head = await self.read(lambda store: store.feed_bounds())
        write = settle()
        then(Entry(head + 1, write.task))
        await trio.sleep(0.5)
        await settle_surely(self, lambda: write, record=record, then=lambda _: None)

    with mock.patch.object(Journal, "settle_surely", early):
        yield


@contextlib.contextmanager
def id_not_journaled() -> Iterator[None]:
    """A job's id is only noted: it reaches the disk with whatever is written next."""
    save_surely = Journal.save_surely

    async def later(self: Journal, record: Callable[[], Task]) -> None:
        if record().job is None:
            await save_surely(self, record)

    with mock.patch.object(Journal, "save_surely", later):
        yield


@contextlib.contextmanager
def slot_leak() -> Iterator[None]:
    """A slot is not given back by one task in five."""
    release = Slots.release

    def leak(self: Slots, task_id: str) -> list[str]:
        return [] if sum(task_id.encode()) % 5 == 0 else release(self, task_id)

    with mock.patch.object(Slots, "release", leak):
        yield


@contextlib.contextmanager
def immortal_heart() -> Iterator[None]:
    """A heart beats on when its task is over."""

    async def beat_for_ever(self: Pulse, task_id: str, algorithm: str) -> None:
        self._entered[task_id] = (algorithm, self._wall())
        await trio.sleep_forever()

    with mock.patch.object(Pulse, "beat_while_alive", beat_for_ever):
        yield


@contextlib.contextmanager
def lost_create_repeated() -> Iterator[None]:
    """A create that may have arrived is sent again, though the provider knows neither tokens nor ids."""
    with _instead(reconcile.Park):
        yield


@contextlib.contextmanager
def not_looked_for() -> Iterator[None]:
    """A job is made again without a look whether it is there."""
    with _instead(reconcile.LookUp):
        yield


@contextlib.contextmanager
def _instead(step: type[reconcile.Step]) -> Iterator[None]:
    next_step = LiveTask.next_step

    def hasty(self: LiveTask, doubt: reconcile.Doubt | None = None) -> reconcile.Step:
        decided = next_step(self, doubt)
        return reconcile.Create() if isinstance(decided, step) else decided

    with mock.patch.object(LiveTask, "next_step", hasty):
        yield


@contextlib.contextmanager
def deadline_forgotten() -> Iterator[None]:
    """A restart gives every job its whole time again."""
    register = Roster.register

    def anew(self: Roster, task: Task, *, delay_s: float = 0.0) -> LiveTask:
        if task.deadline_at is not None and delay_s:
            task = msgspec.structs.replace(task, deadline_at=self._tools.wall() + task.deadline_s)
        return register(self, task, delay_s=delay_s)

    with mock.patch.object(Roster, "register", anew):
        yield


@contextlib.contextmanager
def cancel_not_durable() -> Iterator[None]:
    """A cancel is answered before it is on disk, and a crash forgets it."""
    cancel = Supervisor.cancel

    async def forget(self: Supervisor, task_id: str) -> Task:
        live = self.roster.lives.get(task_id)
        if live is None or live.task.status in rules.AT_REST:
            return await cancel(self, task_id)
        live.change(rules.request_cancel(live.task, "client"))
        self._rouse(live)
        return live.task

    with mock.patch.object(Supervisor, "cancel", forget):
        yield


@contextlib.contextmanager
def clock_believed() -> Iterator[None]:
    """A clock that is set moves the deadlines of all jobs."""
    with mock.patch.object(Supervisor, "_after_a_jump"):
        yield


@contextlib.contextmanager
def commit_not_synced() -> Iterator[None]:
    """What is committed is left to the system to write some time."""
    connect = store_sqlite_schema._connect

    def hasty(path: Path) -> sqlite3.Connection:
        db = connect(path)
        db.execute("PRAGMA synchronous = OFF")
        return db

    with mock.patch.object(store_sqlite_schema, "_connect", hasty):
        yield


@contextlib.contextmanager
def cancel_sent_too_soon() -> Iterator[None]:
    """A job is cancelled while the wish is still on its way to the disk."""
    with mock.patch.object(LiveTask, "cancel_kept", property(lambda _: True, lambda *_: None)):
        yield


@contextlib.contextmanager
def left_result_ignored() -> Iterator[None]:
    """A large result that was on disk before a crash is asked for once more."""
    with mock.patch.object(SqliteStore, "left_results", return_value=[]):
        yield


# -- of a fleet ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _script_with(line: str, instead: str) -> Iterator[None]:
    text = store_redis_server._SCRIPT
    assert line in text
    changed = text.replace(line, instead)
    sha = hashlib.sha1(changed.encode(), usedforsecurity=False).hexdigest()
    with (
        mock.patch.object(store_redis_server, "_SCRIPT", changed),
        mock.patch.object(store_redis_server, "_SHA", sha),
    ):
        yield


@contextlib.contextmanager
def zombies_write() -> Iterator[None]:
    """Who was declared gone, and has lost its tasks, writes about them all the same, and never learns of it."""
    owner = "if h[1] ~= me or h[2] ~= epoch then return {'not_owner'} end"
    with (
        _script_with(owner, ""),
        mock.patch.object(Fleet, "_mend", _nothing),
        mock.patch.object(Supervisor, "drop"),
    ):
        yield


@contextlib.contextmanager
def orphans_forgotten() -> Iterator[None]:
    """Nobody takes over what the gone have left."""
    with mock.patch.object(Fleet, "_adopt", _nothing):
        yield


@contextlib.contextmanager
def lost_answers_not_mended() -> Iterator[None]:
    """A task whose accept or adoption was not answered is this node's, and is never minded."""
    with mock.patch.object(Fleet, "_mend", _nothing):
        yield


@contextlib.contextmanager
def wishes_ignored() -> Iterator[None]:
    """A cancel that reaches another node is answered, and goes no further."""
    with mock.patch.object(Fleet, "_grant", _nothing):
        yield


@contextlib.contextmanager
def only_own_outcomes() -> Iterator[None]:
    """A node's listeners miss an outcome now and then: two entries come at once, and it tells of one."""
    news = RedisMembership.news

    def some(self: RedisMembership, seq: int, places: Places, *, changes: bool, wait_s: float) -> News:
        found = news(self, seq, places, changes=changes, wait_s=wait_s)
        return msgspec.structs.replace(found, entries=found.entries[-1:])

    with mock.patch.object(RedisMembership, "news", some):
        yield


async def _nothing(*_: object) -> None:
    await trio.lowlevel.checkpoint()


FLEET_PLANTED: dict[str, Plant] = {
    "zombies-write": zombies_write,
    "orphans-forgotten": orphans_forgotten,
    "lost-answers-not-mended": lost_answers_not_mended,
    "wishes-ignored": wishes_ignored,
    "only-own-outcomes": only_own_outcomes,
}

PLANTED: dict[str, Plant] = {
    "settle-before-commit": settle_before_commit,
    "id-not-journaled": id_not_journaled,
    "slot-leak": slot_leak,
    "immortal-heart": immortal_heart,
    "lost-create-repeated": lost_create_repeated,
    "not-looked-for": not_looked_for,
    "deadline-forgotten": deadline_forgotten,
    "cancel-not-durable": cancel_not_durable,
    "clock-believed": clock_believed,
    "commit-not-synced": commit_not_synced,
    "cancel-sent-too-soon": cancel_sent_too_soon,
    "left-result-ignored": left_result_ignored,
}
