"""Traces on their way to a collector: sent in batches, kept while it is away, dropped where it refuses them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import httpx2
import pytest
import trio
from loguru import logger

from creche.core import task as tasks
from creche.core.exchange import Answer, Call, Prepared
from creche.core.task import Job, Succeeded
from creche.edges import http_traces
from creche.edges.http_traces import BATCH, SEND_EVERY_S, HttpTraces
from creche.testing import make_task


class Collector:
    """Takes what comes, or answers with `status`; None: nobody answers."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.calls: list[Call] = []
        self.spans: Counter[str] = Counter()

    async def send(self, call: Call, *, timeout_s: float) -> Answer:
        assert timeout_s > 0
        await trio.lowlevel.checkpoint()
        if self.status is None:
            raise httpx2.ConnectError("refused")
        self.calls.append(call)
        if self.status == 200:
            spans: list[dict[str, Any]] = json.loads(call.body or b"")["resourceSpans"][0]["scopeSpans"][0]["spans"]
            self.spans.update(span["name"] for span in spans)
        return Answer(status=self.status, headers={}, body=b"")

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        return Prepared(partial(self.send, call, timeout_s=timeout_s), lambda *_: None)


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
async def traces(collector: Collector) -> AsyncIterator[HttpTraces]:
    """Running, on a simulated clock."""
    traces = HttpTraces(collector, "http://c/v1/traces", headers=(("Authorization", "Bearer x"),), resource={"a": "b"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(traces.run)
        yield traces
        nursery.cancel_scope.cancel()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What was logged at WARNING and above."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="INFO", format="")
    yield messages
    logger.remove(sink)


def tell(traces: HttpTraces, *task_ids: str) -> None:
    for task_id in task_ids:
        task = tasks.begin_job(make_task(task_id, algorithm=task_id), Job("j"), 2.0)
        traces.tell(tasks.settle(task, Succeeded(), 9.0))


async def test_they_are_sent_together(collector: Collector, autojump_clock: object, traces: HttpTraces) -> None:
    """Within five seconds, many in one request, with what lets us in."""
    tell(traces, *(f"t{number}" for number in range(BATCH + 1)))
    await trio.sleep(SEND_EVERY_S + 1)
    assert len(collector.calls) == 2
    assert len([name for name in collector.spans if name.startswith("task ")]) == BATCH + 1
    assert dict(collector.calls[0].headers) == {"Content-Type": "application/json", "Authorization": "Bearer x"}
    assert (collector.calls[0].method, collector.calls[0].url) == ("POST", "http://c/v1/traces")


@pytest.mark.parametrize("status", [None, 503, 429])
async def test_they_wait_while_the_collector_is_away(
    collector: Collector, autojump_clock: object, traces: HttpTraces, logged: list[str], status: int | None
) -> None:
    """Which is said once; so is that it is back."""
    collector.status = status
    tell(traces, "a", "b")
    await trio.sleep(10 * SEND_EVERY_S)
    collector.status = 200
    await trio.sleep(SEND_EVERY_S)
    assert [name for name in collector.spans if name.startswith("task ")] == ["task a", "task b"]
    assert [line.partition(":")[0] for line in logged] == ["traces cannot be sent, and wait", "traces are sent again"]


async def test_only_so_many_wait(collector: Collector, autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first."""
    monkeypatch.setattr(http_traces, "KEPT", 3)
    small = HttpTraces(collector, "http://c/", headers=(), resource={})
    collector.status = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(small.run)
        tell(small, "a", "b", "c", "d")
        await trio.sleep(3 * SEND_EVERY_S)
        tell(small, "e")
        await trio.sleep(3 * SEND_EVERY_S)
        collector.status = 200
        await trio.sleep(2 * SEND_EVERY_S)
        nursery.cancel_scope.cancel()
    assert [name for name in collector.spans if name.startswith("task ")] == ["task c", "task d", "task e"]


async def test_what_is_refused_is_dropped(
    collector: Collector, autojump_clock: object, traces: HttpTraces, logged: list[str]
) -> None:
    """It would be refused for ever."""
    collector.status = 400
    tell(traces, "a")
    await trio.sleep(5 * SEND_EVERY_S)
    collector.status = 200
    tell(traces, "b")
    await trio.sleep(2 * SEND_EVERY_S)
    assert [name for name in collector.spans if name.startswith("task ")] == ["task b"]
    assert logged[0] == "traces cannot be sent, and are dropped: HTTP 400"


async def test_without_an_address_nothing_is_kept(collector: Collector, autojump_clock: object) -> None:
    """The usual case costs nothing."""
    silent = HttpTraces(collector, "", headers=(), resource={})
    tell(silent, "a")
    await silent.run()
    assert collector.calls == []
