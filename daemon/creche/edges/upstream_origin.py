"""What is kept for one provider's origin: slots, idle connections, addresses."""

from __future__ import annotations

import math
from collections import deque

import msgspec
import trio

from creche.edges.upstream_addresses import Addresses, OnASocket
from creche.edges.upstream_connection import Connection
from creche.edges.upstream_request import UNIX, Place


class OriginStatistics(msgspec.Struct, frozen=True):
    """One origin: connections `open` (with those being made), `idle` of them, and requests `waiting` for a slot."""

    open: int
    idle: int
    waiting: int


class Origin:
    """One scheme, host and port: its slots, its idle connections with the one used last on the right, its addresses.

    `free` slots may be taken by counting them down; whoever took one calls `give_slot` at the end.
    """

    def __init__(self, place: Place, lookups: trio.CapacityLimiter, *, slots: int) -> None:
        self.place = place
        self.free = slots
        self._line = trio.lowlevel.ParkingLot()
        self.idle: deque[Connection] = deque()
        self.addresses = (
            OnASocket(place.host)
            if place.scheme == UNIX
            else Addresses(place.host, place.port, lookups, public_only=place.public_only)
        )
        self._limit = slots

    async def take_slot(self) -> None:
        """Wait for a slot, in the order of asking. Cancelled, it leaves the line."""
        if self.free:
            await trio.lowlevel.checkpoint_if_cancelled()
            self.free -= 1
        else:
            await self._line.park()  # who gives a slot hands it over

    def give_slot(self) -> None:
        """Give back a slot."""
        if not self._line.unpark():
            self.free += 1

    def take_idle(self, used_since: float) -> Connection | None:
        """The connection used last that is still good; those found bad or too old on the way are closed."""
        while self.idle:
            connection = self.idle.pop()
            if connection.idle_since >= used_since and connection.is_quiet():
                return connection
            connection.close()
        return None

    def drop(self, connection: Connection) -> None:
        """Something came on an idle connection: nobody can use it any more."""
        if connection in self.idle:
            self.idle.remove(connection)
        connection.close()

    def make_room(self) -> None:
        """Close the oldest idle connections, so that with the one to be made each has its own slot."""
        self.close_idle(keep=self.free)

    def close_idle(self, *, until: float = math.inf, keep: int = 0) -> None:
        """Close the idle connections that were used last at `until` or before, oldest first, but for `keep`."""
        while len(self.idle) > keep and self.idle[0].idle_since <= until:
            self.idle.popleft().close()

    def is_used(self) -> bool:
        """Whether anything is kept for it."""
        return bool(self.idle) or self.free < self._limit

    def statistics(self) -> OriginStatistics:
        """What is open now."""
        # A slot handed over and the idle connection that its new holder has not taken yet are one.
        opened = min(self._limit, self._limit - self.free + len(self.idle))
        return OriginStatistics(opened, len(self.idle), len(self._line))
