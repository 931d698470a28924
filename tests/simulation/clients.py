"""Those who use the daemon of a simulated world: as programs that lose their connection, time and again, would."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from creche.core.exchange import Response
from tests.simulation.kinds import KINDS
from tests.simulation.story import Violation
from tests.simulation.world import EPOCH_S, Gone, World

RUNS_ON = frozenset({"accepted", "creating", "waiting", "processing", "paused", "cancelling", "unknown"})


class Clients:
    """All clients of one world, and what they were told."""

    def __init__(self, world: World, tasks: int, until_s: float, *, start_at: bool) -> None:
        self._world = world
        self._start_at = start_at
        self._until_s = until_s
        self.tasks = tasks
        self.accepted: dict[str, str] = {}
        """The algorithm of each task that a 202 or 200 was seen for, by id."""
        self.wishes: set[str] = set()
        """Tasks whose cancel was answered with 202 while they had no end."""
        self.decided: dict[str, int] = {}
        """How often a person had a job made for a task anew, or gave it up."""
        self.heard: list[str] = []
        self.ends: dict[str, bytes] = {}
        """What each task was seen to have ended as, and when."""
        self.ended_at: dict[str, float] = {}
        self.attached_at: dict[str, float] = {}

    async def run(self, quiet: trio.Event) -> None:
        """Submit all tasks and cancel some; the others go on until `quiet`."""
        async with trio.open_nursery() as nursery:
            for number in range(self.tasks):
                nursery.start_soon(self._submit_and_cancel, number)
        quiet.set()

    async def _until_answered(self, method: str, path: str, body: bytes = b"", **query: object) -> Response:
        """Ask until there is an answer that is one."""
        world = self._world
        while True:
            try:
                response = await world.ask(method, path, body, **query)
            except Gone:
                await world.up.wait()
            else:
                if response.status != 503:
                    return response
            await trio.sleep(world.chance.uniform(0.2, 3))

    async def _submit_and_cancel(self, number: int) -> None:
        world = self._world
        chance = world.chance
        await trio.sleep(chance.uniform(0, self._until_s * 0.7))
        algorithm = chance.choice(sorted(KINDS))
        task: dict[str, Any] = {"algorithm": algorithm, "input": {"n": number}, "priority": chance.randint(-1, 1)}
        if chance.random() < 0.8:
            task["key"] = f"key-{number}"
        else:
            task["id"] = f"id-{number}"
        task["deadline"] = chance.choice([40, 300, 3600])
        if self._start_at and chance.random() < 0.1:
            task["start_at"] = _time_of_day(world, chance.uniform(-10, 120))
        body = msgspec.json.encode(task)
        response = await self._until_answered("POST", "/v1/tasks", body)
        if response.status not in {200, 202}:
            raise Violation("a good submit is accepted", f"{response.status} {response.body!r}")
        shown = msgspec.json.decode(response.body)
        self.accepted[shown["id"]] = algorithm
        world.story.tell(f"client: told that it is accepted ({response.status})", shown["id"])
        if chance.random() < 0.3:
            await trio.sleep(chance.choice([0.0, chance.uniform(0, 5), chance.uniform(0, 90)]))
            await self._cancel(shown["id"])
        if chance.random() < 0.3:
            await self._repeat(body, shown["id"])

    async def _repeat(self, body: bytes, task_id: str) -> None:
        """A submit that comes again finds the first task."""
        await trio.sleep(self._world.chance.uniform(0, 100))
        response = await self._until_answered("POST", "/v1/tasks", body)
        found = msgspec.json.decode(response.body).get("id")
        if response.status != 200 or found != task_id:
            raise Violation("a repeated submit finds the first task", f"{response.status} {found}", task_id)

    async def _cancel(self, task_id: str) -> None:
        response = await self._until_answered("POST", f"/v1/tasks/{task_id}/cancel")
        shown = msgspec.json.decode(response.body)
        self._world.story.tell(f"client: cancel answered with {response.status}", task_id)
        if response.status == 202 and shown["status"] in RUNS_ON:
            self.wishes.add(task_id)

    # -- those who look on -------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Follow the feed across restarts, each time from the cursor it has; no outcome that was seen changes."""
        cursor = "oldest"
        while True:
            try:
                response = await self._world.ask("GET", "/v1/results", since=cursor, limit=3, wait="20s")
            except Gone:
                await self._world.up.wait()
                continue
            if response.status == 200:
                page = msgspec.json.decode(response.body)
                if page["resync"]:
                    raise Violation("a listener that resumes misses nothing", f"resync behind {cursor}")
                for task in page["results"]:
                    self.heard.append(task["id"])
                    self._world.story.tell(f"listener: heard {task['status']}", task["id"])
                    self._see_end(task)
                cursor = page["cursor"]
            await trio.sleep(0.2)

    def _see_end(self, task: dict[str, Any]) -> None:
        end = msgspec.json.encode([task.get(name) for name in ("status", "reason", "message", "result")])
        self.ended_at.setdefault(task["id"], self._world.uptime())
        if self.ends.setdefault(task["id"], end) != end:
            raise Violation("an outcome never changes", f"{self.ends[task['id']]!r}, then {end!r}", task["id"])

    async def look(self) -> None:
        """Now and then somebody shows a task, and waits for it."""
        world = self._world
        while True:
            await trio.sleep(world.chance.uniform(5, 200))
            if not self.accepted:
                continue
            task_id = world.chance.choice(sorted(self.accepted))
            try:
                response = await world.ask("GET", f"/v1/tasks/{task_id}", wait="30s")
            except Gone:
                continue
            if response.status == 200:
                task = msgspec.json.decode(response.body)
                if task["status"] not in RUNS_ON:
                    self._see_end(task)
            elif response.status != 503:
                raise Violation("an accepted task is there", f"{response.status}", task_id)

    async def operate(self) -> None:
        """Somebody looks for unknown tasks, looks at the provider, and decides."""
        world = self._world
        while True:
            await trio.sleep(world.chance.uniform(20, 200))
            try:
                response = await world.ask("GET", "/v1/tasks", status="unknown")
            except Gone:
                continue
            if response.status == 200:
                for task in msgspec.json.decode(response.body)["tasks"]:
                    await self._resolve(task["id"], task["algorithm"])

    async def _resolve(self, task_id: str, algorithm: str) -> None:
        world = self._world
        jobs = world.providers[algorithm].jobs_of(task_id)
        action = world.chance.choice(["attach", "attach", "create", "drop"] if jobs else ["create", "drop"])
        decision: dict[str, Any] = {"action": action}
        if action == "attach":
            decision["job"] = jobs[-1].id
            self.attached_at[task_id] = world.uptime()
        # Counted before it is answered: the answer may be lost.
        if action != "attach":
            self.decided[task_id] = self.decided.get(task_id, 0) + 1
        world.story.tell(f"operator: decides to {action}", task_id)
        try:
            await world.ask("POST", f"/v1/tasks/{task_id}/resolve", msgspec.json.encode(decision))
        except Gone:
            return


def _time_of_day(world: World, from_now_s: float) -> str:
    """As clients write it."""
    return datetime.fromtimestamp(EPOCH_S + world.uptime() + world.set_by_s + from_now_s, UTC).isoformat()
