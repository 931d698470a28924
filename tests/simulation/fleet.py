"""Simulated fleets: three daemons on the rules of the real server's script, with its trouble and theirs.

The server is a real Valkey of the process that runs the worlds; each call to it is made in place, so that what happens
follows from the seed alone. It goes away for all or for one node, and loses answers to what it has done.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio
from loguru import logger

from creche.config import StoreSection
from creche.core.exchange import Peer, Request, Response
from creche.core.redis_url import read_redis_url
from creche.core.task import ENDS, Status, Task
from creche.edges.store_redis import RedisStore
from creche.edges.store_redis_member import RedisMembership
from creche.edges.store_redis_server import RedisServer
from creche.engine.others import Link
from creche.engine.ports import Entry, Query
from creche.errors import StoreUnavailable
from creche.service_store import OpenStore
from tests.disk import Disk
from tests.redis_servers import NOT_KEPT, Server
from tests.simulation.checks import AT_PROVIDER, SLACK_S, Checks
from tests.simulation.clients import Clients
from tests.simulation.history import HOUR_S, TROUBLE_S, History
from tests.simulation.kinds import KINDS, MAX_INLINE
from tests.simulation.story import Violation
from tests.simulation.world import EPOCH_S, PEER, Gone, Life, World

T = TypeVar("T")

NODES = 3
ADOPTION_S = 60.0
"""Until the tasks of a node that is gone are minded by another, with all that may come between."""

# Small hashes and sets are listed in the order of insertion, and so the same for every seed.
_ORDERLY = ("--hash-max-listpack-value", "100000", "--hash-max-listpack-entries", "10000")


@contextlib.contextmanager
def fleet_server(folder: Path) -> Iterator[Server]:
    """The Valkey of one process; every world empties it."""
    with Server(folder / "valkey", *NOT_KEPT, *_ORDERLY) as server:
        yield server


class FleetWorld(World):
    """What outlives the daemons of one seed; `lives` are theirs."""

    def __init__(self, seed: int, folder: Path, disk: Disk, nursery: trio.Nursery, server: Server) -> None:
        super().__init__(seed, folder, disk, nursery)
        server.client.flushall()
        self.server = server
        self.lives: list[FleetLife | None] = [None] * NODES
        self.away = False
        self.lossy = 0.0
        self.troubled: list[tuple[float, float]] = []
        """From when to when a node or the server was away."""
        self.clock_touched = True  # the nodes' clocks differ
        self.skew_s = self.chance.choice([0.0, 3.0])
        self.observer = self._open_observer()

    def _open_observer(self) -> RedisStore:
        store = RedisStore(self._server_of(), max_inline=MAX_INLINE, wall=lambda: EPOCH_S)
        store.open()
        return store

    def _server_of(self) -> RedisServer:
        return RedisServer(read_redis_url(self.server.url), prefix="creche", durable=False, replicas=0)

    def close(self) -> None:
        """Nobody looks on any more."""
        self.observer.close()

    @property
    def living(self) -> list[FleetLife]:
        """The daemons that are up."""
        return [life for life in self.lives if life is not None and life.view is not None and not life.over]

    async def start_node(self, number: int) -> None:
        """Start one; it is up when this returns, or it found no server, and ended."""
        self.story.tell(f"world: node {number} starts")
        life = self.lives[number] = FleetLife(self, number)
        self.nursery.start_soon(life.live)
        await life.settled.wait()
        if life.fault is not None and not self.away:
            raise life.fault
        if self.living:
            self.up.set()

    async def end_node(self, number: int, *, gently: bool) -> None:
        """As a SIGTERM, or a SIGKILL."""
        life = self.lives[number]
        if life is None or life.over:
            return
        began = self.uptime()
        if gently:
            self.story.tell(f"world: node {number} is asked to stop")
            life.wire.stopped_at = trio.current_time()
            life.stopping.set()
        else:
            life.die()
        await life.ended.wait()
        self.trouble_since(began)
        if gently and life.fault is not None:
            raise life.fault

    def trouble_since(self, began: float) -> None:
        """What began then is over; it may be felt for a while."""
        over = self.uptime()
        self.troubled.append((began, over + ADOPTION_S))
        self.disturbed += [over + part * ADOPTION_S / 4 for part in range(5)]

    async def ask(self, method: str, path: str, body: bytes = b"", **query: object) -> Response:
        """One request to one of them. Raises `Gone`; whether it was done is then not known."""
        doors = [life for life in self.living if life.handle is not None]
        if not doors:
            raise Gone
        life = self.chance.choice(doors)
        pairs = tuple((name, str(value)) for name, value in query.items())
        peer: Peer = PEER
        request = Request(method=method, path=path, query=pairs, headers={}, body=body, peer=peer)
        with trio.CancelScope() as scope:
            life.calls.add(scope)
            try:
                assert life.handle is not None
                return await life.handle(request)
            finally:
                life.calls.discard(scope)
        await trio.lowlevel.checkpoint()
        raise Gone


class FleetLife(Life):
    """One daemon of a fleet. `cut_off`: it reaches the providers and its clients, but not the server."""

    def __init__(self, world: FleetWorld, number: int) -> None:
        super().__init__(world)
        self._fleet_world = world
        self._number = number
        self._skew_s = world.chance.uniform(-world.skew_s, world.skew_s) / 2
        self.cut_off = False

    @property
    def over(self) -> bool:
        """Whether it has ended, or does so."""
        return self.dead or self.stopping.is_set() or self.ended.is_set()

    def wall(self) -> float:
        return super().wall() + self._skew_s

    def host(self) -> str:
        return f"host-{self._number}"

    def die(self) -> None:
        """From now on nothing that it does has any effect."""
        super().die()
        if self._fleet_world.living:
            self._fleet_world.up.set()

    @asynccontextmanager
    async def open_store(self, section: StoreSection) -> AsyncIterator[OpenStore]:
        if not self._reachable:
            raise StoreUnavailable("the world has no server")
        server = self._fleet_world._server_of()
        store = RedisStore(server, max_inline=section.max_inline_bytes, wall=self.wall)
        store.open()
        try:
            link = Link(RedisMembership(server), self._in_place, self._in_place)
            yield OpenStore(store, self._in_place, self._in_place, link)
        finally:
            store.close()

    @property
    def _reachable(self) -> bool:
        return not (self._fleet_world.away or self.cut_off)

    async def _in_place(self, function: Callable[[], T], /) -> T:
        world = self._fleet_world
        if world.chance.random() < 0.1:
            await trio.sleep(world.chance.uniform(0, world.store_slow_s))
        await self._while_alive()
        if not self._reachable:
            await trio.sleep(world.chance.choice([0.0, 5.0]))
            await self._while_alive()
            raise StoreUnavailable("the server is away")
        try:
            answer = function()
            if world.lossy and world.chance.random() < world.lossy:
                raise StoreUnavailable("the answer was lost")
            return answer
        finally:
            await self._while_alive()


class FleetChecks(Checks):
    """The same promises, over all nodes."""

    def __init__(self, world: FleetWorld, clients: Clients, limits: dict[str, int], *, gentle: bool) -> None:
        super().__init__(world, clients, limits, gentle=gentle)
        self._fleet = world

    async def audit(self) -> None:
        """Look again and again at all that are up."""
        while True:
            await trio.sleep(self._fleet.chance.uniform(1, 15))
            for one in self._fleet.lives:
                if one is not None and one.view is not None and one.fault is not None:
                    raise one.fault  # a node that was up ends only when it is told to
            held = dict.fromkeys(self._limits, 0)
            for life in self._fleet.living:
                assert life.view is not None
                roster = life.view._supervisor.roster
                live = {task_id: one.task for task_id, one in roster.lives.items()}
                at_provider = {task_id for task_id, task in live.items() if task.status in AT_PROVIDER}
                holders = {task_id for name in KINDS for task_id in roster.slots(name).holders}
                if not at_provider <= holders <= live.keys():
                    found = f"{sorted(at_provider - holders)} have none, {sorted(holders - live.keys())} are not minded"
                    raise Violation("slots are those of tasks at the provider", found)
                for name in held:
                    held[name] += len(roster.slots(name).holders)
            for name, limit in self._limits.items():
                # Who is or was cut off still holds what others have taken over.
                troubled = self._is_cut_off() or self._troubled(self._fleet.uptime())
                if held[name] > limit + len(self._clients.attached_at) and not troubled:
                    raise Violation("no more jobs are in flight than the limit", f"{name}: {held[name]} of {limit}")

    def _troubled(self, at: float) -> bool:
        return any(start - SLACK_S <= at <= end + SLACK_S for start, end in self._fleet.troubled)

    def _is_cut_off(self) -> bool:
        return self._fleet.away or any(life.cut_off for life in self._fleet.living)

    def _on_disk(self, task_id: str) -> Task | None:
        return self._fleet.observer.get(task_id)

    def _killed_behind(self, arrived_at: list[float]) -> bool:
        return any(self._troubled(at) for at in arrived_at)

    def look_back(self) -> None:
        """All that can be told from what is left."""
        self.final(_Everything(self._fleet.observer))  # type: ignore[arg-type]


class _Everything:
    """The store as the checks want it: of all nodes."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.result_of = store.result_of

    def feed_after(self, seq: int, limit: int) -> list[Entry]:
        return self._store.feed_after(seq, limit)

    def unfinished(self) -> list[Task]:
        return self._store.list_tasks(Query(statuses=frozenset(set(Status) - ENDS), limit=1000)).tasks


