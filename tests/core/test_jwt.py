"""Tokens that are signed with the account's secret, and made anew before they expire."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import msgspec
import pytest

from creche.core.binding import Binding
from creche.core.calls import RENEW_PART
from creche.core.exchange import Call
from creche.core.recipe import load_recipe
from creche.core.recording import Answered, Sent
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.testing import FakeTransport, make_task

SECRET = "secret-key"
NOW = 1_800_000_000.0
RECIPE: dict[str, Any] = {
    "auth": {"Authorization": "Bearer {jwt}", "jwt": {"claims": {"iss": "$access"}, "lives": "30m", "early": "5s"}},
    "params": {"access": {"about": "the access key"}},
    "create": {"url": "/jobs", "id": "/id", "body": "$input"},
    "poll": {"url": "/jobs/{job}", "status": "/status", "statuses": {"processing": ["running"], "failed": ["no"]}},
}


def bound(secret: str | None = SECRET, **auth: Any) -> Binding:  # noqa: ANN401 - any part of a recipe
    recipe = load_recipe("r", {**RECIPE, "auth": {**RECIPE["auth"], **auth}}, "r.toml")
    return Binding(recipe, base="https://api.example", params={"access": "AK"}, secret=secret)


def part(token: str, number: int) -> Any:  # noqa: ANN401 - any JSON
    text = token.split(".")[number]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def sent_by(call: Call) -> str:
    return dict(call.headers)["Authorization"].removeprefix("Bearer ")


def test_a_token_says_who_and_until_when() -> None:
    """Header and claims as RFC 7519 has them, with the algorithm's parameters."""
    binding = bound()
    binding.calls.renew(NOW)
    token = sent_by(binding.poll_call(Job("j")))
    assert part(token, 0) == {"alg": "HS256", "typ": "JWT"}
    assert part(token, 1) == {"iss": "AK", "iat": NOW, "nbf": NOW - 5, "exp": NOW + 1800}


def test_a_token_is_signed_with_the_secret() -> None:
    """HMAC with SHA-256 over its first two parts, in base64url without padding."""
    token = sent_by(bound().poll_call(Job("j")))
    signed, _, signature = token.rpartition(".")
    expected = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))
    assert signature == expected.decode().rstrip("=")


def test_claims_of_the_recipe_count_more() -> None:
    """An API that wants its times otherwise is given them."""
    binding = bound(jwt={"claims": {"exp": 7}})
    assert part(sent_by(binding.poll_call(Job("j"))), 1)["exp"] == 7


def test_without_a_secret_there_is_no_token() -> None:
    """An algorithm may leave it out where the recipe says that it is optional."""
    assert "Authorization" not in dict(bound(None, optional=True).poll_call(Job("j")).headers)


def test_neither_secret_nor_tokens_are_shown() -> None:
    """The last one may still be echoed."""
    binding = bound()
    binding.calls.renew(NOW)
    old = sent_by(binding.poll_call(Job("j")))
    binding.calls.renew(NOW + 1000)
    new = sent_by(binding.poll_call(Job("j")))
    assert old != new
    assert binding.redaction.hide(f"{SECRET} {old} {new}", at_most=2000) == "*** *** ***"


@pytest.mark.parametrize(
    ("later_s", "renewed"), [(0.0, False), (1800 * RENEW_PART - 1, False), (1800 * RENEW_PART, True)]
)
async def test_a_standing_question_gets_a_new_token(later_s: float, renewed: bool) -> None:  # noqa: FBT001 - a parameter
    """When half of the life of the old one is over; until then its request is not written again."""
    now = NOW
    transport = FakeTransport("https://api.example")
    transport.on(Sent("GET", "/jobs/j"), Answered(body={"status": "running"}).answer())
    poll = HttpProvider(bound(), transport, timeout_s=1.0, wall=lambda: now).poll_of(Job("j"))
    await poll()
    now += later_s
    await poll()
    first, second = transport.calls
    assert (first.headers != second.headers) is renewed


async def test_a_create_gets_a_good_token() -> None:
    """The one that was made with the binding has long expired."""
    transport = FakeTransport("https://api.example")
    transport.on(Sent("POST", "/jobs", body={}), Answered(body={"id": "j"}).answer())
    provider = HttpProvider(bound(), transport, timeout_s=1.0, wall=lambda: NOW)
    await provider.create(make_task("t", input=msgspec.Raw(b"{}")))
    assert part(sent_by(transport.calls[0]), 1)["iat"] == NOW
