"""One simulated world: the real service on a clock, a network and a disk that are not; all follows from a seed."""

from __future__ import annotations

import contextlib
import functools
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from creche.config import Config, HeartbeatsSection, StoreSection, load
from creche.core.exchange import Peer, Request, Response
from creche.edges.front import Handle, Refuse, Upgrade
from creche.edges.store_sqlite import SqliteStore
from creche.engine.ports import Heartbeats
from creche.engine.timetable import Timetable
from creche.service import serve
from creche.service_outside import Outside
from creche.service_parts import Transports
from creche.service_store import OpenStore
from creche.service_view import View
from tests.disk import Disk
from tests.simulation.kinds import KINDS, SECRET
from tests.simulation.network import Network, Wire
from tests.simulation.provider import Provider
from tests.simulation.story import Story, Violation

T = TypeVar("T")

ANSWERS_S = 3.0
"""How long a stop waits for the answers of those who are in."""

EPOCH_S = 1_800_000_000.0
PEER = Peer(address="client", local=True, pid=1, uid=0, gid=0)


def empty(folder: Path) -> None:
    """Leave nothing of a world in its folder."""
    for path in folder.iterdir():
        if path.is_dir():
            empty(path)
            path.rmdir()
        else:
            path.unlink()


class Gone(Exception):
    """The daemon is not there, or went away before it answered."""


class World:
    """What outlives the daemons of one seed: the providers and their network, the disk, the clocks, the story."""

    def __init__(self, seed: int, folder: Path, disk: Disk, nursery: trio.Nursery) -> None:
        self.seed = seed
        self.disk = disk
        self.chance = random.Random(seed)  # noqa: S311 - a repeatable one is wanted
        self.folder = folder
        self.nursery = nursery
        self.story = Story(self.uptime)
        self.slept_s = 0.0
        self.set_by_s = 0.0
        self.clock_touched = False
        self.skew_s = 0.0
        """By how much the clocks of two daemons may differ."""
        self.store_slow_s = 0.0
        self.config = ""
        self.providers = {
            name: Provider(kind, self.chance, self.uptime, self.story.tell) for name, kind in KINDS.items()
        }
        self.network = Network(self.providers, self.chance, nursery, self.story)
        self.hearts = Hearts()
        self.kills: list[float] = []
        self.full: list[tuple[float, float]] = []
        """From when to when the disk was full."""
        self.left: set[str] = set()
        """Tasks whose large result was on disk when the daemon was killed."""
        self.disturbed: list[float] = []
        """When what kept the daemon from its work was over: it was away, or its store was."""
        self.life: Life | None = None
        self.up = trio.Event()
        self._reader: sqlite3.Connection | None = None
        empty(folder)

    def reader(self) -> sqlite3.Connection:
        """A connection that reads what is on disk, whatever the daemon thinks."""
        if self._reader is None:
            path = self.folder / "creche.db"
            self._reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        return self._reader

    def close(self) -> None:
        """Nobody reads any more."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def uptime(self) -> float:
        """Seconds since the world began, those of suspends included."""
        return trio.current_time() + self.slept_s

    # -- the daemon's fate -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start a daemon; it is up when this returns. The power may fail while it starts."""
        self.life = life = Life(self)
        self.story.tell("world: the daemon starts")
        disk = self.disk
        if self.chance.random() < 0.2:
            disk.error = None
            disk.fails_at = disk.operations + self.chance.randint(1, 12)
        self.nursery.start_soon(life.live)
        await life.settled.wait()
        if disk.failing:
            await self._bury(life)
            return await self.start()
        disk.mend()
        if life.fault is not None:
            raise life.fault
        self.disturbed.append(self.uptime())
        if not life.dead:
            self.up.set()
        return None

    async def crash(self) -> None:
        """Its memory is gone, nothing more comes from it, and of its files nothing that was not synced is sure.

        At once, or in the middle of what it writes next.
        """
        life, disk = self.life, self.disk
        assert life is not None
        disk.error = None
        if self.chance.random() < 0.5:
            disk.fails_at = disk.operations + self.chance.randint(1, 12)
            with trio.move_on_after(30):
                await life.died.wait()
        disk.fails_at = 0
        await self._bury(life)

    async def _bury(self, life: Life) -> None:
        """It is dead, and the disk is as it would be found."""
        if not life.dead:
            life.die()
        await life.ended.wait()
        self.close()
        self.disk.after_power_loss(self.chance)
        with contextlib.suppress(FileNotFoundError):
            self.left |= {file.name for file in (self.folder / "creche.db.results").iterdir()}

    async def stop(self) -> None:
        """As a SIGTERM."""
        assert self.life is not None
        self.story.tell("world: the daemon is asked to stop")
        self.up = trio.Event()
        self.life.wire.stopped_at = trio.current_time()
        self.life.stopping.set()
        await self.life.ended.wait()
        if self.life.fault is not None:
            raise self.life.fault

    # -- its clients -------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, body: bytes = b"", **query: object) -> Response:
        """One request to the daemon. Raises `Gone`; whether it was done is then not known."""
        life = self.life
        if life is None or life.handle is None or life.dead or life.ended.is_set():
            raise Gone
        pairs = tuple((name, str(value)) for name, value in query.items())
        request = Request(method=method, path=path, query=pairs, headers={}, body=body, peer=PEER)
        with trio.CancelScope() as scope:
            life.calls.add(scope)
            try:
                return await life.handle(request)
            finally:
                life.calls.discard(scope)
        await trio.lowlevel.checkpoint()
        raise Gone


