"""What Prometheus scrapes, read from the engine at the moment of the scrape, so that nothing drifts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from creche.core.histogram import Histogram
from creche.core.task import Status
from creche.core.wire_status import FleetOut


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The engine at one moment. Ages in seconds."""

    version: str
    node: str
    counts: Mapping[tuple[str, Status], int]
    conditions: Mapping[str, Mapping[str, int]]
    events: Counter[tuple[str, str, str]]
    slots: Mapping[str, tuple[int, int]]
    breakers: Mapping[str, bool]
    listeners: int
    feed_head: int
    heartbeat_age_s: float | None
    listeners_behind: int
    loop_lag: Histogram
    poll_lateness: Histogram
    oldest_s: Mapping[str, float]
    durations: Mapping[str, Histogram]
    latency: Mapping[tuple[str, str], Histogram]
    commit_s: Histogram
    batches: Histogram
    webhooks: Mapping[tuple[str, str], int]
    outbox: tuple[int, int]
    store_fault: bool
    heartbeats_fault: bool
    draining: bool
    fleet: FleetOut | None


class Metrics(Collector):
    """Serves `snapshot` in the text format."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def expose(self) -> bytes:
        """The page to be scraped, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing in advance: the registry would ask for a snapshot before there is an engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric of creche; docs/reference/metrics.md lists them and a test compares."""
        now = self._snapshot()
        info = GaugeMetricFamily("creche_info", "Always 1; the labels tell what runs.", labels=["version", "node"])
        info.add_metric([now.version, now.node], 1)
        yield info
        tasks = GaugeMetricFamily("creche_tasks", "Unfinished tasks.", labels=["algorithm", "status"])
        for (algorithm, status), number in now.counts.items():
            tasks.add_metric([algorithm, status.value], number)
        yield tasks
        conditions = GaugeMetricFamily(
            "creche_conditions", "Tasks whose provider cannot be asked properly.", labels=["algorithm", "condition"]
        )
        for algorithm, found in now.conditions.items():
            for condition, number in found.items():
                conditions.add_metric([algorithm, condition], number)
        yield conditions
        yield from _times(now)
        yield from _events(now.events)
        yield from _slots(now.slots)
        breakers = GaugeMetricFamily(
            "creche_breaker_open", "1 while the provider is away and one task at a time asks.", labels=["algorithm"]
        )
        for algorithm, is_open in now.breakers.items():
            breakers.add_metric([algorithm], is_open)
        yield breakers
        yield GaugeMetricFamily("creche_listeners", "Connected listeners.", value=now.listeners)
        yield GaugeMetricFamily(
            "creche_listeners_behind", "WebSocket listeners that are not up to date.", value=now.listeners_behind
        )
        yield GaugeMetricFamily("creche_feed_head", "Number of the newest outcome in the feed.", value=now.feed_head)
        if now.heartbeat_age_s is not None:
            yield GaugeMetricFamily(
                "creche_heartbeat_age_seconds", "Time since the last heartbeat of all tasks.", value=now.heartbeat_age_s
            )
        yield _histogram("creche_loop_lag_seconds", "How late the loop woke a task that was due.", now.loop_lag)
        yield _histogram("creche_poll_lateness_seconds", "How late polls began after they were due.", now.poll_lateness)
        yield _histogram("creche_commit_seconds", "How long commits to the store took.", now.commit_s)
        yield _histogram("creche_commit_writes", "How many writes a commit had.", now.batches)
        yield from _webhooks(now)
        yield GaugeMetricFamily("creche_store_fault", "1 while the store cannot be written.", value=now.store_fault)
        yield GaugeMetricFamily(
            "creche_heartbeats_fault", "1 while Redis does not take the heartbeats.", value=now.heartbeats_fault
        )
        yield GaugeMetricFamily("creche_draining", "1 while the daemon stops.", value=now.draining)
        if now.fleet is not None:
            yield from _fleet(now.fleet)


def _times(now: Snapshot) -> Iterator[Metric]:
    oldest = GaugeMetricFamily(
        "creche_oldest_task_seconds", "Time since the oldest unfinished task was accepted.", labels=["algorithm"]
    )
    for algorithm, age_s in now.oldest_s.items():
        oldest.add_metric([algorithm], age_s)
    yield oldest
    durations = HistogramMetricFamily(
        "creche_task_seconds", "How long tasks took, from acceptance to end.", labels=["algorithm"]
    )
    for algorithm, histogram in now.durations.items():
        durations.add_metric([algorithm], buckets=histogram.cumulated(), sum_value=histogram.total)
    yield durations
    latency = HistogramMetricFamily(
        "creche_provider_seconds",
        "How long answers of providers took that were waited for.",
        labels=["algorithm", "request"],
    )
    for labels, histogram in now.latency.items():
        latency.add_metric(list(labels), buckets=histogram.cumulated(), sum_value=histogram.total)
    yield latency


def _webhooks(now: Snapshot) -> Iterator[Metric]:
    webhooks = CounterMetricFamily(
        "creche_webhooks", "Attempts to deliver messages by what came of them.", labels=["endpoint", "result"]
    )
    for attempt, number in now.webhooks.items():
        webhooks.add_metric(list(attempt), number)
    yield webhooks
    pending, given_up = now.outbox
    yield GaugeMetricFamily("creche_webhooks_pending", "Messages that are yet to be delivered.", value=pending)
    yield GaugeMetricFamily("creche_webhooks_given_up", "Messages that were given up.", value=given_up)


def _fleet(fleet: FleetOut) -> Iterator[Metric]:
    yield GaugeMetricFamily("creche_fleet_members", "Nodes of the fleet.", value=len(fleet.nodes))
    orphans = sum(fleet.orphans.values())
    yield GaugeMetricFamily("creche_fleet_orphans", "Tasks of nodes that are gone, not taken over yet.", value=orphans)
    yield GaugeMetricFamily("creche_fleet_waiting", "Tasks that no node has room for.", value=fleet.waiting)
    yield CounterMetricFamily("creche_fleet_adopted", "Tasks that this node has taken over.", value=fleet.adopted)
    yield GaugeMetricFamily(
        "creche_fleet_lease_seconds", "For how long this node may go on without renewing.", value=fleet.lease_s
    )


def _events(events: Counter[tuple[str, str, str]]) -> Iterator[Metric]:
    families = {
        "accepted": ("creche_tasks_accepted", "Tasks accepted since the start.", ()),
        "settled": ("creche_tasks_settled", "Tasks settled since the start.", ("status",)),
        "creates": ("creche_creates", "Create requests by result (good, or an error's code).", ("result",)),
        "polls": ("creche_polls", "Polls by result (good, or an error's code).", ("result",)),
        "assets": ("creche_assets", "Files of results by what became of them (good, or an error's code).", ("result",)),
    }
    for event, (name, about, labels) in families.items():
        family = CounterMetricFamily(name, about, labels=["algorithm", *labels])
        for (kind, algorithm, result), number in sorted(events.items()):
            if kind == event:
                family.add_metric([algorithm, result] if labels else [algorithm], number)
        yield family


def _histogram(name: str, about: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, about, buckets=histogram.cumulated(), sum_value=histogram.total)


def _slots(slots: Mapping[str, tuple[int, int]]) -> Iterator[Metric]:
    held = GaugeMetricFamily("creche_slots_held", "Jobs in flight that hold a slot.", labels=["algorithm"])
    waiting = GaugeMetricFamily("creche_slots_waiting", "Tasks that wait for a slot.", labels=["algorithm"])
    for algorithm, (holders, queue) in slots.items():
        held.add_metric([algorithm], holders)
        waiting.add_metric([algorithm], queue)
    yield held
    yield waiting