class FleetHistory(History):
    """One seed's history of a fleet."""

    def __init__(self, world: FleetWorld) -> None:
        super().__init__(world)
        chance = world.chance
        self._fleet = world
        self._strikes = chance.choice([["kill"], ["stop"], ["cut"], ["away"], ["lossy"], _ALL, _ALL, _ALL])
        self._gentle = False
        self.clients = Clients(world, tasks=chance.choice([3, 8, 14]), until_s=TROUBLE_S, start_at=False)
        self.checks: FleetChecks = FleetChecks(world, self.clients, {"token": 3, "plain": 3}, gentle=False)
        world.store_slow_s = 0.05
        world.network.on_sent = self.checks.sent
        address = f'url = "{world.server.url}"\n'
        self._variants = [text.replace("[store]\n", f"[store]\n{address}") for text in self._variants]
        world.config = self._variants[0]

    async def happen(self) -> None:
        """Live through it, then check."""
        world = self._fleet
        sink = logger.add(self._hear, level="DEBUG", format="")
        try:
            for number in range(NODES):
                await world.start_node(number)
            async with trio.open_nursery() as watching:
                for run in (self.clients.listen, self.clients.look, self.clients.operate, self.checks.audit):
                    watching.start_soon(run)
                watching.start_soon(self._raise_what_is_wrong)
                async with trio.open_nursery() as doing:
                    doing.start_soon(self._go_wrong)
                    doing.start_soon(self.clients.run, trio.Event())
                await self._have_all_up()
                await self._come_to_rest()
                watching.cancel_scope.cancel()
            for number in range(NODES):
                await world.end_node(number, gently=True)
        finally:
            logger.remove(sink)
        self.checks.look_back()

    async def _raise_what_is_wrong(self) -> None:
        while True:
            await trio.sleep(10)
            if self.world.story.violation is not None:
                raise self.world.story.violation

    # -- what goes wrong ---------------------------------------------------------------------------------

    async def _go_wrong(self) -> None:
        world, chance = self._fleet, self.world.chance
        while world.uptime() < TROUBLE_S:
            await trio.sleep(chance.uniform(5, 250))
            strike, number = chance.choice(self._strikes), chance.randrange(NODES)
            if strike in {"kill", "stop"}:
                await self._wait_for_a_bad_moment()
                await world.end_node(number, gently=strike == "stop")
                await trio.sleep(chance.choice([0.1, chance.uniform(0, 10), chance.uniform(0, 200)]))
                await world.start_node(number)
            elif strike == "cut":
                await self._wait_for_a_bad_moment()
                await self._cut_off(world.lives[number])
            else:
                await self._trouble_the_server(strike)

    async def _cut_off(self, life: FleetLife | None) -> None:
        world, chance = self._fleet, self.world.chance
        if life is None or life.over:
            return
        began, life.cut_off = world.uptime(), True
        world.story.tell(f"world: node {life.host()} is cut off")
        await trio.sleep(chance.choice([chance.uniform(0, 15), chance.uniform(15, 60), chance.uniform(60, 300)]))
        life.cut_off = False
        world.story.tell(f"world: node {life.host()} is back")
        world.trouble_since(began)

    async def _trouble_the_server(self, strike: str) -> None:
        world, chance = self._fleet, self.world.chance
        began = world.uptime()
        world.story.tell(f"world: the server is {strike}")
        if strike == "away":
            world.away = True
            await trio.sleep(chance.choice([chance.uniform(0, 15), chance.uniform(15, 200)]))
        else:
            world.lossy = 0.3
            await trio.sleep(chance.uniform(1, 100))
        world.away, world.lossy = False, 0.0
        world.story.tell("world: the server is well")
        world.trouble_since(began)
        await self._have_all_up(calm=False)

    async def _have_all_up(self, *, calm: bool = True) -> None:
        if calm:
            self._calm_down()
        for number, life in enumerate(self._fleet.lives):
            if life is None or life.over:
                await self._fleet.start_node(number)

    # -- the end -----------------------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        world = self._fleet
        with trio.move_on_after(3 * HOUR_S):
            while True:
                await trio.sleep(20)
                response = await world.ask("GET", "/v1/tasks", status="unfinished")
                if b'"tasks":[]' in response.body and world.uptime() > HOUR_S:
                    break
        await trio.sleep(30)
        for life in world.living:
            assert life.view is not None
            roster = life.view._supervisor.roster
            for live in roster.lives.values():
                raise Violation("everything comes to rest when nothing is wrong", str(live.task.status), live.task.id)
            held = {task_id for name in KINDS for task_id in roster.slots(name).holders}
            if held or len(life.view._tools.pulse):
                raise Violation("at rest nothing is held", f"{sorted(held)}")


_ALL = ["kill", "kill", "stop", "cut", "cut", "away", "lossy"]
