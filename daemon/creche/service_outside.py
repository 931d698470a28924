"""What the daemon takes from the world around it: clocks, chance, and every edge that touches something.

There is one of it in a process. A simulation gives the daemon another one, with clocks, a network and a disk of its
own; the daemon cannot tell.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import trio

from creche.config import Config, HeartbeatsSection, StoreSection, load
from creche.edges.front import Handle, Refuse, Upgrade
from creche.engine.ports import Heartbeats
from creche.engine.timetable import Timetable
from creche.service_parts import (
    Transports,
    make_front,
    make_heartbeats,
    make_upstreams,
    open_listeners,
)
from creche.service_store import OpenStore, open_store


class Door(Protocol):
    """Where clients come in: `Front`, or what a simulation has in its place.

    `serve` serves until cancelled, or after `last_requests` until the last connection has ended.
    """

    async def serve(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Ready when clients can connect."""

    async def last_requests(self) -> None:
        """Accept no more; returns when whoever had connected before has been heard."""


class Outside:
    """The real world. `inherited` are listening sockets that take the place of the configured ones."""

    def __init__(self, inherited: Sequence[int] = ()) -> None:
        self._inherited = inherited

    def wall(self) -> float:
        """Unix seconds: what people call the time. It may be set, and then jumps."""
        return time.time()

    def uptime(self) -> float:
        """Seconds since the machine was started, those of its sleep included; nobody can set it."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def host(self) -> str:
        """What the machine is called, for people."""
        return socket.gethostname()

    def dice(self) -> float:
        """A number from 0 to 1, by chance."""
        return random.random()  # noqa: S311 - spreads load, keeps no secret

    def load(self, path: Path | None) -> Config:
        """The configuration. Raises `ConfigError`."""
        return load(path, os.environ)

    def open_store(self, section: StoreSection) -> AbstractAsyncContextManager[OpenStore]:
        """The store, open. Raises `StartError`."""
        return open_store(section, self.wall)

    def make_upstreams(self, config: Config, timetable: Timetable, may_create: Callable[[], bool]) -> Transports:
        """What carries requests to providers. Raises `StartError`."""
        return make_upstreams(config, os.environ, timetable, may_create)

    def make_heartbeats(self, section: HeartbeatsSection, name: str) -> Heartbeats | None:
        """Where beats are shown to others, if anywhere. Raises `StartError`."""
        return make_heartbeats(section, name)

    def open_listeners(self, config: Config) -> AbstractAsyncContextManager[list[trio.SocketListener]]:
        """What clients connect to, open. Raises `StartError`."""
        return open_listeners(config, self._inherited)

    def make_front(self, config: Config, *, handle: Handle, refuse: Refuse, upgrade: Upgrade) -> Door:
        """Where clients come in."""
        return make_front(config, handle=handle, refuse=refuse, upgrade=upgrade)
