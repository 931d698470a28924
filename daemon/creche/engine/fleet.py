"""A node's part in a fleet: its lease, the tasks that it takes over, what it hears of the other nodes.

Everything here looks at how things are, time after time, and mends what is not as it should be: whatever was missed
once, because the server was away or an answer was lost, is seen the next time.

Each round renews the lease and hears of the others. A node that cannot renew is *fenced*: it goes on polling, sends no
create, and no outcome of it can be written. Who has been silent for too long is declared gone, and the tasks of those
that are gone are adopted, some at a time, by whoever has room. A node that was itself declared gone drops what it minds
and joins anew. Nothing depends on anyone's clock (`core.fleet`), and nothing on this node knowing that it is late: the
store refuses what is not its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec
import trio
from loguru import logger

from creche.core import task as rules
from creche.core.fleet import RENEW_EVERY_S, Member, Sightings
from creche.core.task import Task
from creche.engine.feed import Feed
from creche.engine.live import Tools
from creche.engine.others import CANCEL, OtherNodes, Wish
from creche.engine.ports import Places, Renewal, Save
from creche.engine.supervisor import Supervisor
from creche.errors import CrecheError, NotOwner, StartError, StoreUnavailable, UnavailableError

CLAIM = 50
"""Tasks that are adopted at once: few, so that all who have room get their part."""

NEWS_WAIT_S = 0.5
"""How long the server is asked to wait for news; also how long a stop waits for the answer."""

PAUSE_S = 0.02
"""Between two questions for news, where the first brought none."""

RETRY_S = 1.0
LOOK_EVERY = 10
"""Rounds between two looks at what numbers do not tell: which tasks are ours, and what became of those that rest."""

MEND_AFTER = 3
"""Rounds in which the store and the memory may differ: what is on its way between them is not amiss."""

MEND = 1000
"""Tasks that are put back, or taken in, in one round: as many as leave time to renew the lease."""

NUDGED_S = 0.1
"""The least time between two rounds, however much is wanted."""

_WISHES = msgspec.json.Decoder(Wish)


class Fleet:
    """Keeps this node in its fleet, as `about` says, but that each of its lives as a member has an id of its own."""

    def __init__(
        self,
        others: OtherNodes,
        *,
        supervisor: Supervisor,
        feed: Feed,
        tools: Tools,
        about: Member,
    ) -> None:
        self._membership, self._run, self._follow = others.link
        self._others = others
        self._supervisor = supervisor
        self._feed = feed
        self._updates = tools.updates
        self._lease = tools.lease
        self._journal = tools.journal
        self._wall = tools.wall
        self._begin = tools.begin
        self._node = about.id
        self._about = about
        self._lives = 0
        self._sightings = Sightings()
        self._differing = 0
        self._granting: set[str] = set()
        self._nudged = trio.Event()
        self._left = False
        self._nursery: trio.Nursery
        self.renewal: Renewal | None = None
        self.adopted = 0
        self.fault: str | None = None

    @property
    def member(self) -> str:
        """Who this node is in the fleet now."""
        return self._about.id

    def silent_s(self, member: str) -> float:
        """For how long nothing new was heard of a member; beyond `GONE_AFTER_S` it is declared gone."""
        return self._sightings.silent_s(member, self._lease.uptime())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Join, and stay until cancelled. Ready means joined, with a lease. Raises `StartError` before that."""
        async with trio.open_nursery() as self._nursery:
            try:
                await self._join()
                await self._round()
            except StoreUnavailable as exc:
                raise StartError(f"cannot join the fleet: {exc}") from exc
            self._nursery.start_soon(self._keep_lease)
            self._nursery.start_soon(self._follow_news)
            task_status.started()

    async def leave(self) -> None:
        """Others may take the tasks at once. Where the server is away they do so once they miss this node."""
        self._left = True
        try:
            await self._run(self._membership.leave)
        except StoreUnavailable as exc:
            logger.warning("could not leave the fleet; others take over in a while: {}", exc)

    def nudge(self) -> None:
        """Renew now: something is wanted of the fleet."""
        self._nudged.set()

    # -- the lease -----------------------------------------------------------------------------------------

    async def _join(self) -> None:
        self._lives += 1
        name = self._node if self._lives == 1 else f"{self._node}-{self._lives}"
        self._about = msgspec.structs.replace(self._about, id=name, joined_at=self._wall(), beat=0)
        await self._run(lambda: self._membership.join(self._about))
        self._sightings = Sightings()
        logger.info("joined the fleet as {}", self.member)

    async def _keep_lease(self) -> None:
        while True:
            await trio.sleep(NUDGED_S)
            with trio.move_on_after(RENEW_EVERY_S - NUDGED_S):
                await self._nudged.wait()
            self._nudged = trio.Event()
            if self._left:
                return
            try:
                await self._round()
            except NotOwner as exc:
                await self._begin_anew(exc)
            except StoreUnavailable as exc:
                if self.fault is None:
                    logger.warning("the lease in the fleet cannot be renewed: {}", exc)
                self.fault = str(exc)

    async def _begin_anew(self, why: NotOwner) -> None:
        logger.warning("{}; it drops {} and joins anew", why, len(self._supervisor.roster.lives))
        self._lease.renewed_at = -math.inf
        self._supervisor.drop(list(self._supervisor.roster.lives))
        while not self._left:
            try:
                await self._join()
            except StoreUnavailable:
                await trio.sleep(RETRY_S)
            else:
                return

    async def _round(self) -> None:
        begun = self._lease.uptime()
        roster = self._supervisor.roster
        about = self._about = msgspec.structs.replace(self._about, beat=self._about.beat + 1, tasks=len(roster.lives))
        limits = roster.shares()
        renewal = self.renewal = await self._run(lambda: self._membership.renew(about, limits))
        self._lease.renewed_at = begun
        if self.fault is not None:
            logger.info("the lease in the fleet is renewed again")
            self.fault = None
        self._supervisor.grant(renewal.portions)
        for name in self._sightings.look(renewal.members, self._lease.uptime()):
            if name != self.member:
                told = renewal.members[name]
                logger.warning("node {} is gone; its tasks are taken over", name)
                await self._run(lambda name=name, told=told: self._membership.bury(name, told))  # type: ignore[misc]
        for task_id, wish in renewal.wishes.items():
            if task_id in roster.lives and task_id not in self._granting:
                self._granting.add(task_id)
                self._nursery.start_soon(self._grant, task_id, wish)
        await self._mend(renewal)
        if self._about.beat % LOOK_EVERY == 0:
            await self._look_at_those_at_rest()
        if renewal.waiting or renewal.gone:
            await self._adopt(renewal)

    # -- whose tasks ---------------------------------------------------------------------------------------

    async def _adopt(self, renewal: Renewal) -> None:
        """Take over what is to be had, as far as there is room, but no longer than until the lease is to be renewed."""
        until = self._lease.uptime() + RENEW_EVERY_S
        while (room := self._supervisor.room()) > 0:
            if self._lease.uptime() >= until:
                self.nudge()
                return
            tasks = await self._run(lambda: self._membership.adopt(min(room, CLAIM)))
            self.adopted += len(tasks)
            await self._take_in(tasks, renewal)
            if len(tasks) < min(room, CLAIM):
                return

    async def _mend(self, renewal: Renewal) -> None:
        """What the store says is ours is minded here, and nothing else: an answer may have been lost, or a failover may
        have lost what was written last.
        """
        lives = self._supervisor.roster.lives
        self._differing = self._differing + 1 if renewal.owned != len(lives) else 0
        # Equal numbers may hide a task too many and one too few.
        if self._differing < MEND_AFTER and self._about.beat % LOOK_EVERY:
            return
        self._differing = 0
        before = frozenset(lives)
        owned = frozenset(await self._run(self._membership.owned))
        # What was accepted before that has its place here when this returns, so no task is minded from an old read.
        await self._journal.flush()
        missing = sorted(owned - before - lives.keys())
        strange = [task_id for task_id in before - owned if task_id in lives]
        known = {task.id: task for task in await self._supervisor.find(strange)}
        if others := [task_id for task_id, task in known.items() if not task.ended]:
            logger.warning("{} tasks are not this node's any more", len(others))
            self._supervisor.drop(others)
        lost = [task_id for task_id in strange if task_id not in known]
        await self._put_back(lost[:MEND])
        if missing:
            tasks = [task for task in await self._supervisor.find(missing[:MEND]) if not task.ended]
            if tasks:
                logger.warning("{} tasks of this node were not minded", len(tasks))
            await self._take_in([task for task in tasks if task.id not in lives], renewal)
        if max(len(lost), len(missing)) > MEND:
            self._differing = MEND_AFTER
            self.nudge()

    async def _take_in(self, tasks: Sequence[Task], renewal: Renewal) -> None:
        """Mind tasks from now on. A cancel that nobody was there to hear of is written before the create; where that
        cannot be, the task is missing here, and `_mend` sees it.
        """
        wished = {task_id for task_id, wish in renewal.wishes.items() if _action(wish) == CANCEL}
        asked = {task.id for task in tasks if task.id in wished and task.status not in rules.AT_REST}
        calm = [task for task in tasks if task.id not in asked]
        cancelled = [rules.request_cancel(task, "client") for task in tasks if task.id in asked]
        answers = await self._journal.write_all([(Save(task), None) for task in cancelled])
        kept = [task for task, answer in zip(cancelled, answers, strict=True) if not isinstance(answer, CrecheError)]
        await self._supervisor.take_in([*calm, *kept])

    async def _look_at_those_at_rest(self) -> None:
        """A person's decision about an unknown task may be in the store, though its answer was lost."""
        lives = self._supervisor.roster.lives
        resting = {task_id: live.task for task_id, live in lives.items() if live.at_rest}
        for task in await self._supervisor.find(resting):
            live = lives.get(task.id)
            # Not one that was resolved since: the read may be older than that.
            if live is None or not live.at_rest or live.task is not resting[task.id]:
                continue
            if task.status is not live.task.status:
                self._supervisor.drop([task.id])
                if not task.ended:
                    await self._supervisor.take_in([task])

    async def _put_back(self, task_ids: Sequence[str]) -> None:
        """Tasks that the server has lost. This node is a member, so nobody else has taken them, or ended them."""
        lives = self._supervisor.roster.lives
        tasks = [lives[task_id].task for task_id in task_ids if task_id in lives and not lives[task_id].task.ended]
        if not tasks:
            return
        logger.warning("the server has lost {} tasks of this node; they are put back", len(tasks))
        refusals = list(zip(tasks, await self._journal.put_back(tasks), strict=True))
        self._supervisor.drop([task.id for task, refusal in refusals if isinstance(refusal, NotOwner)])
        # The messages about their jobs may be lost as well; those that are not stay as they are.
        back = [task for task, refusal in refusals if refusal is None and task.job is not None]
        await self._journal.write_all([(self._begin(task), None) for task in back if self._begin(task).deliveries])

    # -- what the others do --------------------------------------------------------------------------------

    async def _follow_news(self) -> None:
        """Publish every node's outcomes in their order, and tell of tasks of other nodes that changed."""
        places = Places()
        while True:
            feed_at, here = self._feed.head, places
            interested = self._updates.watched or self._others.watching
            begins = interested and not here.changes
            wait_s = 0 if begins else NEWS_WAIT_S
            ask = partial(self._membership.news, feed_at, here, changes=interested, wait_s=wait_s)
            try:
                news = await self._follow(ask)
            except StoreUnavailable as exc:
                logger.debug("the feed cannot be followed: {}", exc)
                await trio.sleep(RETRY_S)
                continue
            places = news.places
            for entry in news.entries:
                self._feed.publish(entry)
                self._updates.ended(entry.task.id)
                self._others.notice(entry.task.id)
            if news.rung:
                self.nudge()
            if begins:
                self._others.notice_all()
            if news.changed:
                await self._tell_changes(news.changed)
            if not (news.entries or news.changed):
                await trio.sleep(PAUSE_S)

    async def _tell_changes(self, task_ids: frozenset[str]) -> None:
        """Those of other nodes; of its own this node has told already."""
        strange = task_ids - self._supervisor.roster.lives.keys()
        for task_id in strange:
            self._others.notice(task_id)
        if self._updates.watched:
            for task in await self._supervisor.find(strange):
                if not task.ended:
                    self._updates.changed_elsewhere(task)

    # -- what clients of other nodes want --------------------------------------------------------------------

    async def _grant(self, task_id: str, wish: bytes) -> None:
        """Do it. One that cannot be done is gone with that; one that cannot be written is tried again."""
        try:
            wished = _WISHES.decode(wish)
            task = await self._supervisor.get(task_id)
            if wished.decision.action == CANCEL:
                await self._supervisor.cancel(task_id, taken=True)
            elif wished.token == task.token:
                await self._supervisor.resolve(task_id, wished.decision)
        except UnavailableError:
            return
        except (CrecheError, msgspec.MsgspecError) as exc:  # it has ended meanwhile, or a newer version wishes it
            logger.info("{}: a wish of another node's client cannot be granted: {}", task_id, exc)
        finally:
            self._granting.discard(task_id)
        with suppress(StoreUnavailable):  # then it is done once more, which changes nothing
            await self._run(lambda: self._membership.granted(task_id, wish))


def _action(wish: bytes) -> str:
    """What is to be done; nothing that is known here where a newer version wishes it."""
    try:
        return _WISHES.decode(wish).decision.action
    except msgspec.MsgspecError:
        return ""