class Life(Outside):
    """One daemon, and all that it knows of the world."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.wire = Wire(world.network)
        self.story = world.story
        self._scope = trio.CancelScope()
        self.stopping = trio.Event()
        self.settled = trio.Event()
        self.ended = trio.Event()
        self.view: View | None = None
        self.handle: Handle | None = None
        self.calls: set[trio.CancelScope] = set()
        self.dead = False
        self.died = trio.Event()
        self.fault: Exception | None = None

    async def live(self) -> None:
        """Run it to its end, whichever that is."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self.view = await nursery.start(serve, self.load(None), self.stopping, self)
                    self.settled.set()
        except* Exception as group:  # noqa: BLE001 - the world hears of it
            self.fault = Violation("the daemon never falls over", repr(group.exceptions))
        finally:
            self.handle = None
            self.settled.set()
            self.ended.set()

    def die(self) -> None:
        """From now on nothing that it does has any effect."""
        self.dead = True
        self._world.story.tell("world: the daemon is killed")
        self._world.kills.append(trio.current_time())
        if self._world.up.is_set():  # else they wait for the next one already
            self._world.up = trio.Event()
        self.died.set()
        self.wire.die()
        self.hang_up()
        self._scope.cancel()

    def hang_up(self) -> None:
        """Nobody gets an answer any more."""
        for call in list(self.calls):
            call.cancel()

    # -- what it takes from the world --------------------------------------------------------------------

    def wall(self) -> float:
        return EPOCH_S + self._world.uptime() + self._world.set_by_s

    def uptime(self) -> float:
        return self._world.uptime()

    def dice(self) -> float:
        return self._world.chance.random()

    def load(self, path: Path | None) -> Config:  # noqa: ARG002 - there is one
        return _load(self._world.config, self._world.folder)

    @asynccontextmanager
    async def open_store(self, section: StoreSection) -> AsyncIterator[OpenStore]:
        store = SqliteStore(section.path, max_inline=section.max_inline_bytes)
        store.open()
        try:
            yield OpenStore(store, self._in_place, self._in_place)
        finally:
            store.close()

    async def _in_place(self, function: Callable[[], T], /) -> T:
        world = self._world
        if world.chance.random() < 0.1:
            await trio.sleep(world.chance.uniform(0, world.store_slow_s))
        await self._while_alive()
        try:
            return function()
        finally:
            if world.disk.failing and world.disk.error is None and not self.dead:
                self.die()  # in the middle of it
            await self._while_alive()

    async def _while_alive(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.dead:
            await trio.sleep_forever()

    def make_upstreams(
        self,
        config: Config,  # noqa: ARG002
        timetable: Timetable,  # noqa: ARG002
        may_create: Callable[[], bool],
    ) -> Transports:
        self.wire.may_create = may_create
        return self.wire

    def make_heartbeats(self, section: HeartbeatsSection, name: str) -> Heartbeats | None:  # noqa: ARG002
        return Pen(self, self._world.hearts)

    @asynccontextmanager
    async def open_listeners(self, config: Config) -> AsyncIterator[list[trio.SocketListener]]:  # noqa: ARG002
        yield []

    def make_front(self, config: Config, *, handle: Handle, refuse: Refuse, upgrade: Upgrade) -> Door:  # noqa: ARG002
        return Door(self, handle)


class Door:
    """Where clients come in, without sockets."""

    def __init__(self, life: Life, handle: Handle) -> None:
        self._life = life
        self._handle = handle
        self._closed = trio.Event()

    async def serve(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Let clients in until `stop`; who waits then for an answer may get it."""
        assert listeners == []
        self._life.handle = self._handle
        task_status.started()
        try:
            await self._closed.wait()
            if self._life.calls:
                await trio.sleep(ANSWERS_S)
        finally:
            self._life.hang_up()

    async def last_requests(self) -> None:
        """Let nobody in any more; who is in gets an answer."""
        self._life.handle = None
        self._closed.set()


class Hearts:
    """What outside monitors see: when each task last beat."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}


class Pen:
    """`Heartbeats` of one daemon."""

    def __init__(self, life: Life, hearts: Hearts) -> None:
        self._life = life
        self._hearts = hearts

    async def beat(self, *, alive: Sequence[str], ended: Sequence[str], active: Mapping[str, int], now: float) -> None:  # noqa: ARG002
        """Take it over, unless the daemon is dead."""
        await trio.lowlevel.checkpoint()
        if self._life.dead:
            await trio.sleep_forever()
        if sum(active.values()) != len(alive):
            found = f"{active} and {sorted(alive)}"
            self._life.story.accuse(Violation("the active tasks are those that beat", found))
        self._hearts.seen.update(dict.fromkeys(alive, self._life.uptime()))
        for task_id in ended:
            self._hearts.seen.pop(task_id, None)

    async def aclose(self) -> None:
        """Nothing to close."""


@functools.lru_cache(maxsize=256)
def _load(text: str, folder: Path) -> Config:
    for kind in KINDS.values():
        (folder / f"{kind.name}.toml").write_text(kind.recipe)
    path = folder / "config.toml"
    path.write_text(text)
    return load(path, {"KEY": SECRET})
