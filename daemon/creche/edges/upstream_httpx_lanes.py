"""The connections of `HttpxUpstream`: which there are to one origin, and which of them the next request takes."""

from __future__ import annotations

import math

import httpcore2
import trio

from creche.edges.upstream_addresses import Addresses
from creche.edges.upstream_httpx_wire import Wire
from creche.edges.upstream_origin import OriginStatistics
from creche.edges.upstream_request import Place

_STREAMS = 100
"""How many requests share an HTTP/2 connection: what httpcore2 allows at most. Servers may allow fewer."""


class Lane:
    """One connection: httpcore2's, the wire below it, and how many requests are on it."""

    __slots__ = ("agreed", "connection", "idle_since", "spoiled", "users", "wire")

    def __init__(self, connection: httpcore2.AsyncConnectionInterface, wire: Wire) -> None:
        self.connection = connection
        self.wire = wire
        self.users = 1
        self.idle_since = 0.0
        self.spoiled = False
        """Whether no further request may use it: one was cut off on it, or either side wants to close."""
        self.agreed = trio.Event()
        """Set when the protocol is known, or when it will never be."""

    def has_room(self, oldest: float) -> bool:
        """Whether a request may use it that wants none which was idle since before `oldest`."""
        if self.spoiled:
            return False
        if self.users:
            # Not before it is agreed upon: cancelled while it begins a connection, httpcore2 leaves it half begun.
            return self.agreed.is_set() and self.wire.multiplexed and self.users < _STREAMS
        return self.idle_since >= oldest


class Origin:
    """One scheme, host and port: its slots, its connections with the one used last on the right.

    `addresses` are its own, or its proxy's.
    """

    def __init__(self, place: Place, addresses: Addresses, *, slots: int) -> None:
        self.place = place
        self.addresses = addresses
        self.slots = trio.Semaphore(slots, max_value=slots)
        self.lanes: list[Lane] = []
        self.first: trio.Event | None = None
        """Set when it is known whether a connection that is being made can be shared; None: none is waited for."""
        self.shares_none = False
        """Whether the provider was seen to speak no HTTP/2."""
        self._limit = slots

    async def take_kept(self, idle_s: float) -> Lane | None:
        """The connection used last that is still good and has room; those found bad on the way are closed."""
        oldest = trio.current_time() - idle_s
        while (lane := next((lane for lane in reversed(self.lanes) if lane.has_room(oldest)), None)) is not None:
            lane.users += 1
            quiet = lane.users > 1  # what comes on a shared connection is for the others
            try:
                quiet = quiet or await lane.wire.is_quiet()
            finally:
                if not quiet:
                    self.close(lane)
            if quiet:
                return lane
        return None

    def add(self, lane: Lane, *, shared: bool) -> None:
        """A new connection, which is about to be made. `shared`: others may wait for it to be shared."""
        self.lanes.append(lane)
        if shared and self.first is None and not self.shares_none:
            self.first = lane.agreed

    def agree(self, lane: Lane) -> None:
        """A connection is made, and its protocol known."""
        self.shares_none = not lane.wire.multiplexed
        self._tell(lane)

    def give_back(self, lane: Lane, *, keep: bool) -> None:
        """A request has ended."""
        self._tell(lane)
        lane.users -= 1
        if lane.users == 0 and (lane.spoiled or not keep):
            self.close(lane)
        else:
            lane.idle_since = trio.current_time()
            self.lanes.remove(lane)
            self.lanes.append(lane)

    def make_room(self) -> None:
        """Close the oldest idle connections, so that the one to be made is within the limit."""
        self.close_idle(keep=self._limit - 1)

    def close_idle(self, *, until: float = math.inf, keep: int = 0) -> None:
        """Close idle connections that were used last at `until` or before, oldest first, but let `keep` in all be."""
        for lane in [lane for lane in self.lanes if not lane.users and lane.idle_since <= until]:
            if len(self.lanes) > keep:
                self.close(lane)

    def close(self, lane: Lane) -> None:
        """Close one, whatever is on it."""
        lane.wire.close()
        self.lanes.remove(lane)

    def is_used(self) -> bool:
        return bool(self.lanes) or self.slots.value < self._limit

    def statistics(self) -> OriginStatistics:
        idle = sum(not lane.users for lane in self.lanes)
        return OriginStatistics(len(self.lanes), idle, self.slots.statistics().tasks_waiting)

    def _tell(self, lane: Lane) -> None:
        if self.first is lane.agreed:
            self.first = None
        lane.agreed.set()
