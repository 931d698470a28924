"""The simulator's rules of the world that all jobs share, and its books, on a made-up clock."""

from __future__ import annotations

import pytest

from creche.simulator import Drop, Reply, Simulator
from tests.simulator.conftest import START, Desk


def test_an_outage_passes_by_itself() -> None:
    """Connections are closed, or answered with a status, until the time is over; the books stay open."""
    desk = Desk()
    job = desk.create()
    desk.world(outage="10s")
    assert desk.codes("GET", f"/v1/jobs/{job}", 1) == [0]
    desk.world(outage="10s", outage_status=503)
    assert desk.codes("POST", "/v1/jobs", 1) == [503]
    assert (desk.stats()["created"], desk.read("GET", "/healthz")[0]) == (1, 200)
    assert desk.words(job, 10) == ["succeeded"]


def test_the_world_is_shown_as_it_is_written() -> None:
    """What GET shows can be PUT again; what PUT leaves out is back to normal."""
    desk = Desk()
    world = {"outage": "10s", "latency": "50ms", "throttle": {"per_second": 2}, "lose_replies": 0.5, "errors": 0.25}
    desk.world(**world, unauthorized=True, outage_status=500)
    desk.now += 4
    shown = desk.read("GET", "/v1/world")[1]
    assert shown == world | {"outage": "6000ms", "unauthorized": True, "outage_status": 500}
    assert desk.world(**shown) == shown
    normal = {"outage_status": None, "latency": "0ms", "unauthorized": False, "lose_replies": 0, "errors": 0}
    assert desk.world(outage=None, throttle=None) == normal | {"outage": None, "throttle": None}


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ({"outages": "1s"}, 'outages: unknown key (did you mean "outage"?)'),
        ({"throttle": {}}, "throttle.per_second: missing"),
        ({"throttle": {"per_second": 0}}, "throttle.per_second: expected a number of at least 0.01"),
        ({"lose_replies": 1.5}, "lose_replies: expected a probability from 0 to 1"),
        ({"outage_status": 99}, "outage_status: expected HTTP statuses"),
        ([], "expected an object"),
    ],
)
def test_a_wrong_world_is_refused_and_changes_nothing(world: object, message: str) -> None:
    """422 names the mistake."""
    desk = Desk()
    desk.world(latency="1s")
    status, body = desk.read("PUT", "/v1/world", world)
    assert status == 422
    assert message in body["error"]["message"]
    assert desk.simulator.world.latency_s == 1.0


def test_a_throttle_lets_its_rate_through() -> None:
    """One second's worth at once, then the rate; the answer says when to come back."""
    desk = Desk()
    job = desk.create()
    desk.world(throttle={"per_second": 2})
    assert desk.codes("GET", f"/v1/jobs/{job}", 3) == [200, 200, 429]
    desk.now += 0.5
    assert desk.codes("GET", f"/v1/jobs/{job}", 2) == [200, 429]
    reply = desk.ask("GET", f"/v1/jobs/{job}")
    assert isinstance(reply, Reply)
    assert reply.retry_after_s == 1


def test_a_key_is_checked_where_there_is_one() -> None:
    """Jobs need the bearer key; `unauthorized` refuses even the right one."""
    desk = Desk(Simulator(key="s3cret"))
    assert desk.read("POST", "/v1/jobs")[0] == 401
    assert desk.read("POST", "/v1/jobs", authorization="Bearer wrong")[0] == 401
    assert desk.read("POST", "/v1/jobs", authorization="Bearer s3cret")[0] == 201
    desk.world(unauthorized=True)
    assert desk.read("POST", "/v1/jobs", authorization="Bearer s3cret")[0] == 401


def test_a_world_that_loses_replies_does_the_work() -> None:
    """The connection is dropped, the job is there; an error does no work."""
    desk = Desk()
    desk.world(lose_replies=1.0, latency="50ms")
    assert desk.ask("POST", "/v1/jobs") == Drop(0.05)
    desk.world(errors=1.0)
    assert desk.codes("POST", "/v1/jobs", 1) == [500]
    assert desk.stats()["created"] == 1


def test_equal_seeds_give_equal_answers() -> None:
    """Chance repeats itself, and differs between seeds."""

    def play(seed: int) -> list[int]:
        desk = Desk(Simulator(seed=seed))
        desk.world(lose_replies=0.3, errors=0.3)
        return desk.codes("POST", "/v1/jobs", 50)

    assert play(1) == play(1)
    assert play(1) != play(2)
    assert set(play(1)) == {0, 201, 500}


def test_the_books_count_jobs_and_requests() -> None:
    """Jobs by the word they show, requests by kind; requests that are not about jobs do not count."""
    desk = Desk()
    short, long = desk.create({"run": "1s", "tag": "a"}), desk.create({"tag": "b"})
    desk.create({"tag": "b"})
    desk.words(short, 3)
    desk.codes("GET", f"/v1/jobs/{short}/result", 1)
    desk.codes("POST", f"/v1/jobs/{long}/cancel", 1)
    desk.read("POST", "/v1/jobs/batch", {"ids": [short, long]})
    assert desk.stats() == {
        "requests": 7,
        "creates": 3,
        "created": 3,
        "duplicates": 0,
        "batches": 1,
        "lists": 0,
        "polls": 3,
        "results": 1,
        "cancels": 1,
        "jobs": {"succeeded": 1, "cancelled": 1, "running": 1},
    }
    assert desk.read("GET", "/v1/stats?tags=1") == (200, {"a": 1, "b": 2})


def test_jobs_are_forgotten_some_time_after_their_end() -> None:
    """A job that goes on is kept; the key of a forgotten job makes a new one."""
    desk = Desk(Simulator(keep_s=100))
    old = desk.create({"run": "1s"}, idempotency_key="k")
    endless = desk.create({"end": "never"})
    cancelled = desk.create({"end": "never"})
    desk.codes("POST", f"/v1/jobs/{cancelled}/cancel", 1)
    desk.now = START + 101.9
    desk.create()
    assert desk.codes("GET", f"/v1/jobs/{old}", 1) == [200]
    assert desk.codes("GET", f"/v1/jobs/{cancelled}", 1) == [404]
    desk.now = START + 102
    assert desk.create(idempotency_key="k") != old
    assert desk.codes("GET", f"/v1/jobs/{old}", 1) == [404]
    assert desk.codes("GET", f"/v1/jobs/{endless}", 1) == [200]


def test_there_are_never_more_jobs_than_allowed() -> None:
    """The one that ended first makes room; with none that ended a create is answered 429."""
    desk = Desk(Simulator(max_jobs=2))
    first, second = desk.create({"run": "5s"}), desk.create({"run": "1s"})
    assert desk.codes("POST", "/v1/jobs", 1) == [429]
    desk.now += 2
    third = desk.create()
    polled = [desk.codes("GET", f"/v1/jobs/{job}", 1)[0] for job in (first, second, third)]
    assert polled == [200, 404, 200]
