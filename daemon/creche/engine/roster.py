"""Who is minded: every unfinished task of this node, and the gates of their algorithms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import trio

from creche.core import task as rules
from creche.core.fleet import Limit
from creche.core.limits import Slots
from creche.core.task import Status, Task
from creche.core.wire import Live, TaskIn
from creche.engine.admission import admit, not_configured
from creche.engine.batches import Accounts, Batches
from creche.engine.gate import Gate
from creche.engine.live import Algorithm, LiveTask, Tools

_HOLD_NO_SLOT = rules.AT_REST | {Status.ACCEPTED}


class Roster:
    """The registry. `lives` are the tasks by id, each in memory once. `shared`: see `Gate`."""

    def __init__(self, tools: Tools, algorithms: Mapping[str, Algorithm], *, shared: bool) -> None:
        self._tools = tools
        self._shared = shared
        self._algorithms = dict(algorithms)
        self._gates: dict[str, Gate] = {}
        self._accounts: Accounts
        self.lives: dict[str, LiveTask] = {}

    @property
    def algorithms(self) -> Mapping[str, Algorithm]:
        """Those that are configured."""
        return self._algorithms

    def begin(self, nursery: trio.Nursery) -> None:
        """Requests for many jobs at once are made in this nursery. To be called before the first task comes."""
        self._accounts = Accounts(nursery)

    def register(self, task: Task, *, delay_s: float = 0.0) -> LiveTask:
        """Take a task in, or its new record in place of what there was. It holds a slot if it may have a job."""
        gate = self.gate(task.algorithm)
        live = LiveTask(task, self.algorithm(task.algorithm), gate, self._tools, delay_s=delay_s)
        self.lives[task.id] = live
        if task.status not in _HOLD_NO_SLOT:
            gate.slots.hold(task.id)
        return live

    def admit(self, task_in: TaskIn) -> Task:
        """The record of a new task. Raises `InvalidRequest`, `UnknownAlgorithm`."""
        tools = self._tools
        return admit(task_in, self._algorithms, tools.wall(), callbacks=tools.messages.callbacks)

    def algorithm(self, name: str) -> Algorithm:
        """An algorithm, whether configured or not."""
        return self._algorithms.get(name) or not_configured(name)

    def gate(self, algorithm: str) -> Gate:
        """The gate of an algorithm, likewise."""
        if algorithm not in self._gates:
            gate = self._gates[algorithm] = Gate(self.algorithm(algorithm), shared=self._shared)
            gate.batches = self._batches(algorithm, gate)
        return self._gates[algorithm]

    def slots(self, algorithm: str) -> Slots:
        """The slots of an algorithm, likewise."""
        return self.gate(algorithm).slots

    def reload(self, algorithms: Mapping[str, Algorithm]) -> list[str]:
        """Take over changed algorithms. Returns the tasks that have a slot now."""
        self._algorithms = dict(algorithms)
        for live in self.lives.values():
            live.algorithm = self.algorithm(live.task.algorithm)
        promoted: list[str] = []
        for name, gate in self._gates.items():
            # The limits of one that is away stay, so that its return finds no crowd.
            if name in self._algorithms:
                promoted += gate.take_over(self._algorithms[name])
            gate.batches = self._batches(name, gate)
        self._accounts.keep_only({algorithm.provider.account for algorithm in self._algorithms.values()})
        return promoted

    def shares(self) -> list[Limit]:
        """What this node holds and wants of the limits that all nodes share."""
        return [limit for name in self._algorithms for limit in self.gate(name).shares()]

    def grant(self, portions: Mapping[str, float]) -> list[str]:
        """This node's portions of those limits. Returns the tasks that have a slot now."""
        return [task_id for name in self._algorithms for task_id in self.gate(name).grant(portions)]

    def _batches(self, name: str, gate: Gate) -> Batches | None:
        return self._accounts.of(self.algorithm(name).provider, name, gate.polls)

    # -- what the API shows ------------------------------------------------------------------------------

    def live_task(self, task_id: str) -> tuple[Task, Live] | None:
        """An unfinished task, with what only this node knows of it."""
        live = self.lives.get(task_id)
        return None if live is None else (live.task, live.seen())

    def counts(self) -> Counter[tuple[str, Status]]:
        """Unfinished tasks by algorithm and status."""
        return Counter((live.task.algorithm, live.task.status) for live in self.lives.values())

    def conditions(self) -> dict[str, dict[str, int]]:
        """Algorithms whose provider cannot be asked properly: condition → number of tasks that meet it."""
        found: dict[str, Counter[str]] = {}
        for live in self.lives.values():
            if live.condition is not None:
                found.setdefault(live.task.algorithm, Counter())[live.condition] += 1
        return {name: dict(conditions) for name, conditions in found.items()}
