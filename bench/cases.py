"""The separate measurements, from submit to restart and a start storm. Each adds figures."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from contenders import CRECHE, FOR_EVER, POLL_EVERY_S
from load import Listeners, load, part, post
from machine import ROOT, Cost, each, wait_for
from minders import KEEPS_PACE, SATURATED, Pace, Setting, measure, wait_until_all_polled
from report import Figure, Missing, Report, say
from stage import Daemon, Stage, tls_is_missing

ON_TIME_S = 0.1
LATENESS = "creche_poll_lateness_seconds"
MANY = """
[many]
method = "POST"
url = "/v1/jobs/batch"
body = { ids = "$ids" }
max = 100
items = "/jobs"
id = "/id"
"""
"""What the provider of the benches adds to that of the shipped recipe."""


@dataclass(frozen=True)
class Sizes:
    """How large the cases are."""

    singles: int = 20_000
    connections: int = 32
    batches: int = 20
    batch_tasks: int = 1000
    listeners: int = 1000
    outcomes_per_s: int = 20
    outcomes: int = 200
    deaf: int = 50
    deaf_within_s: float = 60.0
    restart_tasks: int = 10_000
    small_tasks: int = 2000
    large_tasks: int = 20_000
    punctual_tasks: int = 10_000
    storm_tasks: int = 6000
    calm_per_s: int = 300
    batch_jobs: int = 10_000


SMOKE = Sizes(
    singles=100,
    connections=4,
    batches=2,
    batch_tasks=50,
    listeners=5,
    outcomes=10,
    deaf=1,
    deaf_within_s=0.0,
    restart_tasks=50,
    small_tasks=20,
    large_tasks=60,
    punctual_tasks=30,
    storm_tasks=30,
    calm_per_s=100,
    batch_jobs=30,
)


def submit(report: Report, sizes: Sizes, pace: Pace) -> None:  # noqa: ARG001 - cases have one form
    """Durable submits over the Unix socket, of tasks that then wait for a slot."""
    task: dict[str, object] = {"algorithm": "bench", "input": FOR_EVER}
    with Stage(latency_ms=5) as stage:
        daemon = stage.daemon(in_flight=1)
        singles = load(daemon.socket, [post("/v1/tasks", task)] * sizes.singles, connections=sizes.connections)
    with Stage(latency_ms=5) as stage:
        daemon = stage.daemon(in_flight=1)
        batch = post("/v1/tasks/batch", *[task] * sizes.batch_tasks)
        batches = load(daemon.socket, [batch] * sizes.batches, connections=1)
    at = f"{sizes.connections} connections, one task each"
    rate, batch_rate = sizes.singles / singles.took_s, sizes.batches * sizes.batch_tasks / batches.took_s
    report.figures += [
        Figure("submit", at, round(rate, 1), "tasks/s", goal=3000, at_least=True),
        Figure("submit, p99", at, round(part(singles.latencies_ms, 0.99), 2), "ms", goal=30),
        Figure(
            "submit",
            f"batches of {sizes.batch_tasks:,}, one after the other",
            round(batch_rate, 1),
            "tasks/s",
            goal=15_000,
            at_least=True,
        ),
    ]


def listeners(report: Report, sizes: Sizes, pace: Pace) -> None:
    """From the moment that an outcome bears, just before its commit, to the listener's read."""
    at = f"{sizes.listeners:,} WebSocket listeners, {sizes.outcomes_per_s} outcomes/s"
    with Stage(latency_ms=5) as stage:
        daemon = stage.daemon(poll_every="1s")
        crowd = Listeners(daemon.socket, sizes.listeners)
        first_ms = 1500
        runs_ms = (first_ms + 1000 * n // sizes.outcomes_per_s for n in range(sizes.outcomes))
        daemon.submit({"run_ms": run_ms} for run_ms in runs_ms)
        heard = crowd.hear(sizes.outcomes, within_s=pace.patience_s + 2 * sizes.outcomes / sizes.outcomes_per_s)
        crowd.close()
    say(f"{at}: hearing them took {100 * crowd.busy:.0f} % of a core")
    if crowd.busy > SATURATED:
        report.missing.append(Missing("outcome to listeners", "the listeners' side was too slow; figures are too high"))
    wanted = sizes.outcomes * sizes.listeners
    if len(heard) < wanted:
        report.missing.append(Missing("outcomes", f"{wanted - len(heard)} of {wanted} were not heard in time"))
    report.figures += [
        Figure("outcome to listeners, p50", at, round(part(heard, 0.5), 2) if heard else None, "ms"),
        Figure("outcome to listeners, p99", at, round(part(heard, 0.99), 2) if heard else None, "ms", goal=150),
    ]


def deaf(report: Report, sizes: Sizes, pace: Pace) -> None:
    """Some listeners read nothing: what that costs the others, and what they hear when they come back."""
    at = f"{sizes.listeners:,} WebSocket listeners, {sizes.deaf} of which do not read"
    with Stage(latency_ms=5) as stage:
        daemon = stage.daemon(poll_every="1s")
        start = daemon.client.status()["cursor"]
        silent = Listeners(daemon.socket, sizes.deaf)
        crowd = Listeners(daemon.socket, sizes.listeners - sizes.deaf)
        before_mib = daemon.process.cost().rss_bytes / 2**20
        # Large enough for more than the kernel keeps for one who does not read.
        labels = {f"label-{number}": "x" * 200 for number in range(20)}
        runs_ms = (1500 + 1000 * n // sizes.outcomes_per_s for n in range(sizes.outcomes))
        began = time.monotonic()
        daemon.submit(({"run_ms": run_ms} for run_ms in runs_ms), labels=labels)
        heard = crowd.hear(sizes.outcomes, within_s=pace.patience_s + 4 * sizes.outcomes / sizes.outcomes_per_s)
        after_mib = daemon.process.cost().rss_bytes / 2**20
        until = began + sizes.deaf_within_s
        while (left := daemon.client.status()["listeners"]) > sizes.listeners - sizes.deaf and time.monotonic() < until:
            time.sleep(0.2)
        silent.close()
        back = Listeners(daemon.socket, sizes.deaf, since=start)
        resumed = back.hear(sizes.outcomes, within_s=pace.patience_s + 30)
        back.close()
        crowd.close()
    for what, found, wanted in (
        ("outcomes", len(heard), sizes.outcomes * (sizes.listeners - sizes.deaf)),
        ("outcomes for those who came back", len(resumed), sizes.outcomes * sizes.deaf),
    ):
        if found != wanted:
            report.missing.append(Missing(what, f"{found} of {wanted} were heard in time"))
    report.figures += [
        Figure("outcome to those who read, p99", at, round(part(heard, 0.99), 2) if heard else None, "ms"),
        Figure("memory that it took", at, round(after_mib - before_mib, 1), "MiB", goal=50),
        Figure("cut because they do not read", at, sizes.listeners - left, "listeners"),
    ]


def restart(report: Report, sizes: Sizes, pace: Pace) -> None:
    """SIGTERM to the end of the process; then exec to the poll of the last unfinished task."""
    at = f"{sizes.restart_tasks:,} unfinished tasks"
    with Stage(latency_ms=5) as stage:
        daemon = stage.daemon()
        stage.mark()
        daemon.submit(FOR_EVER for _ in range(sizes.restart_tasks))
        wait_until_all_polled(stage, sizes.restart_tasks, within_s=pace.patience_s + 30)
        stop_s = daemon.stop()
        stage.mark()
        began = time.monotonic()
        daemon.start()
        daemon.wait_ready()
        ready_s = time.monotonic() - began
        wait_until_all_polled(stage, sizes.restart_tasks, within_s=pace.patience_s + 30)
        minded_s = time.monotonic() - began
    report.figures += [
        Figure("stop", at, round(stop_s, 2), "s", goal=5),
        Figure("start until ready", at, round(ready_s, 2), "s"),
        Figure("start until all are minded again", at, round(minded_s, 2), "s", goal=5),
    ]


def size(report: Report, sizes: Sizes, pace: Pace) -> None:
    """Memory and CPU per poll of many tasks, and how the latter grows."""
    with Stage(latency_ms=5) as stage:
        empty_mib = stage.daemon().process.cost().rss_bytes / 2**20
    small, large = Setting(sizes.small_tasks, 5), Setting(sizes.large_tasks, 5)
    pairs = [(measure(CRECHE, small, pace), measure(CRECHE, large, pace)) for _ in range(pace.runs)]
    growth = [many.cpu_us_per_poll / few.cpu_us_per_poll for few, many in pairs if few.cpu_s]
    memory_mib = statistics.median([many.rss_mib for _, many in pairs])
    per_task_kib = (memory_mib - empty_mib) * 1024 / sizes.large_tasks
    report.figures += [
        Figure("memory in all", str(large), round(memory_mib, 1), "MiB", goal=350e6 / 2**20),
        Figure("memory per task", str(large), round(per_task_kib, 2), "KiB", goal=15e3 / 1024),
        Figure(
            "CPU per poll, part of that of few tasks",
            f"{large} : {sizes.small_tasks:,}",
            round(statistics.median(growth), 3) if growth else None,
            "x",
            goal=1.1,
            runs=[round(one, 3) for one in growth],
        ),
    ]


def punctuality(report: Report, sizes: Sizes, pace: Pace) -> None:
    """Polls against when they were due, as the daemon says; heartbeats' age, looked at four times a second."""
    at = f"{sizes.punctual_tasks:,} tasks, 150 ms"
    ages_s: list[float] = []
    with Stage(latency_ms=150) as stage:
        daemon = stage.daemon()
        stage.mark()
        daemon.submit(FOR_EVER for _ in range(sizes.punctual_tasks))
        wait_until_all_polled(stage, sizes.punctual_tasks, within_s=pace.patience_s + 30)
        time.sleep(pace.warm_s)
        before = _lateness(daemon.metrics())
        until = time.monotonic() + pace.seconds
        while time.monotonic() < until:
            time.sleep(0.25)
            page = daemon.metrics()
            if age := re.search(r"^creche_heartbeat_age_seconds (\S+)$", page, re.MULTILINE):
                ages_s.append(float(age[1]))
        after = _lateness(page)
    on_time = None
    if before is None or after is None:
        report.missing.append(Missing(f"polls on time, {at}", f"the daemon has no metric {LATENESS} yet"))
    elif after[1] > before[1]:
        on_time = round(100 * (after[0] - before[0]) / (after[1] - before[1]), 2)
    report.figures += [
        Figure("polls within 100 ms of due", at, on_time, "%", goal=99, at_least=True),
        Figure("oldest heartbeat", at, round(max(ages_s), 2) if ages_s else None, "s", goal=2.5),
    ]


def _lateness(page: str) -> tuple[float, float] | None:
    """Polls that were late by 100 ms at most, and all."""
    counts = {
        float(limit): float(count)
        for limit, count in re.findall(LATENESS + r'_bucket{.*?le="([^"]+)".*?} (\S+)$', page, re.MULTILINE)
    }
    if not counts:
        return None
    return max(count for limit, count in counts.items() if limit <= ON_TIME_S), max(counts.values())


def storm(report: Report, sizes: Sizes, pace: Pace) -> None:
    """All tasks at once, over TLS, against the same number one by one."""
    if why := tls_is_missing():
        report.missing.append(Missing("start storm", why))
        return
    at = f"{sizes.storm_tasks:,} tasks at once, 150 ms, TLS"
    calm_mib, _, _ = _storm(sizes.storm_tasks, pace, per_s=sizes.calm_per_s)
    storm_mib, peak, on_time_s = _storm(sizes.storm_tasks, pace, per_s=None)
    report.figures += [
        Figure("start storm: connections", at, peak, "", goal=1000),
        Figure("start storm: until polls keep their pace", at, on_time_s, "s", goal=10),
        Figure("start storm: memory, part of a calm start's", at, round(storm_mib / calm_mib, 3), "x", goal=1.2),
    ]


def _storm(tasks: int, pace: Pace, *, per_s: int | None) -> tuple[float, int, float]:
    """Most memory in MiB, most connections, seconds from the first submit to the first round polled in time."""
    round_s = POLL_EVERY_S + 0.15
    with Stage(latency_ms=150, tls=True) as stage:
        daemon = stage.daemon()
        began = time.monotonic()
        if per_s is None:
            daemon.submit(FOR_EVER for _ in range(tasks))
        else:
            for _ in range(0, tasks, per_s // 4):
                daemon.submit(FOR_EVER for _ in range(per_s // 4))
                time.sleep(0.25)
        seen = [(time.monotonic(), stage.books()["polls"])]
        memory = [daemon.process.cost()]

        def keeps_pace() -> bool:
            memory.append(daemon.process.cost())
            now, polls = time.monotonic(), stage.books()["polls"]
            seen.append((now, polls))
            then, polls_then = next(entry for entry in reversed(seen) if entry[0] <= max(now - round_s, seen[0][0]))
            return now - then >= round_s and polls - polls_then >= KEEPS_PACE * tasks * (now - then) / round_s

        wait_for(keeps_pace, "polls keep their pace", within_s=pace.patience_s + 60, step_s=0.2)
        on_time_s = time.monotonic() - began - round_s
        time.sleep(pace.warm_s)
        memory.append(daemon.process.cost())
        return _most(memory), stage.books()["peak"], round(max(0.0, on_time_s), 2)


def batch(report: Report, sizes: Sizes, pace: Pace) -> None:
    """Jobs of one account, a hundred per request: requests for each poll, and what a poll costs then."""
    at = f"{sizes.batch_jobs:,} tasks of one account, 5 ms, a hundred per request"
    with Stage(latency_ms=5) as stage:
        recipe = (ROOT / "daemon/creche/recipes/simulator.toml").read_text(encoding="utf-8") + MANY
        (stage.folder / "batched.toml").write_text(recipe, encoding="utf-8")
        polls, requests, cpu_s = _mind(stage, stage.daemon(recipe="batched.toml"), sizes.batch_jobs, pace)
    report.figures += [
        Figure("requests per poll", at, round(requests / polls, 4), "x", goal=1 / 20),
        Figure("CPU per poll in batches", at, round(cpu_s / polls * 1e6, 1), "us"),
    ]


def news(report: Report, sizes: Sizes, pace: Pace) -> None:
    """What a poll costs when its answer differs from the last: all others are about jobs that say the same for long."""
    at = f"{sizes.storm_tasks:,} tasks, 5 ms, another progress with every answer"
    with Stage(latency_ms=5, news=True) as stage:
        polls, _, cpu_s = _mind(stage, stage.daemon(), sizes.storm_tasks, pace)
    report.figures.append(Figure("CPU per poll that brings news", at, round(cpu_s / polls * 1e6, 1), "us"))


def _mind(stage: Stage, daemon: Daemon, tasks: int, pace: Pace) -> tuple[int, int, float]:
    """Submit so many tasks, wait until all are minded and warm; then polls, requests and processor time for a while."""
    stage.mark()
    daemon.submit(FOR_EVER for _ in range(tasks))
    wait_until_all_polled(stage, tasks, within_s=pace.patience_s + 30)
    time.sleep(pace.warm_s)
    before, cost = stage.books(), daemon.process.cost()
    time.sleep(pace.seconds)
    wait_for(lambda: stage.books()["polls"] > before["polls"], "a poll", within_s=pace.patience_s)
    after, spent = stage.books(), daemon.process.cost()
    polls, requests = (after[count] - before[count] for count in ("polls", "requests"))
    return polls, requests, spent.cpu_s - cost.cpu_s


def _most(costs: list[Cost]) -> float:
    return max(cost.rss_bytes for cost in costs) / 2**20


Case = Callable[[Report, Sizes, Pace], None]
CASES: dict[str, Case] = {
    "submit": submit,
    "listeners": listeners,
    "deaf": deaf,
    "restart": restart,
    "size": size,
    "punctuality": punctuality,
    "storm": storm,
    "batch": batch,
    "news": news,
}


def run_cases(report: Report, names: list[str], sizes: Sizes, pace: Pace, *, at_once: int = 1) -> None:
    """Run cases by name; one that breaks is named as missing. `at_once` as for `compare`."""
    for found in each(lambda name: _run_case(name, sizes, pace), names, at_once=at_once):
        report.figures += found.figures
        report.missing += found.missing


def _run_case(name: str, sizes: Sizes, pace: Pace) -> Report:
    found = Report({})
    try:
        CASES[name](found, sizes, pace)
    except Exception as exc:  # noqa: BLE001 - the other cases are still worth running
        found.missing.append(Missing(f"case {name}", f"{type(exc).__name__}: {exc}"))
        say(f"{name}: {exc}")
    for figure in found.figures:
        say(f"{figure.what}, {figure.at}: {figure.value} {figure.unit}")
    return found
