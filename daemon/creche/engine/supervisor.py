"""Admission, minding, recovery, stop.

Every unfinished task is a `LiveTask` in the roster; those that are minded have a nursery of their own below
`Supervisor.run`. A task that is `unknown` stays in the roster at rest until somebody resolves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import trio
from loguru import logger

from creche.core import task as rules
from creche.core.reconcile import Create, Rest
from creche.core.task import DEADLINE, Cancelled, Status, Task
from creche.core.wire import ResolveIn, TaskIn
from creche.engine.admission import check_cancel, decide
from creche.engine.clock import Jumps
from creche.engine.feed import Feed
from creche.engine.live import Algorithm, LiveTask, Tools, log_about
from creche.engine.minding import mind
from creche.engine.others import CANCEL, OtherNodes
from creche.engine.ports import Accept, Accepted, Entry, Save, Write, Written
from creche.engine.roster import Roster
from creche.errors import (
    CrecheError,
    Draining,
    NotOwner,
    StoreUnavailable,
    TaskNotFound,
    TooManyTasks,
    WrongStatus,
)

ON_WIRE_GRACE_S = 5.0
"""How long a stop waits for requests that must not be cut off: what they made or brought would be lost."""

RELOAD_STEP_S = 0.001
"""After a reload every task asks anew, so that a repaired key is used at once; but not all in one moment."""

CHUNK = 100
"""Tasks that are put back, or let go, between two looks at the world, so that neither stalls anything."""


class Supervisor:
    """Minds all tasks of this node. `max_tasks` bounds how many may be unfinished here.

    With `others` this node is one of a fleet: what there is no room for waits for a node that has some, and what this
    node does not mind another does.
    """

    def __init__(
        self,
        tools: Tools,
        feed: Feed,
        algorithms: Mapping[str, Algorithm],
        *,
        max_tasks: int,
        others: OtherNodes | None = None,
    ) -> None:
        self._tools = tools
        self._feed = feed
        self.roster = Roster(tools, algorithms, shared=others is not None)
        self._others = others
        self._max_tasks = max_tasks
        self._arriving = 0
        self._stopping = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recover what is unfinished, then mind until `stop`. Ready means recovered. Raises `StoreUnavailable`."""
        async with trio.open_nursery() as self._nursery:
            self.roster.begin(self._nursery)
            self._nursery.start_soon(self._tools.clock.watch, self._after_a_jump)
            await self._recover()
            task_status.started()
            await self._stopping.wait()
            await self._let_go()
            self._nursery.cancel_scope.cancel()
        for live in self.roster.lives.values():
            live.come_to_rest()  # whoever waits for the task now waits for the next start

    async def _let_go(self) -> None:
        """Cancel all tasks, some at a time: to unwind twenty thousand at once would hold up the loop for seconds."""
        grace_until = trio.current_time() + ON_WIRE_GRACE_S
        for number, live in enumerate(list(self.roster.lives.values())):
            if number % CHUNK == 0:
                await trio.lowlevel.checkpoint()
            if live.on_wire is not None:
                live.on_wire.deadline = grace_until
            live.let_go()

    def stop(self) -> None:
        """Take no new tasks, and end `run`: children are cancelled where they stand, no job is."""
        for live in self.roster.lives.values():
            live.leaving = True  # what fails from now on fails by the stop, and is nothing to tell of
        self._stopping.set()

    @property
    def draining(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    # -- what clients ask for ----------------------------------------------------------------------------

    async def submit(self, task_in: TaskIn) -> Accepted:
        """Accept a task, durably; it is being minded when this returns. Raises `RefusedError`, `UnavailableError`.

        Cancelled, the task may be accepted all the same: only the answer is lost, and a repeat with its key finds it.
        """
        [answer] = await self.submit_many([task_in])
        if isinstance(answer, CrecheError):
            raise answer
        return answer

    async def submit_many(self, tasks_in: Sequence[TaskIn]) -> list[Accepted | CrecheError]:
        """Accept many with few commits, each answered on its own and in order; refusals are values."""
        answers: list[Accepted | CrecheError | None] = []
        writes: list[tuple[Write, Callable[[Written], None]]] = []
        coming = 0
        for task_in in tasks_in:
            try:
                waits = not self._has_room(coming)
                task = self.roster.admit(task_in)
            except CrecheError as exc:
                answers.append(exc)
            else:
                answers.append(None)
                writes.append((Accept(task, waits), self._count_accepted if waits else self._begin_accepted))
                coming += not waits
        self._arriving += coming
        try:
            written = iter(await self._tools.journal.write_all(writes))
        finally:
            self._arriving -= coming
        return [_accepted(next(written)) if answer is None else answer for answer in answers]

    async def get(self, task_id: str) -> Task:
        """A task, unfinished or settled. Raises `TaskNotFound`, `StoreUnavailable`."""
        live = self.roster.lives.get(task_id)
        if live is not None:
            return live.task
        task = await self._tools.journal.read(lambda store: store.get(task_id))
        if task is None:
            raise TaskNotFound(f'no task has the id "{task_id}"')
        return task

    async def wait(self, task_id: str, timeout_s: float) -> Task:
        """A task as soon as it is at rest, or as it is after `timeout_s`. Raises as `get`."""
        live = self.roster.lives.get(task_id)
        if live is not None:
            with trio.move_on_after(timeout_s):
                await live.wait_for_rest()
                if not live.lost:
                    return live.task
        if self._others is None or timeout_s <= 0:
            return await self.get(task_id)
        return await self._others.wait(task_id, timeout_s, partial(self.get, task_id))

    async def cancel(self, task_id: str, *, taken: bool = False) -> Task:
        """Record the wish, durably, and pass it on to the provider. Asking again changes nothing.

        Raises `WrongStatus` when the task has ended otherwise or is unknown; one that another node has `taken` stays
        with an unknown task. When the store is unavailable the client is told so, but the wish may stand in memory.
        """
        await self._tools.journal.probe()
        task = await self.get(task_id)
        live = self.roster.lives.get(task_id)
        if task.status is Status.CANCELLED:
            return task
        if not taken or task.ended:
            check_cancel(task)
        if live is None:
            return await self._ask_others(task, ResolveIn(action=CANCEL))
        if task.cancel_reason in {None, DEADLINE}:
            live.change(rules.request_cancel(task, "client"))

        def kept(written: Written) -> None:
            if not isinstance(written, StoreUnavailable):
                live.cancel_kept = True
                self._rouse(live)

        # Also when it was asked for before: that wish may not have reached the disk.
        try:
            await self._tools.journal.write(Save(live.task), then=kept)
        except StoreUnavailable:
            live.cancel_kept = live.cancel_kept or False
            raise
        return live.task

    async def resolve(self, task_id: str, decision: ResolveIn) -> Task:
        """A person's decision about an `unknown` task. Raises `InvalidRequest`, `WrongStatus`, `TaskNotFound`."""
        task = await self.get(task_id)
        live = self.roster.lives.get(task_id)
        if task.status is not Status.UNKNOWN:
            raise WrongStatus(f"the task is {task.status}; only an unknown task can be resolved")
        decided = decide(task, decision, self._tools.wall())
        if live is None:
            return await self._ask_others(task, decision)
        if not live.at_rest:
            raise WrongStatus("the task is about to be unknown; resolve it once that is written")
        if decided is None:
            return await self._drop(live)
        # In force at once: a second decision, or a cancel, meets the task as it will be, not an unknown one.
        fresh = self.roster.register(task := rules.remember(decided, task, self._tools.wall()))
        try:
            await self._tools.journal.write(self._tools.begin(task), then=lambda _: self._start(fresh))
        except CrecheError:
            self._rest(fresh)
            self.roster.lives[task_id] = live
            raise
        return task  # as it was written; it goes on from there meanwhile

    async def _drop(self, live: LiveTask) -> Task:
        """Settle an unknown task. Until that is written nobody hears of it, and no second decision is taken."""
        live.at_rest = False
        task = rules.settle(live.task, Cancelled(reason="dropped"), self._tools.wall())
        try:
            await self._tools.journal.write(self._tools.settle(task), then=partial(self._settled, live))
        except CrecheError:
            live.come_to_rest()
            raise
        return task

    async def _ask_others(self, task: Task, wish: ResolveIn) -> Task:
        if self._others is None:  # it has ended meanwhile
            raise WrongStatus(f"the task is {(await self.get(task.id)).status}")
        return await self._others.ask(task, wish, partial(self.get, task.id))

    # -- what the fleet brings ---------------------------------------------------------------------------

    def room(self) -> int:
        """How many more tasks this node may take."""
        return 0 if self.draining else max(0, self._max_tasks - len(self.roster.lives) - self._arriving)

    async def find(self, task_ids: Iterable[str]) -> list[Task]:
        """Some tasks as the store has them. Raises `StoreUnavailable`."""
        found = await self._tools.journal.read(lambda store: [store.get(task_id) for task_id in task_ids])
        return [task for task in found if task is not None]

    async def take_in(self, tasks: Sequence[Task], left: AbstractSet[str] = frozenset()) -> None:
        """Mind tasks that are this node's, spread over their first interval. `left`: those whose result is there."""
        lives = []
        for task in tasks:
            if task.id not in self.roster.lives:
                every_s = self.roster.algorithm(task.algorithm).rhythm.every_s
                live = self.roster.register(task, delay_s=every_s * self._tools.dice())
                live.left_result = task.id in left and task.job is not None
                lives.append(live)
        # All have their slots before the first goes on: none may be given away that a job needs.
        for number, live in enumerate(lives):
            if number % CHUNK == 0:
                await trio.lowlevel.checkpoint()
            self._start(live)

    def drop(self, task_ids: Iterable[str]) -> None:
        """Another node minds these: nothing more is done or written here."""
        for task_id in task_ids:
            live = self.roster.lives.pop(task_id, None)
            if live is not None:
                live.lose()
                self._rest(live)

    def grant(self, portions: Mapping[str, float]) -> None:
        """This node's portions of the limits that all nodes share."""
        self._wake(self.roster.grant(portions))

    # -- reload ------------------------------------------------------------------------------------------

    def reload(self, algorithms: Mapping[str, Algorithm]) -> None:
        """Take over changed algorithms; running tasks go on with the new settings, a thousand per second."""
        promoted = self.roster.reload(algorithms)
        spread_s = len(self.roster.lives) * RELOAD_STEP_S
        for live in self.roster.lives.values():
            if not live.queued:
                live.alarm.hasten(spread_s * self._tools.dice())
        self._wake(promoted)

    # -- inside ------------------------------------------------------------------------------------------

    def _has_room(self, coming: int) -> bool:
        if self.draining:
            raise Draining("the daemon is stopping; submit again in a moment")
        if self.room() > coming:
            return True
        if self._others is None:
            raise TooManyTasks(f"{self._max_tasks} tasks are unfinished, as many as [tasks] max allows")
        return False

    def _begin_accepted(self, written: Written) -> None:
        self._count_accepted(written)
        if isinstance(written, Accepted) and written.new:
            self._start(self.roster.register(written.task))
            self._tools.updates.changed(written.task)

    def _count_accepted(self, written: Written) -> None:
        if isinstance(written, Accepted) and written.new:
            self._tools.count("accepted", written.task.algorithm, "new")

    def _start(self, live: LiveTask) -> None:
        """Mind a task that the store has; an unknown one rests, and who waits for a slot needs no child yet."""
        step = live.next_step()
        if isinstance(step, Rest):
            live.come_to_rest()
        elif not self.draining:  # else the next start takes the task from the store
            live.queued = isinstance(step, Create) and self._must_queue(live)
            if not live.queued:
                self._give_child(live)

    def _must_queue(self, live: LiveTask) -> bool:
        """Whether a slot is all that a task waits for, and there is none; it is in the queue then."""
        task, slots = live.task, live.gate.slots
        ready = task.start_at is None and live.delay_s == 0 and task.id not in slots.holders
        return ready and not slots.take(task.id, task.priority)

    def _rouse(self, live: LiveTask) -> None:
        """Wake a task's child; one that only waited for its slot gets its child now."""
        if not live.queued:
            live.alarm.ring()
        elif not self.draining:
            live.queued = False
            self._give_child(live)

    def _give_child(self, live: LiveTask) -> None:
        assert self._nursery is not None, "run comes first"  # noqa: S101
        self._nursery.start_soon(mind, live, self._tools, self._settled, self._rest, name=live.task.id)

    def _after_a_jump(self, jumps: Jumps) -> None:
        """A suspend counts against deadlines, as time does; a clock that was set moves none, also not on disk."""
        if jumps.slept_s:
            logger.info("the machine slept for {:.0f} s", jumps.slept_s)
        if jumps.set_by_s:
            logger.warning("the clock was set by {:+.0f} s; deadlines stay as far away as they were", jumps.set_by_s)
        now, wall = trio.current_time(), self._tools.wall()
        for live in self.roster.lives.values():
            if jumps.set_by_s and (task := rules.shift(live.task, jumps.set_by_s)) is not live.task:
                live.change(task)
                self._tools.journal.note(live.task)
            if live.patience is not None and live.task.deadline_at is not None:
                # Worked out anew: whoever has begun since the machine woke up did not sleep.
                live.patience.deadline = min(live.patience.deadline, now + live.task.deadline_at - wall)
            if live.task.start_at is not None and not live.queued:
                live.alarm.ring()

    async def _recover(self) -> None:
        """Put every unfinished task back."""
        tasks = await self._tools.journal.read(lambda store: store.unfinished())
        left = frozenset(await self._tools.journal.read(lambda store: store.left_results()))
        await self.take_in(tasks, left)
        if tasks:
            logger.info("{} unfinished tasks are minded again", len(tasks))

    def _settled(self, live: LiveTask, written: Written) -> None:
        if isinstance(written, NotOwner | StoreUnavailable) or live.lost:
            return
        self.roster.lives.pop(live.task.id, None)
        if not isinstance(written, Entry):
            logger.log("WARNING" if self._others else "ERROR", "{}: the outcome was refused: {}", live.task.id, written)
            self._rest(live)
            return
        task = live.task = written.task
        self._rest(live)
        self._tools.pulse.end(task.id)
        self._tools.note_settled(task)
        if self._others is None:
            self._feed.publish(written)  # else it comes from the fleet's feed, in its order
        reason = getattr(task.outcome, "reason", None)
        said = f"{task.status} ({reason})" if reason is not None else task.status
        log_about(task).info("{}: {} after {:.1f} s", task.id, said, (task.settled_at or 0.0) - task.accepted_at)

    def _rest(self, live: LiveTask) -> None:
        """No child works on it. One that another node has may be here anew already, under the same id."""
        if live.lost and self.roster.lives.get(live.task.id) is live:
            del self.roster.lives[live.task.id]
        if live.task.id not in self.roster.lives or self.roster.lives[live.task.id] is live:
            self._wake(live.gate.slots.release(live.task.id))
        live.come_to_rest()

    def _wake(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            if task_id in self.roster.lives:
                self._rouse(self.roster.lives[task_id])


def _accepted(written: Written | CrecheError) -> Accepted | CrecheError:
    assert isinstance(written, Accepted | CrecheError), "the contract of Store.commit"  # noqa: S101
    return written
