"""Three real daemons on one real Valkey, all four ill-treated: `scripts/test-chaos --fleet`."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.checks import Checker
from tests.chaos.clients import Clients, Ears
from tests.chaos.recipes import RECIPES, config
from tests.chaos.strikes import Strike
from tests.process.fleet import AWAY
from tests.process.running import COMMAND, START_S, Daemon, Json, Simulator, eventually, simulator_url
from tests.redis_servers import AOF, Server

NODES = 3
LOOK_EVERY = 25
NEW_EACH = 16


class Nodes:
    """The fleet, as one daemon to those who use it: any node that lives is asked."""

    def __init__(self, nodes: list[Daemon], chance: random.Random) -> None:
        self.nodes = nodes
        self._chance = chance

    @property
    def client(self) -> Any:  # noqa: ANN401 - stands for a `Client`
        """Asks a node that was drawn for each question."""
        return self

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a method of `Client`
        living = [node for node in self.nodes if node.running] or self.nodes
        return getattr(self._chance.choice(living).client, name)

    def status(self) -> Json:
        """What the checks want of it: how much of the whole fleet has not ended."""
        return {"unfinished": sum(1 for _ in self.tasks(status=["unfinished"]))}

    def outcomes(self) -> list[Json]:
        """The feed, which is the same for all."""
        return self._chance.choice(self.nodes).outcomes()

    def check_log(self) -> None:
        """Of each."""
        for node in self.nodes:
            node.check_log()

    def start(self) -> None:
        """Have all of them up."""
        for node in self.nodes:
            if not node.running:
                node.launch()
        for node in self.nodes:
            eventually(lambda node=node: node.ready, START_S)  # type: ignore[misc]


class Strikes:
    """What is done to them, each at a moment drawn at random."""

    def __init__(self, nodes: Nodes, server: Server, simulator: Simulator, chance: random.Random) -> None:
        self._nodes = nodes
        self._server = server
        self._simulator = simulator
        self._chance = chance
        self.kinds: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "stop": self._stop,
            "freeze": lambda: self._freeze(chance.uniform(0.2, 3)),
            "zombie": lambda: self._freeze(chance.uniform(42, 55)),
            "server-kill": self._kill_server,
            "server-freeze": self._freeze_server,
            "lost": self._lose_replies,
        }

    def begin(self, kind: str) -> Strike:
        """Strike, in a thread."""
        thread = Strike(self.kinds[kind])
        thread.start()
        return thread

    def _one(self) -> Daemon:
        node = self._chance.choice(self._nodes.nodes)
        time.sleep(self._chance.uniform(0, 1))
        return node

    def _kill(self) -> None:
        node = self._one()
        node.kill()
        node.launch()

    def _stop(self) -> None:
        node = self._one()
        eventually(lambda: node.ready, START_S)
        node.terminate()
        assert node.wait(20) == 0, "a stop ended with an error"
        node.launch()

    def _freeze(self, for_s: float) -> None:
        node = self._one()
        node.signal(signal.SIGSTOP)
        time.sleep(for_s)
        node.signal(signal.SIGCONT)

    def _kill_server(self) -> None:
        time.sleep(self._chance.uniform(0, 1))
        self._server.kill()
        time.sleep(self._chance.uniform(0, 3))
        self._server.start()
        # Who had just been started found nothing to join.
        self._nodes.start()

    def _freeze_server(self) -> None:
        self._server.pause()
        time.sleep(self._chance.uniform(0.5, 12))
        self._server.resume()
        self._nodes.start()

    def _lose_replies(self) -> None:
        self._simulator.world(lose_replies=0.3, latency="50ms")
        time.sleep(self._chance.uniform(0.5, 2))
        self._simulator.world()


def campaign(cycles: int, seed: int, only: list[str]) -> None:
    """Strike `cycles` times. Raises Wrong when the promise is broken."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable one is wanted
    begun = time.monotonic()
    with contextlib.ExitStack() as ends:
        folder = Path(tempfile.mkdtemp(prefix="creche-", dir="/tmp"))
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        server = ends.enter_context(Server(folder / "valkey", *AOF))
        url = ends.enter_context(simulator_url())
        nodes = Nodes([_node(folder / f"n{number}", url, server.url) for number in range(NODES)], chance)
        for node in nodes.nodes:
            ends.callback(lambda node=node: node.kill() if node.running else None)  # type: ignore[misc]
        simulator = Simulator(url)
        named: Any = nodes
        clients = Clients(named, simulator, chance, folder.name)
        listeners = [ends.enter_context(Ears(node.socket)) for node in nodes.nodes]
        checkers = [Checker(named, simulator, clients, ears, folder.name) for ears in listeners]
        strikes = Strikes(nodes, server, simulator, chance)
        # One that freezes a node for a minute is rare, or nothing else would happen.
        kinds = [kind for kind in strikes.kinds if kind in only] or [
            kind for kind in strikes.kinds for _ in range(1 if kind == "zombie" else 6)
        ]
        done: Counter[str] = Counter()
        nodes.start()
        for number in range(1, cycles + 1):
            kind = chance.choice(kinds)
            clients.order(NEW_EACH)
            strike = strikes.begin(kind)
            while strike.is_alive():
                clients.work()
                time.sleep(0.01)
            strike.finish()
            done[kind] += 1
            if number % LOOK_EVERY == 0 or number == cycles:
                nodes.start()
                checkers[0].drain()
                for order in chance.sample(list(clients.accepted.values()), 20):
                    clients.submit_again(order)
                ended = set(clients.ended)
                for checker in checkers:
                    clients.ended = set(ended)
                    checker.check()
                _say(number, done, clients, time.monotonic() - begun)


def _node(folder: Path, provider_url: str, server_url: str) -> Daemon:
    folder.mkdir()
    for name, recipe in RECIPES.items():
        (folder / f"{name}.toml").write_text(recipe, encoding="utf-8")
    text = config(provider_url, folder / "creche.db").replace("[store]\n", f'[store]\nurl = "{server_url}"\n')
    node = Daemon(folder, text, command=COMMAND, environ={}, pass_fds=(), socket_path=folder / "creche.sock")
    # What is done to them may be said, and nothing else at ERROR. Who is started while the server is away ends.
    for said in (*AWAY, "cannot use the store", "cannot join the fleet", "cannot accept connections for now"):
        node.expect(said)
    return node


def _say(number: int, done: Counter[str], clients: Clients, took_s: float) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.items()))
    unknown = sum(bool(order.decisions) for order in clients.orders.values())
    print(  # noqa: T201
        f"{number} cycles ({kinds}), {len(clients.accepted)} tasks accepted and ended, {unknown} of them were unknown "
        f"for a while, {took_s:.0f} s; none lost, none created twice, no outcome changed, no gap, no repeat",
        flush=True,
    )
