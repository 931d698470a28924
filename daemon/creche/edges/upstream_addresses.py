"""Where a provider is: the addresses of its name, kept for a minute, and looked up once for a crowd that asks."""

from __future__ import annotations

import errno
import functools
import ipaddress
import math
import socket

import trio

Address = tuple[socket.AddressFamily, tuple[object, ...] | str]
"""Where to connect: what getaddrinfo says, without the parts that are the same for all TCP addresses, or a path."""

KEPT_S = 60.0
"""How long a name's addresses are used before it is looked up again; the resolver does not tell how long it may be."""

LOOKUPS = 32
"""How many names are looked up at once. A thread that asks a dead name server cannot be ended, and lives for up to half
a minute after its caller gave up: such threads must neither grow in number nor be those that others wait for."""


class OnASocket:
    """A Unix socket has one address, which is its path."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def get(self) -> list[Address]:
        """The path."""
        return [(socket.AF_UNIX, self._path)]

    def forget(self) -> None:
        """There is nothing to look up."""


class Addresses:
    """The addresses of one host. `lookups` bounds the threads of all hosts together.

    `public_only`: those of this machine and of the networks around it are as good as none. The name was chosen by
    somebody else, and so is where it leads.
    """

    def __init__(self, host: str, port: int, lookups: trio.CapacityLimiter, *, public_only: bool = False) -> None:
        self._public_only = public_only
        self._host = host
        self._port = port
        self._lookups = lookups
        self._known: list[Address] = []
        self._known_until = -math.inf
        self._looking_up = trio.Lock()

    async def get(self) -> list[Address]:
        """In the order in which to try them. Raises `OSError`. Cancelled, it returns at once."""
        # The lock makes one lookup out of those of a crowd.
        async with self._looking_up:
            now = trio.current_time()
            if now >= self._known_until:
                self._known = _alternate(await self._look_up())
                self._known_until = now + KEPT_S
            return self._known

    def forget(self) -> None:
        """Look up again the next time: where these led to, nobody answers."""
        self._known_until = -math.inf

    async def _look_up(self) -> list[Address]:
        ask = functools.partial(socket.getaddrinfo, self._host, self._port, type=socket.SOCK_STREAM)
        try:
            found = ask(flags=socket.AI_NUMERICHOST)  # asks nobody
        except socket.gaierror:
            found = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._lookups)
        addresses: list[Address] = [(family, where) for family, _, _, _, where in found]
        if self._public_only:
            addresses = [address for address in addresses if ipaddress.ip_address(str(address[1][0])).is_global]
            if not addresses:
                raise OSError(errno.EACCES, "it has no public address, and an answer of the provider named it")
        return addresses


def _alternate(addresses: list[Address]) -> list[Address]:
    """Move the first address of the other family to the second place: where IPv6 is broken, one wait is enough."""
    for place, (family, _) in enumerate(addresses):
        if family != addresses[0][0]:
            return [addresses[0], addresses[place], *addresses[1:place], *addresses[place + 1 :]]
    return addresses
