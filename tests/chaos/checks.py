"""What must be true of what the provider saw, what was accepted, and what was told."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from tests.chaos.clients import Clients, Ears, Order
from tests.process.running import Daemon, Json, Simulator, eventually

DRAIN_S = 90.0


class Wrong(AssertionError):
    """The promise was broken."""


class Checker:
    """Looks at everything that has ended since it last looked, and at the end at everything."""

    def __init__(self, daemon: Daemon, simulator: Simulator, clients: Clients, ears: Ears, name: str) -> None:
        self._daemon = daemon
        self._simulator = simulator
        self._clients = clients
        self._ears = ears
        self._name = name
        self._outcomes: dict[str, str] = {}

    def drain(self) -> None:
        """With a daemon that is up and left alone: everything that was ordered is accepted and comes to its end."""
        clients = self._clients

        def drained() -> bool:
            clients.submit(100)
            for order in clients.endless:
                clients.cancel(order)
            clients.resolve()
            return not clients.pending and self._daemon.client.status()["unfinished"] == 0

        try:
            eventually(drained, DRAIN_S)
        except AssertionError as exc:
            left = list(self._daemon.client.tasks(status=["unfinished"]))
            raise Wrong(f"not all has ended: {left[:3]}, {len(clients.pending)} not accepted") from exc

    def check(self) -> None:
        """After `drain`: everything that has ended since the last look."""
        feed = self._daemon.outcomes()
        self._check_feed(feed)
        tags = self._simulator.jobs_by_tag(f"{self._name}-")
        for task in feed:
            if task["id"] not in self._clients.ended:
                self._check_task(task, self._clients.orders[task["key"]], tags.get(task["key"], 0))
                self._clients.ended.add(task["id"])
        for key, count in tags.items():
            if count and self._clients.orders[key].id not in self._clients.ended:
                raise Wrong(f"{key}: has a job and no task")
        self._daemon.check_log()

    def _check_feed(self, feed: list[Json]) -> None:
        ids = [task["id"] for task in feed]
        if missing := self._clients.accepted.keys() - set(ids):
            raise Wrong(f"accepted, and has no outcome: {sorted(missing)[:5]}")
        if strange := set(ids) - self._clients.accepted.keys():
            raise Wrong(f"nobody was told of it: {sorted(strange)[:5]}")
        for task in feed:
            if self._outcomes.setdefault(task["id"], _digest(task)) != _digest(task):
                raise Wrong(f"the outcome has changed: {task}")
        for order in self._clients.accepted.values():
            if len(order.ids) != 1:
                raise Wrong(f"{order.key}: one key, several tasks: {order.ids}")
        for name, heard in (("stream", self._ears.stream), ("follower", self._ears.follower)):
            self._check_heard(name, ids, heard)
        if self._ears.faults:
            raise Wrong("; ".join(self._ears.faults[:3]))

    def _check_heard(self, name: str, ids: list[str], hearing: list[Json]) -> None:
        try:
            eventually(lambda: len(hearing) >= len(ids))
        except AssertionError as exc:
            raise Wrong(f"the {name} has heard {len(hearing)} of {len(ids)}") from exc
        heard = list(hearing)
        heard_ids = [task["id"] for task in heard]
        if repeated := [task_id for task_id, count in Counter(heard_ids).items() if count > 1]:
            raise Wrong(f"the {name} heard twice: {repeated[:5]}")
        if heard_ids != ids:
            raise Wrong(f"the {name} missed something, or heard it in another order: {set(ids) ^ set(heard_ids)}")
        for task in heard:
            if _digest(task) != self._outcomes[task["id"]]:
                raise Wrong(f"the {name} heard another outcome: {task}")

    def _check_task(self, task: Json, order: Order, jobs: int) -> None:
        self._check_outcome(task, order)
        anew = order.decisions.count("create")
        if jobs > 1 + anew:
            raise Wrong(f"{order.key} ({order.algorithm}): {jobs} jobs, {anew} of them by decision")
        # Whoever cancels wants an end: one attempt to learn of the job, and if that is lost, too, a person is asked.
        if order.decisions and order.algorithm != "none" and not order.cancelled:
            raise Wrong(f"{order.key} ({order.algorithm}): was unknown, though the provider could tell: {task}")
        if not order.decisions and jobs != 1 and not (order.cancelled and task["status"] == "cancelled"):
            raise Wrong(f"{order.key} ({order.algorithm}): {jobs} jobs, outcome {task}")
        if order.algorithm == "none" and order.script.get("create_errors") and not order.decisions and jobs:
            raise Wrong(f"{order.key}: its create's answer was lost, and nobody was asked: {task}")

    def _check_outcome(self, task: Json, order: Order) -> None:
        end = order.script.get("end", "succeeded")
        attached = "attach" in order.decisions
        match task["status"], task.get("reason"):
            case "succeeded", _:
                right = (end == "succeeded" or attached) and task["result"] == order.key
            case "failed", "provider":
                right = end == "failed"
            case "cancelled", "client":
                right = order.cancelled
            case "cancelled", "dropped":
                right = "drop" in order.decisions
            case _:
                right = False
        if not right:
            raise Wrong(f"an outcome that cannot be: {task}, of {order}")


def _digest(task: Json) -> str:
    return hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()
