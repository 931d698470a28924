"""What clients of this node want of tasks that other nodes mind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
import trio

from creche.core import task as rules
from creche.core.task import Task
from creche.core.wire import ResolveIn
from creche.engine.journal import RunSync
from creche.engine.ports import Membership

CANCEL = "cancel"
"""What is wished of another node, besides what `resolve` can decide."""

ANSWER_S = 5.0
"""How long a client waits for another node to do what it wants. That it is wanted is on record by then."""

LOOK_AGAIN_S = 5.0
"""Who waits for a task of another node looks at it this often, besides when something is heard of it."""

_ENCODER = msgspec.json.Encoder()


class Link(NamedTuple):
    """A node's part in a fleet, and what runs its functions: `follow` the one that waits for news, `run` all others."""

    membership: Membership
    run: RunSync
    follow: RunSync


class Wish(msgspec.Struct, frozen=True):
    """What is wanted of a task, whose `token` was this one then. A decision to create anew changes the token, so that a
    wish which was granted without anyone hearing of it is not granted twice.
    """

    token: str
    decision: ResolveIn


class OtherNodes:
    """Leaves wishes for other nodes, and waits for their tasks."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._watched: dict[str, trio.Event] = {}

    def notice(self, task_id: str) -> None:
        """Something was heard of a task."""
        event = self._watched.pop(task_id, None)
        if event is not None:
            event.set()

    @property
    def watching(self) -> bool:
        """Whether anyone waits for a task of another node."""
        return bool(self._watched)

    def notice_all(self) -> None:
        """Something may have been missed."""
        for task_id in list(self._watched):
            self.notice(task_id)

    async def ask(self, task: Task, wish: ResolveIn, look: Callable[[], Awaitable[Task]]) -> Task:
        """Have the owner of a task do something: `cancel`, or what `resolve` can.

        Durable when this returns. The task as it is then: it may not be done yet. Raises `StoreUnavailable`.
        """

        def done(now: Task) -> bool:
            if wish.action == CANCEL:
                return now.ended or now.cancel_reason is not None
            return now.ended or now.status != task.status

        await self.link.run(lambda: self.link.membership.wish(task.id, _ENCODER.encode(Wish(task.token, wish))))
        return await self._wait_until(done, task.id, ANSWER_S, look)

    async def wait(self, task_id: str, timeout_s: float, look: Callable[[], Awaitable[Task]]) -> Task:
        """A task as soon as it is at rest, or as it is after `timeout_s`. Raises what `look` does."""
        return await self._wait_until(lambda now: now.status in rules.AT_REST, task_id, timeout_s, look)

    async def _wait_until(
        self, good: Callable[[Task], bool], task_id: str, timeout_s: float, look: Callable[[], Awaitable[Task]]
    ) -> Task:
        try:
            with trio.move_on_after(timeout_s):
                while True:
                    news = self._watched.setdefault(task_id, trio.Event())  # before looking: nothing falls between
                    task = await look()
                    if good(task):
                        return task
                    with trio.move_on_after(LOOK_AGAIN_S):
                        await news.wait()
        finally:
            self.notice(task_id)  # whoever else waits for it looks, and watches on
        return await look()
