"""Daemons that share a server, as processes."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.process.running import ALGORITHM, COMMAND, Daemon, Json, eventually

CONFIG = """\
[socket]
path = "creche.sock"

[tcp]
port = 0

[log]
format = "json"

[store]
path = "creche.db"
url = "{url}"
"""
_SOONER = """
from creche.core import fleet
fleet.LEASE_S, fleet.GONE_AFTER_S = 4.0, 10.0
from creche.__main__ import main
main()
"""
IMPATIENT = (sys.executable, "-c", _SOONER)
"""A daemon that takes others for dead sooner. How soon it does by itself: `scripts/test-chaos --fleet --recovery`."""

AWAY = ("the store cannot be written", "could not be saved")
"""What a node says at ERROR while its server is away."""

MakeNode = Callable[..., Daemon]


@contextlib.contextmanager
def nodes(url: str, simulator_url: str) -> Iterator[MakeNode]:
    """`make(extra, store=…)`: one more node of the fleet on the server at `url`, not started yet."""
    with contextlib.ExitStack() as ends:
        folder = Path(tempfile.mkdtemp(prefix="creche-", dir="/tmp"))
        ends.callback(shutil.rmtree, folder)
        made: list[Daemon] = []

        def make(
            extra: str = "",
            *,
            store: str = "",
            files: Mapping[str, str] | None = None,
            command: Sequence[str] = COMMAND,
            environ: Mapping[str, str] | None = None,
        ) -> Daemon:
            own = folder / f"n{len(made)}"
            own.mkdir()
            for name, text in (files or {}).items():
                (own / name).write_text(text, encoding="utf-8")
            sim = ALGORITHM.format(name="sim", recipe="simulator", base=simulator_url)
            config = CONFIG.format(url=url) + store + sim + extra
            socket_path = own / "creche.sock"
            node = Daemon(own, config, command=command, environ=environ or {}, pass_fds=(), socket_path=socket_path)
            for text in AWAY:
                node.expect(text)
            made.append(node)
            ends.callback(node.end)
            return node

        yield make


def fleet(node: Daemon) -> Json:
    """What a node says of its fleet."""
    about: Json = node.client.status()["fleet"]
    return about


def tasks_by_node(node: Daemon) -> dict[str, int]:
    """How many tasks each node minds, as they say."""
    return {row["id"]: row["tasks"] for row in fleet(node)["nodes"]}


def wait_for_members(node: Daemon, count: int) -> None:
    """Until it has heard of so many."""
    eventually(lambda: len(fleet(node)["nodes"]) == count)
