"""What the API says of the daemon itself: its algorithms, its state, its fleet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec


class AlgorithmOut(msgspec.Struct, frozen=True, kw_only=True):
    """What can be submitted. `in_flight` holds slots now, of `limit` (null: no limit); `waiting` wait for one.

    `conditions` tells how many tasks meet which condition of the provider now.
    """

    name: str
    recipe: str
    title: str
    base: str
    can_create: bool
    can_cancel: bool
    deadline_s: float
    poll_every_s: float
    limit: int | None
    in_flight: int
    waiting: int
    conditions: Mapping[str, int]


class Algorithms(msgspec.Struct, frozen=True):
    """Every algorithm of the configuration."""

    algorithms: list[AlgorithmOut]


class NodeOut(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a fleet, as it last told of itself, `silent_s` seconds ago. `capacity` is how many tasks it takes at
    most.
    """

    id: str
    host: str
    version: str
    joined_at: datetime
    silent_s: float
    tasks: int
    capacity: int


class FleetOut(msgspec.Struct, frozen=True, kw_only=True):
    """How the fleet is, as this node last heard.

    `member` is this node, `lease_s` for how many seconds it may go on without hearing anything. `orphans` are tasks of
    nodes that are gone, by node, `waiting` those that no node has room for. `tasks` counts the unfinished ones of the
    whole fleet by status; `adopted` those that this node took over since it was started.
    """

    member: str
    lease_s: float
    nodes: list[NodeOut]
    orphans: Mapping[str, int]
    waiting: int
    tasks: Mapping[str, int]
    adopted: int


class Stats(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="stats"):
    """This node in numbers (`?stats=1`).

    `tasks` counts the unfinished ones by status. `accepted`, `settled` (by status), `creates` and `polls` (by result)
    are totals since the start. `loop_lag_s` is the worst of the last seconds, `heartbeat_age_s` null before the first
    beat.
    """

    at: datetime
    tasks: Mapping[str, int]
    conditions: Mapping[str, Mapping[str, int]]
    accepted: int
    settled: Mapping[str, int]
    creates: Mapping[str, int]
    polls: Mapping[str, int]
    loop_lag_s: float
    heartbeat_age_s: float | None
    faults: list[str]


class StatusOut(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon is.

    `tasks` counts the unfinished ones by status; `faults` says what is wrong, one line each. `listening` are the
    socket's path and the URLs.

    `allow_writes` tells whether tasks may be submitted, cancelled and resolved over TCP; on the socket they always may.

    `heartbeats` is where they are kept: `redis` or `process`. `cursor` is where the feed stands. `fleet` is there where
    several nodes share one store; all else is about this node.
    """

    node: str
    version: str
    started_at: datetime
    uptime_s: float
    ready: bool
    draining: bool
    tasks: Mapping[str, int]
    unfinished: int
    conditions: Mapping[str, Mapping[str, int]]
    listening: list[str]
    allow_writes: bool
    listeners: int
    heartbeats: str
    cursor: str
    faults: list[str]
    fleet: FleetOut | None = None
