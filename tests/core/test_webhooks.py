"""Messages to users' servers: what is in them, how they are signed, when they are tried again."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from creche.core import task as tasks
from creche.core.task import Failed, Job, Outcome, Status, Succeeded, Task
from creche.core.webhooks import (
    DELAYS_S,
    JITTER,
    MAX_RETRY_AFTER_S,
    Delivery,
    Endpoint,
    after_failure,
    deliveries,
    headers,
    read_key,
)
from creche.testing import make_task

SECRET = "whsec_" + 12 * "bWFk"
OLD = "whsec_" + 12 * "b2xk"


def ended(outcome: Outcome = Succeeded(msgspec.Raw(b'{"x": 1.50}')), **changes: object) -> Task:  # noqa: B008 - frozen
    return tasks.settle(tasks.begin_job(make_task("t", **changes), Job("j"), 2.0), outcome, 9.0)


def endpoint(name: str = "e", **changes: object) -> Endpoint:
    return msgspec.structs.replace(Endpoint(name=name, url="https://u", keys=(read_key(SECRET),)), **changes)


def delivery(**changes: object) -> Delivery:
    made = Delivery(id="t.e", task="t", endpoint="e", body='{"ä":1}'.encode(), since=0.0, due_at=0.0)
    return msgspec.structs.replace(made, **changes)


def test_every_endpoint_that_wants_it_gets_a_message() -> None:
    """And the task's own callback; the body is the same for all, and says what the API would."""
    wanted = [endpoint("a"), endpoint("b", statuses=frozenset({Status.SUCCEEDED}), algorithms=frozenset({"draw"}))]
    unwanted = [endpoint("c", statuses=frozenset({Status.FAILED})), endpoint("d", algorithms=frozenset({"other"}))]
    found = deliveries(ended(callback="https://mine/?k=1"), [*wanted, *unwanted], 100.0)
    assert [(one.id, one.endpoint, one.url) for one in found] == [
        ("t.a", "a", ""),
        ("t.b", "b", ""),
        ("t.callback", "callback", "https://mine/?k=1"),
    ]
    assert {one.body for one in found} == {found[0].body}
    message = json.loads(found[0].body)
    assert (message["type"], message["data"]["id"], message["data"]["result"]) == ("task.succeeded", "t", {"x": 1.5})
    assert b'{"x": 1.50}' in found[0].body


def test_a_trace_goes_on_at_the_receiver() -> None:
    """With every attempt."""
    trace = f"00-{32 * 'a'}-{16 * 'b'}-01"
    [one] = deliveries(ended(traceparent=trace), [endpoint()], 1.0)
    assert ("traceparent", trace) in headers(one, (read_key(SECRET),), 2.0)
    [plain] = deliveries(ended(), [endpoint()], 1.0)
    assert len(headers(plain, (read_key(SECRET),), 2.0)) == 4


def test_nobody_who_wants_it_means_no_message() -> None:
    """The most frequent case."""
    assert deliveries(ended(Failed("provider")), [endpoint(statuses=frozenset({Status.SUCCEEDED}))], 1.0) == ()


@pytest.mark.parametrize("receiver", [SECRET, OLD])
def test_the_official_library_takes_the_signature(receiver: str) -> None:
    """While a secret is replaced, whichever the receiver knows."""
    signed = dict(headers(delivery(), (read_key(SECRET), read_key(OLD)), time.time()))
    assert Webhook(receiver).verify(delivery().body, signed) == {"ä": 1}


def test_the_official_library_finds_what_was_changed() -> None:
    """The body, or the secret."""
    signed = dict(headers(delivery(), (read_key(SECRET),), time.time()))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(delivery().body + b" ", signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(delivery().body, signed)


@pytest.mark.parametrize(
    "text", ["", "bWFk" * 12, "whsec_", "whsec_bWFk", "whsec_" + "bWFk" * 30, "whsec_é" + "bWFk" * 12]
)
def test_what_is_no_secret(text: str) -> None:
    """Too short, too long, no base64, no prefix; it is not repeated."""
    with pytest.raises(ValueError, match="expected whsec_ and 24 to 64") as caught:
        read_key(text)
    assert "bWFk" not in str(caught.value)


def test_attempts_come_ever_later_and_end() -> None:
    """After some three days; each wait a fifth more or less."""
    waits, one, now = [], delivery(), 0.0
    while one.due_at is not None:
        one = after_failure(one, "HTTP 500", now, dice=0.5)
        if one.due_at is not None:
            waits.append(one.due_at - now)
            now = one.due_at
    assert waits == pytest.approx(list(DELAYS_S))
    assert (one.attempts, one.error) == (len(DELAYS_S) + 1, "HTTP 500")
    assert 2.5 * 86400 < now < 4 * 86400
    early, late = (after_failure(delivery(), "", 0.0, dice=dice).due_at for dice in (0.0, 1.0))
    assert (early, late) == pytest.approx(((1 - JITTER) * DELAYS_S[0], (1 + JITTER) * DELAYS_S[0]))


@pytest.mark.parametrize(("hint_s", "wait_s"), [(1.0, 5.0), (600.0, 600.0), (1e9, MAX_RETRY_AFTER_S)])
def test_a_receiver_may_ask_for_more_time(hint_s: float, wait_s: float) -> None:
    """For a day at most, and not for less than the wait that is due."""
    assert after_failure(delivery(), "", 0.0, dice=0.5, retry_after_s=hint_s).due_at == pytest.approx(wait_s)


def test_a_receiver_that_wants_no_more_gets_no_more() -> None:
    """At once."""
    assert after_failure(delivery(), "HTTP 410", 0.0, dice=0.5, final=True).due_at is None
