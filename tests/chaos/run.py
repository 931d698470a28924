"""The real daemon, ill-treated a thousand times, and a count of what the provider saw: `scripts/test-chaos`."""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos import fleet, fleet_recovery
from tests.chaos.checks import Checker
from tests.chaos.clients import Clients, Ears
from tests.chaos.recipes import RECIPES, config
from tests.chaos.recovery import measure
from tests.chaos.strikes import Strikes, small_disk
from tests.process.running import COMMAND, Daemon, Simulator, simulator_url

LOOK_EVERY = 25
"""Cycles from one look at everything to the next."""

NEW_EACH = 16
"""Tasks ordered anew in each cycle."""

LATENCY = "30ms"


def campaign(cycles: int, seed: int, only: list[str]) -> None:
    """Start the daemon and strike, `cycles` times. Raises Wrong when the promise is broken."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable one is wanted
    begun = time.monotonic()
    with contextlib.ExitStack() as ends:
        folder = Path(tempfile.mkdtemp(prefix="creche-", dir="/tmp"))
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        disk = small_disk(folder)
        daemon, simulator = _processes(ends, folder, (disk or folder) / "creche.db")
        name = folder.name
        clients = Clients(daemon, simulator, chance, name)
        ears = ends.enter_context(Ears(daemon.socket))
        strikes = Strikes(daemon, simulator, chance, disk)
        kinds = [kind for kind in strikes.kinds if not only or kind in only]
        if missing := [kind for kind in only if kind not in strikes.kinds]:
            raise SystemExit(f"test-chaos: no such kind, or not on this machine: {', '.join(missing)}")
        checker = Checker(daemon, simulator, clients, ears, name)
        done: Counter[str] = Counter()
        for number in range(1, cycles + 1):
            kind = chance.choice(kinds)
            clients.order(NEW_EACH)
            daemon.launch()
            strike = strikes.begin(kind)
            while strike.is_alive():
                clients.work()
                time.sleep(0.01)
            strike.finish()
            done[kind] += 1
            if number % LOOK_EVERY == 0 or number == cycles:
                daemon.start()
                checker.drain()
                for order in chance.sample(list(clients.accepted.values()), 20):
                    clients.submit_again(order)
                checker.check()
                daemon.stop()
                _say(number, done, clients, time.monotonic() - begun)
        daemon.end()


def _processes(ends: contextlib.ExitStack, folder: Path, store: Path) -> tuple[Daemon, Simulator]:
    url = ends.enter_context(simulator_url())
    for name, recipe in RECIPES.items():
        (folder / f"{name}.toml").write_text(recipe, encoding="utf-8")
    daemon = Daemon(
        folder,
        config(url, store),
        command=COMMAND,
        environ={},
        pass_fds=(),
        socket_path=folder / "creche.sock",
    )
    ends.callback(lambda: daemon.kill() if daemon.running else None)
    # What is done to it may be said, and nothing else at ERROR.
    for text in ("the store cannot be written", "could not be saved", "cannot accept connections for now"):
        daemon.expect(text)
    return daemon, Simulator(url)


def _say(number: int, done: Counter[str], clients: Clients, took_s: float) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.items()))
    unknown = sum(bool(order.decisions) for order in clients.orders.values())
    print(  # noqa: T201
        f"{number} cycles ({kinds}), {len(clients.accepted)} tasks accepted and ended, {unknown} of them were unknown "
        f"for a while, {took_s:.0f} s; none lost, none created twice, no outcome changed, no gap, no repeat",
        flush=True,
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="scripts/test-chaos", description="The real daemon, ill-treated.")
    parser.add_argument("--cycles", type=int, default=200, help="how often it is started and struck (default: 200)")
    parser.add_argument("--seed", type=int, default=None, help="where the choices come from")
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="one kind of strike, repeatable")
    parser.add_argument("--fleet", action="store_true", help="three daemons that share a Valkey, which is struck, too")
    parser.add_argument("--recovery", action="store_true", help="instead measure the rate before and after a kill")
    given = parser.parse_args()
    if given.recovery and given.fleet:
        return fleet_recovery.measure()
    if given.recovery:
        with contextlib.ExitStack() as ends:
            folder = Path(tempfile.mkdtemp(prefix="creche-", dir="/tmp"))
            ends.callback(shutil.rmtree, folder, ignore_errors=True)
            daemon, _ = _processes(ends, folder, folder / "creche.db")
            return measure(daemon)
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    print(f"test-chaos: seed {seed}", flush=True)  # noqa: T201
    (fleet.campaign if given.fleet else campaign)(given.cycles, seed, given.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
