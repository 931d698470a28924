"""The client's plans and exchanges, without sockets: what is repeated, how long, and how answers are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import pytest

from creche.client import AT_REST, Unreachable
from creche.client_http import Exchange, Reply, Request
from creche.client_plan import Done, Emit, Pause, Plan, Plans, Step, advance
from creche.core import task as core_task

PROCESSING = {"id": "t1", "algorithm": "flux", "status": "processing"}
SUCCEEDED = {"id": "t1", "algorithm": "flux", "status": "succeeded", "result": None}


class Script:
    """Runs a plan against a list of answers, with a clock that only pauses move."""

    def __init__(self, reconnect_s: float = 60.0) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.plans = Plans(lambda: self.now, reconnect_s)

    def run(self, plan: Plan[Any], answers: Iterator[Reply | Unreachable]) -> tuple[list[Any], object]:
        items: list[Any] = []
        step: Step | Done = advance(plan, None)
        while not isinstance(step, Done):
            if isinstance(step, Request):
                step = advance(plan, next(answers))
                continue
            if isinstance(step, Emit):
                items.append(step.item)
            elif isinstance(step, Pause):
                self.pauses.append(step.seconds)
                self.now += step.seconds
            step = advance(plan, None)
        return items, step.value


GONE = Unreachable("gone", there=False)


def _reply(task: object) -> Reply:
    return Reply(200, json.dumps(task).encode())


def test_a_daemon_that_was_met_is_waited_for() -> None:
    """In the middle of a wait the daemon may be away; the pauses grow from 0.1 to 5 seconds."""
    script = Script()
    answers: list[Reply | Unreachable] = [_reply(PROCESSING), *[GONE] * 9, _reply(SUCCEEDED)]
    items, _ = script.run(script.plans.states("t1", None, 30.0), iter(answers))
    assert items == [PROCESSING, SUCCEEDED]
    assert script.pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])


def test_a_daemon_that_stays_away_is_given_up() -> None:
    """After `reconnect_s` without an answer the last error is raised; good answers begin the count anew."""
    script = Script(reconnect_s=10.0)

    def answers() -> Iterator[Reply | Unreachable]:
        for _ in range(3):
            yield _reply(PROCESSING)
            yield from [GONE] * 6
        yield _reply(PROCESSING)
        while True:
            yield GONE

    with pytest.raises(Unreachable, match="gone"):
        script.run(script.plans.states("t1", None, 30.0), answers())
    assert script.now <= 4 * 10.0
    assert sum(script.pauses[-6:]) <= 10.0


def test_waiting_for_the_daemon_counts_as_waiting() -> None:
    """A daemon that is away is not waited for beyond the time that the wait was given."""
    script = Script()
    with pytest.raises(Unreachable, match="gone"):
        script.run(script.plans.states("t1", 5.0, 30.0), chain([_reply(PROCESSING)], repeat(GONE)))
    assert script.now <= 5.0


def test_a_submit_that_never_arrived_is_not_repeated() -> None:
    """Without a connection nothing was asked for, and nothing is waited for."""
    script = Script()
    with pytest.raises(Unreachable, match="gone"):
        script.run(script.plans.submit({"algorithm": "flux"}), iter([GONE]))
    assert script.pauses == []


def test_an_answer_may_come_in_any_pieces() -> None:
    """An answer is whole when its length says so, wherever it was cut."""
    exchange = Exchange(Request("GET", "/v1/status"))
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnull"
    assert [exchange.feed(wire[n : n + 1]) for n in range(len(wire))] == [None] * (len(wire) - 1) + [
        Reply(200, b"null")
    ]


@pytest.mark.parametrize("wire", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnull"])
def test_a_cut_answer_is_no_answer(wire: bytes) -> None:
    """A connection that ends early means that the daemon may have acted."""
    exchange = Exchange(Request("GET", "/v1/status"))
    if wire:
        assert exchange.feed(wire) is None
    with pytest.raises(Unreachable, match="before its answer was whole") as caught:
        exchange.feed(b"")
    assert caught.value.there


def test_an_endless_head_is_refused() -> None:
    """What never ends its head is not the daemon."""
    exchange = Exchange(Request("GET", "/v1/status"))
    with pytest.raises(Unreachable, match="not the daemon's API"):
        exchange.feed(b"x" * 70_000)


def test_the_client_knows_which_statuses_are_at_rest() -> None:
    """The client's list, kept apart so that it needs no other module, is that of the rules."""
    assert {str(status) for status in core_task.AT_REST} == AT_REST
