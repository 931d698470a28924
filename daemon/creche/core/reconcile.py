"""What is to be done next about a task that has not ended: one decision, for everyone who meets such a task.

A start meets the tasks of the run before, a task's own child meets it after each attempt to create its job, `resolve`
hands back one about which a person decided. All of them ask `next_step`, which looks at the record, at how creates go
(`core.way`), and at what is known beyond the record: that a create may have arrived, and what became of attempts to
learn of it (`Doubt`).
"""

from __future__ import annotations

import msgspec

from creche.core.reading import Reading
from creche.core.task import Cancelled, Outcome, Status, Task
from creche.core.way import Way


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How an algorithm wants doubt about a create to be dealt with.

    `retry`: create anew where nobody can tell, at the risk of a second job. `max_failures`: answers that bring no
    certainty before a person is asked.
    """

    way: Way
    retry: bool = False
    max_failures: int = 5


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """A create that may have arrived, and for how long this process has tried to learn of its job.

    `why` is for people; `failures` counts answers that brought no certainty. `hopeless`: more would bring none.
    """

    tried_s: float = 0.0
    why: str = "the daemon ended while the create was on the wire"
    failures: int = 0
    hopeless: bool = False


class Rest(msgspec.Struct, frozen=True):
    """Nothing: a person decides."""


class Finish(msgspec.Struct, frozen=True):
    """Settle: there is nothing at the provider that would have to be waited for."""

    outcome: Outcome


class Create(msgspec.Struct, frozen=True):
    """Send the create: for the first time, or once more where a repetition makes no second job."""


class LookUp(msgspec.Struct, frozen=True):
    """Look for the job at the provider."""


class Park(msgspec.Struct, frozen=True):
    """Make it `unknown`: whether there is a job cannot be told, and nothing more is tried. `note` says why."""

    note: str


class Mind(msgspec.Struct, frozen=True):
    """Poll the job, which is known."""


class Fetch(msgspec.Struct, frozen=True):
    """Fetch the result of the job, which is over."""

    reading: Reading


Step = Rest | Finish | Create | LookUp | Park | Mind | Fetch


def next_step(task: Task, policy: Policy, now: float, doubt: Doubt | None = None) -> Step:
    """The next step for a task that has not ended, at `now` (Unix seconds).

    `doubt` is what this process knows about a create that may have arrived; None: no more than the record says.
    """
    if task.status is Status.UNKNOWN:
        return Rest()
    if task.job is not None:
        return Mind() if task.fetching is None else Fetch(task.fetching)
    if task.status is Status.CREATING:
        return _about_a_sent_create(task, policy, now, doubt or Doubt())
    if task.cancel_reason is not None:
        return Finish(Cancelled(reason=task.cancel_reason))
    return Create()


def _about_a_sent_create(task: Task, policy: Policy, now: float, doubt: Doubt) -> Step:
    way = policy.way
    if task.sent is not None and way.digest and task.sent.way not in {way.digest, ""}:
        # A repetition would be another request, perhaps to another place: no token makes the two one.
        return Create() if policy.retry else Park(f"{doubt.why}; since then the way in which it is sent has changed")
    # What the provider may have forgotten would be made once more.
    forgotten = now - (task.sent.since if task.sent is not None else task.accepted_at) >= way.within_s
    # A task that nobody can end would keep its slot from others. A job has its deadline to end, doubt about it no more.
    tried_enough = doubt.failures >= policy.max_failures or doubt.tried_s >= task.deadline_s
    if forgotten or tried_enough or doubt.hopeless:
        return Park(doubt.why)
    if way.repeat == "lookup":
        return LookUp()
    return Create() if way.repeat != "none" or policy.retry else Park(doubt.why)
