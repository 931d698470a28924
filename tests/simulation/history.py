"""What befalls a world: drawn from its seed, until all is calm and everything must come to rest."""

from __future__ import annotations

import random

import trio
from loguru import logger

from creche.edges.store_sqlite import SqliteStore
from tests.disk import FULL, IOERR_FSYNC, READONLY
from tests.simulation.checks import Checks
from tests.simulation.clients import Clients
from tests.simulation.kinds import KINDS, MAX_INLINE
from tests.simulation.story import Violation
from tests.simulation.world import Gone, World

TROUBLE_S = 1800.0
HOUR_S = 3600.0

EXPECTED = ("the store cannot be written", "not reloaded")
"""How the lines at ERROR begin that a world's faults explain."""


class History:
    """One seed's history."""

    def __init__(self, world: World) -> None:
        self.world = world
        chance = world.chance
        # Some worlds have every kind of trouble, some one, some none but what befalls the daemon.
        self._trouble = chance.choice([0.0, 0.0, 0.02, 0.08])
        self._kinds = chance.choice([["kill"], ["stop"], ["store"], ["clock", "kill"], ["reload"], _ALL, _ALL, _ALL])
        self._gentle = self._trouble == 0 and "reload" not in self._kinds
        world.store_slow_s = chance.choice([0.05, 0.05, 8.0])
        self._every_s = chance.choice([2.0, 5.0, 15.0])
        self._variants = [self._config(chance) for _ in range(3 if "reload" in self._kinds else 1)]
        world.config = self._variants[0]
        self.clients = Clients(
            world, tasks=chance.choice([3, 8, 14]), until_s=TROUBLE_S, start_at="clock" not in self._kinds
        )
        self.checks = Checks(world, self.clients, {"token": 3, "plain": 3}, gentle=self._gentle)
        for provider in world.providers.values():
            provider.trouble = self._trouble
            provider.longest_s = chance.choice([20.0, 120.0, 600.0])
            if self._trouble:
                starts = [chance.uniform(0, TROUBLE_S) for _ in range(2)]
                status = chance.choice([503, 429, 401])
                provider.away = [(start, start + chance.uniform(5, 300), status) for start in starts]
        world.network.trouble = self._trouble
        world.network.on_sent = self.checks.sent

    def _config(self, chance: random.Random) -> str:
        timeout = 'on_timeout = "cancel"\n' if chance.random() < 0.5 else ""
        text = ['[store]\npath = "creche.db"\nmax_inline = "1KiB"\n[tcp]\nenabled = false\n[upstream]\n']
        form = chance.choice(["a", "a", "b"]) if self._kinds is not _ALL else "a"
        for kind in KINDS.values():
            more = f"in_flight = {chance.choice([2, 3])}\n" if kind.name in {"token", "plain"} else ""
            more += 'on_unknown = "retry"\n' if kind.anew else ""
            text.append(
                f'[algorithms.{kind.name}]\nrecipe = "{kind.name}.toml"\nsecret = "${{env:KEY}}"\n'
                f'poll_every = "{self._every_s:g}s"\nparams = {{ form = "{form}" }}\n{more}{timeout}'
            )
        return "".join(text)

    async def happen(self) -> None:
        """Live through it, then check."""
        world = self.world
        sink = logger.add(self._hear, level="DEBUG", format="")
        try:
            await world.start()
            async with trio.open_nursery() as watching:
                for run in (self.clients.listen, self.clients.look, self.clients.operate, self.checks.audit):
                    watching.start_soon(run)
                watching.start_soon(self._look_at_unknown)
                async with trio.open_nursery() as doing:
                    doing.start_soon(self._go_wrong)
                    doing.start_soon(self.clients.run, trio.Event())
                self._calm_down()
                await self._come_to_rest()
                watching.cancel_scope.cancel()
            await world.stop()
        finally:
            logger.remove(sink)
        store = SqliteStore(world.folder / "creche.db", max_inline=MAX_INLINE)
        store.open()
        try:
            self.checks.final(store)
        finally:
            store.close()

    def _hear(self, message: object) -> None:
        record = message.record  # type: ignore[attr-defined]  # loguru's own
        text: str = record["message"]
        self.world.story.tell(f"daemon: {text}", record["extra"].get("task"))
        if record["level"].no >= 40 and not text.startswith(EXPECTED) and "could not be saved" not in text:
            self.world.story.accuse(Violation("the daemon has no defect", text, record["extra"].get("task")))

    async def _look_at_unknown(self) -> None:
        while True:
            await trio.sleep(10)
            if self.world.story.violation is not None:
                raise self.world.story.violation
            life = self.world.life
            if self.world.up.is_set() and life is not None and life.view is not None:
                for live in life.view._supervisor.roster.lives.values():
                    if live.task.status == "unknown":
                        self.checks.unknown(live.task.id, live.task.algorithm, live.task.note)

    # -- what goes wrong ---------------------------------------------------------------------------------

    async def _go_wrong(self) -> None:
        world, chance = self.world, self.world.chance
        while world.uptime() < TROUBLE_S:
            await trio.sleep(chance.uniform(5, 250))
            match chance.choice(self._kinds):
                case "kill":
                    await self._wait_for_a_bad_moment()
                    await world.crash()
                    await self._restart()
                case "stop":
                    await self._wait_for_a_bad_moment()
                    await world.stop()
                    await self._restart()
                case "store":
                    await self._break_store()
                case "clock":
                    await self._jump()
                case "reload":
                    await self._reload()

    async def _wait_for_a_bad_moment(self) -> None:
        """Just when a job has been made and the answer is on its way; or at any other."""
        made = trio.Event()
        provider = self.world.chance.choice(list(self.world.providers.values()))
        provider.on_made = made.set
        with trio.move_on_after(self.world.chance.choice([0.0, self.world.chance.uniform(0, 60)])):
            await made.wait()
            await trio.sleep(self.world.chance.choice([0.0, self.world.chance.uniform(0, 1.2)]))
        provider.on_made = lambda: None

    async def _restart(self) -> None:
        chance = self.world.chance
        await trio.sleep(chance.choice([0.1, chance.uniform(0, 10), chance.uniform(0, 400)]))
        await self.world.start()
        while chance.random() < 0.3:
            await trio.sleep(chance.uniform(0, 2))
            await self.world.crash()
            await self.world.start()

    async def _break_store(self) -> None:
        world, chance = self.world, self.world.chance
        world.story.tell("world: the disk fails")
        # Writing fails, from some operation of the next commit on; reading does not.
        full_at = trio.current_time()
        world.disk.error = chance.choice([FULL, IOERR_FSYNC, READONLY])
        world.disk.fails_at = world.disk.operations + chance.randint(0, 5)
        await trio.sleep(chance.uniform(0.1, 120))
        if chance.random() < 0.3:
            await world.crash()
            await self._restart()
        world.disk.mend()
        world.full.append((full_at, trio.current_time()))
        world.story.tell("world: the disk works again")
        world.disturbed.append(world.uptime())

    async def _jump(self) -> None:
        world, chance = self.world, self.world.chance
        world.clock_touched = True
        if chance.random() < 0.5:
            world.slept_s += (slept_s := chance.uniform(1, 500))
            world.story.tell(f"world: the machine slept for {slept_s:.0f} s")
            world.disturbed.append(world.uptime())
        else:
            world.set_by_s += (set_by_s := chance.choice([-90_000.0, -100.0, 100.0, 90_000.0]))
            world.story.tell(f"world: the clock was set by {set_by_s:.0f} s")
        # Who is killed before he has looked at the clock cannot tell that it was set.
        await trio.sleep(12)

    async def _reload(self) -> None:
        world = self.world
        world.config = world.chance.choice(self._variants)
        world.story.tell("world: the configuration is read again")
        if world.life is not None and world.life.view is not None and world.up.is_set():
            world.life.view.reload()

    # -- the end -----------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        self.world.story.tell("world: all is calm")
        self.world.network.trouble = 0.0
        for provider in self.world.providers.values():
            provider.trouble, provider.away = 0.0, []

    async def _come_to_rest(self) -> None:
        world = self.world
        with trio.move_on_after(3 * HOUR_S):
            while True:
                await trio.sleep(20)
                try:
                    response = await world.ask("GET", "/v1/tasks", status="unfinished")
                except Gone:
                    raise Violation("the daemon stays up when nothing is wrong", "it is gone") from None
                if b'"tasks":[]' in response.body and world.uptime() > HOUR_S:
                    break
        await trio.sleep(30)
        assert world.life is not None
        assert world.life.view is not None
        supervisor = world.life.view._supervisor
        for live in supervisor.roster.lives.values():
            raise Violation("everything comes to rest when nothing is wrong", str(live.task.status), live.task.id)
        held = {task_id for name in KINDS for task_id in supervisor.roster.slots(name).holders}
        if held or len(world.life.view._tools.pulse):
            raise Violation("at rest nothing is held", f"{sorted(held)}")


_ALL = ["kill", "kill", "stop", "store", "clock", "reload"]
