"""What the daemon shows of itself, and its reload."""

from __future__ import annotations

from collections.abc import Sized

import msgspec
import trio
from loguru import logger

from creche import __version__
from creche.config import Config
from creche.core import wire, wire_status
from creche.core.fleet import decode_member
from creche.core.task import ENDS, Status
from creche.edges.metrics import Metrics, Snapshot
from creche.edges.stream import Stream
from creche.edges.systemd import Notifier
from creche.errors import ConfigError
from creche.service_figures import Engine, Figures
from creche.service_outside import Outside
from creche.service_parts import Transports, algorithms_of, routes_of
from creche.service_telling import reconfigure
from creche.service_watchdog import tell_of_life

MAX_SUMMARY = 500
RELOADABLE = frozenset({"algorithms", "analytics", "callbacks", "deadline_s", "source", "webhooks"})
"""Everything else needs a restart, which costs no task anything."""


class View:
    """The daemon as it is now. `addresses` are set once the listeners are up."""

    def __init__(
        self,
        config: Config,
        outside: Outside,
        engine: Engine,
        figures: Figures,
        *,
        upstreams: Transports,
        stream: Stream,
        events: Sized,
    ) -> None:
        self._config = config
        self._outside = outside
        self._supervisor = engine.supervisor
        self._tools = engine.tools
        self._feed = engine.feed
        self._lag = engine.lag
        self._node = engine.node
        self._fleet = engine.fleet
        self._outbox = engine.outbox
        self._figures = figures
        self._upstreams = upstreams
        self._stream = stream
        self._events = events
        self._metrics = Metrics(self._snapshot)
        self._started_at = outside.wall()
        self.addresses: list[str] = []

    def summary(self) -> str:
        """One line for systemd and the log: how much goes on, and what is wrong."""
        counts = self._figures.tasks()
        conditions = self._supervisor.roster.conditions()
        wrong = [
            *([f"{number} unknown"] if (number := counts[Status.UNKNOWN]) else []),
            *(f"{name}: {number} {what}" for name, found in conditions.items() for what, number in found.items()),
            *self._figures.faults(),
        ]
        said = f"tasks: {counts.total()}, listeners: {self._count_listeners()}"
        return "; ".join([said, *wrong]).replace("\n", " ")[:MAX_SUMMARY]

    async def tell_of_life(self, notifier: Notifier, watchdog_s: float | None) -> None:
        """Feed the watchdog of the service manager, as long as all is well."""
        # A fleet's server may be away for minutes, and all that asks for it waits: that is not the daemon's fault.
        answers = self._tools.journal.answers if self._fleet is None else trio.lowlevel.checkpoint
        await tell_of_life(notifier, watchdog_s, self.summary, answers, self._tools.timetable)

    def reload(self) -> None:
        """Read the configuration again; running tasks go on. A file that cannot be used changes nothing."""
        try:
            config = self._outside.load(self._config.source)
            algorithms = algorithms_of(config, self._upstreams)
        except ConfigError as exc:
            for mistake in exc.mistakes:
                logger.error("not reloaded: {}", mistake)
            return
        except Exception:  # noqa: BLE001 - whatever a file may hold, it must not end the daemon
            logger.exception("not reloaded, by a defect of creche")
            return
        # Of [upstream] the route is the algorithms' default, as the deadline is of [tasks].
        upstream = msgspec.structs.replace(self._config.upstream, route=config.upstream.route)
        self._config = msgspec.structs.replace(self._config, upstream=upstream)
        fields = [name for name in config.__struct_fields__ if name not in RELOADABLE]
        changed = [name for name in fields if getattr(config, name) != getattr(self._config, name)]
        if changed:
            logger.warning("changed, but only a restart puts it in force: {}", ", ".join(changed))
        self._supervisor.reload(algorithms)
        reconfigure(self._outbox, config, self._outside, self._upstreams)
        self._upstreams.keep_only(routes_of(config))
        # The rest stays as it is in force, and so is told again by the next reload.
        in_force = {name: getattr(config, name) for name in RELOADABLE - {"source"}}
        self._config = msgspec.structs.replace(self._config, **in_force)
        logger.info("reloaded, algorithms: {}", ", ".join(config.algorithms) or "none")

    def status(self) -> wire_status.StatusOut:
        """For `GET /v1/status`."""
        counts = self._figures.tasks()
        now = self._outside.wall()
        draining = self._supervisor.draining
        return wire_status.StatusOut(
            node=self._node,
            version=__version__,
            started_at=wire.utc(self._started_at),
            uptime_s=round(now - self._started_at, 3),
            ready=not draining and self._tools.journal.fault is None and self._tools.lease.holds(),
            draining=draining,
            tasks=counts,
            unfinished=counts.total(),
            conditions=self._supervisor.roster.conditions(),
            listening=self.addresses,
            allow_writes=self._config.tcp.allow_writes,
            listeners=self._count_listeners(),
            heartbeats="process" if self._config.heartbeats.url is None else "redis",
            cursor=self._feed.cursor(self._feed.head),
            faults=self._figures.faults(),
            fleet=self._fleet_out(),
        )

    def _fleet_out(self) -> wire_status.FleetOut | None:
        fleet = self._fleet
        heard = None if fleet is None else fleet.renewal
        if fleet is None or heard is None:
            return None
        nodes = [decode_member(told) for told in heard.members.values()]
        return wire_status.FleetOut(
            member=fleet.member,
            lease_s=round(self._tools.lease.left_s, 3),
            nodes=[
                wire_status.NodeOut(
                    id=node.id,
                    host=node.host,
                    version=node.version,
                    joined_at=wire.utc(node.joined_at),
                    silent_s=round(fleet.silent_s(node.id), 3),
                    tasks=node.tasks,
                    capacity=node.capacity,
                )
                for node in sorted(nodes, key=lambda node: node.joined_at)
            ],
            orphans=heard.gone,
            waiting=heard.waiting,
            tasks={status.value: count for status, count in heard.counts.items() if count and status not in ENDS},
            adopted=fleet.adopted,
        )

    def algorithms(self) -> list[wire_status.AlgorithmOut]:
        """For `GET /v1/algorithms`."""
        conditions = self._supervisor.roster.conditions()
        rows = []
        for section in self._config.algorithms.values():
            slots = self._supervisor.roster.slots(section.name)
            rows.append(
                wire_status.AlgorithmOut(
                    name=section.name,
                    recipe=section.kind.name,
                    title=section.kind.title,
                    base=section.base,
                    can_create=section.kind.can_create,
                    can_cancel=section.kind.can_cancel,
                    deadline_s=section.deadline_s,
                    poll_every_s=section.rhythm.every_s,
                    limit=section.in_flight,
                    in_flight=len(slots.holders),
                    waiting=slots.waiting,
                    conditions=conditions.get(section.name, {}),
                )
            )
        return rows

    def metrics(self) -> bytes:
        """For `GET /metrics`."""
        return self._metrics.expose()

    def _count_listeners(self) -> int:
        return len(self._stream) + len(self._events)

    def _snapshot(self) -> Snapshot:
        names = self._config.algorithms
        gates = {name: self._supervisor.roster.gate(name) for name in names}
        return Snapshot(
            version=__version__,
            node=self._node,
            counts=self._supervisor.roster.counts(),
            conditions=self._supervisor.roster.conditions(),
            events=self._tools.counts,
            slots={name: (len(gate.slots.holders), gate.slots.waiting) for name, gate in gates.items()},
            breakers={name: gate.breaker.is_open for name, gate in gates.items()},
            listeners=self._count_listeners(),
            feed_head=self._feed.head,
            heartbeat_age_s=self._tools.pulse.age_s(),
            listeners_behind=self._stream.behind,
            loop_lag=self._lag.histogram,
            poll_lateness=self._tools.lateness,
            oldest_s=self._oldest_s(),
            durations=self._tools.durations,
            latency=self._tools.latency,
            commit_s=self._tools.journal.commit_s,
            batches=self._tools.journal.batches,
            webhooks=self._outbox.counts,
            outbox=(self._outbox.pending, self._outbox.given_up),
            store_fault=self._tools.journal.fault is not None,
            heartbeats_fault=self._tools.pulse.fault is not None,
            draining=self._supervisor.draining,
            fleet=self._fleet_out(),
        )

    def _oldest_s(self) -> dict[str, float]:
        oldest: dict[str, float] = {}
        for live in self._supervisor.roster.lives.values():
            accepted_at, name = live.task.accepted_at, live.task.algorithm
            oldest[name] = min(oldest.get(name, accepted_at), accepted_at)
        now = self._tools.wall()
        return {name: round(now - accepted_at, 3) for name, accepted_at in oldest.items()}
