"""A stop that comes while the daemon still starts."""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio

from creche.config import StoreSection, load
from creche.edges.systemd import Notifier
from creche.service import SIGNALS, _serve_until_signalled
from creche.service_outside import Outside
from creche.service_store import OpenStore


class Slow(Outside):
    """A world in which the store takes for ever to open."""

    def __init__(self) -> None:
        super().__init__()
        self.opening = trio.Event()

    @asynccontextmanager
    async def open_store(self, _: StoreSection) -> AsyncIterator[OpenStore]:
        """Never."""
        self.opening.set()
        await trio.sleep(math.inf)
        yield cast("OpenStore", None)


class Manager(Notifier):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(None)
        self.told: list[str] = []

    def _send(self, message: str) -> None:
        self.told.append(message.partition("\n")[0])


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_the_start(tmp_path: Path, number: signal.Signals) -> None:
    """At once, and the manager hears no more that it takes longer; a reload in that time is no news."""
    (tmp_path / "config.toml").write_text("")
    config = load(tmp_path / "config.toml", {"HOME": str(tmp_path)})
    outside, manager = Slow(), Manager()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_until_signalled, config, manager, None, outside)
            await outside.opening.wait()
            signal.raise_signal(signal.SIGHUP)
            await trio.sleep(0.05)
            assert manager.told == ["EXTEND_TIMEOUT_USEC=60000000"]
            signal.raise_signal(number)
    assert manager.told == ["EXTEND_TIMEOUT_USEC=60000000", "STOPPING=1"]
