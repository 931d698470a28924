"""Tokens that are made of the secret: what is in them, when the next one is made, and that none is shown."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import partial
from typing import Any

import pytest
import trio

from creche.core.binding import Binding
from creche.core.calls import Calls
from creche.core.exchange import Answer, Call, Prepared
from creche.core.jwt import Jwt
from creche.core.many import Many
from creche.core.recipe import load_recipe
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.errors import CredentialsRefused, RecipeError
from creche.testing import make_task

SECRET = "sk-verysecret-0123456789"
NOW = 1_800_000_000.75
LIVES_S = 1800.0
RECIPE: dict[str, Any] = {
    "params": {"access_key": {"about": "the public half"}},
    "auth": {"Authorization": "Bearer {jwt}", "jwt": {"claims": {"iss": "$access_key"}, "early": "5s"}},
    "create": {"url": "/jobs", "id": "/id", "body": "$input"},
    "poll": {"url": "/jobs/{job}", "status": "/status", "statuses": {"processing": ["running"]}},
    "cancel": {"url": "/jobs/{job}/cancel"},
}
TASK = make_task("t")


def taken_apart(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Header, claims, signature, and what was signed; by the standard library alone."""
    head, claims, signature = token.split(".")
    decoded = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (head, claims, signature)]
    return json.loads(decoded[0]), json.loads(decoded[1]), decoded[2], f"{head}.{claims}".encode()


def claims_of(jwt: Jwt, **params: Any) -> dict[str, Any]:  # noqa: ANN401 - any parameter
    return taken_apart(jwt.mint(params, SECRET, NOW))[1]


def bound(*, secret: str | None = SECRET, **auth: Any) -> Binding:  # noqa: ANN401 - any key of [auth]
    recipe = load_recipe("r", {**RECIPE, "auth": {**RECIPE["auth"], **auth}}, "r.toml")
    return Binding(recipe, base="https://api.test", params={"access_key": "ak"}, secret=secret)


def token_in(call: Call) -> str:
    scheme, _, token = dict(call.headers)["Authorization"].partition(" ")
    assert scheme == "Bearer"
    return token


# -- the token -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, "s", "söcret ☃", "x" * 300])
def test_a_token_is_signed_with_the_secret(secret: str) -> None:
    """HS256 over header and claims, whatever the secret's length; in base64 for URLs, without padding."""
    token = Jwt(claims={"iss": "ak"}, lives_s=LIVES_S, early_s=0).mint({}, secret, NOW)
    header, _, signature, signed = taken_apart(token)
    assert header == {"alg": "HS256", "typ": "JWT"}
    assert hmac.compare_digest(signature, hmac.new(secret.encode(), signed, hashlib.sha256).digest())
    assert not set(token) & set("=+/ \n")


def test_a_token_says_from_when_to_when_it_is_good() -> None:
    """In whole Unix seconds; `early` moves its beginning alone."""
    assert claims_of(Jwt(claims={}, lives_s=LIVES_S, early_s=5)) == {
        "iat": 1_800_000_000,
        "nbf": 1_799_999_995,
        "exp": 1_800_001_800,
    }


def test_parameters_stand_in_claims() -> None:
    """With their types, at any depth; what begins with two dollars is a text."""
    claims = {"iss": "$key", "scope": {"tier": "$tier", "all": ["$key"]}, "price": "$$5"}
    found = claims_of(Jwt(claims=claims, lives_s=LIVES_S, early_s=0), key="ak", tier=3)
    assert (found["iss"], found["scope"], found["price"]) == ("ak", {"tier": 3, "all": ["ak"]}, "$5")


def test_a_claim_of_the_recipe_comes_before_ours() -> None:
    """Some want a time of their own, or none that they do not know."""
    found = claims_of(Jwt(claims={"exp": "$until", "aud": "x"}, lives_s=LIVES_S, early_s=0), until=7)
    assert (found["exp"], found["aud"], found["iat"]) == (7, "x", 1_800_000_000)


@pytest.mark.parametrize(
    ("auth", "complaint"),
    [
        ({"Authorization": "Bearer {secret}"}, "auth.jwt: no header of [auth] has it"),
        ({"jwt": {"claims": {"iss": "$who"}}}, 'auth.jwt.claims: "$who" is not a parameter'),
        ({"jwt": {"claims": {"iss": "$secret"}}}, 'auth.jwt.claims: "$secret" is not a parameter'),
        ({"jwt": {"claims": []}}, "auth.jwt.claims: expected a table"),
        ({"jwt": {"lives": "10s"}}, "auth.jwt.lives: expected at least 60s"),
        ({"jwt": {"algorithm": "none"}}, "auth.jwt.algorithm: unknown key"),
        ({"Authorization": "{jwt}{job}"}, 'auth.Authorization: "job" is not known here; only {jwt} and {secret}'),
    ],
)
def test_a_mistake_about_a_token_is_told_with_its_place(auth: dict[str, Any], complaint: str) -> None:
    """When the recipe is read, not when the provider refuses."""
    with pytest.raises(RecipeError) as caught:
        bound(**auth)
    [mistake] = caught.value.mistakes
    assert mistake.startswith(f"r.toml: {complaint}")


# -- its renewal -----------------------------------------------------------------------------------------


def test_a_token_is_to_be_made_before_the_first_request() -> None:
    """Nobody knows the time when an account is made."""
    assert bound().calls.renew_at == 0.0


def test_half_a_life_is_used_up_before_the_next_token_is_made() -> None:
    """What was written with the old one stays as it was written, and is good for the other half."""
    binding = bound()
    binding.calls.renew(NOW)
    assert binding.calls.renew_at == NOW + LIVES_S / 2
    before = binding.poll_call(Job("j"))
    binding.calls.renew(NOW + LIVES_S / 2)
    after = binding.poll_call(Job("j"))
    times = [taken_apart(token_in(call))[1]["exp"] for call in (before, after)]
    assert times == [int(NOW + LIVES_S), int(NOW + LIVES_S * 3 / 2)]


def test_a_plain_key_is_never_renewed() -> None:
    """Nor is a token without a secret to make it of."""
    recipe = load_recipe("r", {**RECIPE, "auth": {"Authorization": "Bearer {secret}"}}, "r.toml")
    plain = Calls(recipe, base="https://api.test", params={}, secret=SECRET)
    none = bound(secret=None, optional=True)
    none.calls.renew(NOW)
    assert plain.renew_at == none.calls.renew_at == float("inf")
    assert "Authorization" not in dict(none.poll_call(Job("j")).headers)


@pytest.mark.parametrize("shown", ["old", "new", "secret"])
def test_neither_a_token_nor_its_secret_is_shown(shown: str) -> None:
    """The token before is good for a while yet, and an answer may still quote it."""
    binding = bound()
    texts = {"secret": SECRET}
    for name, now in (("old", NOW), ("new", NOW + LIVES_S / 2)):
        binding.calls.renew(now)
        texts[name] = token_in(binding.poll_call(Job("j")))
    answer = Answer(status=401, headers={}, body=b'"the key %s is wrong"' % texts[shown].encode())
    with pytest.raises(CredentialsRefused, match=r'^HTTP 401: "the key \*\*\* is wrong"$'):
        binding.read_poll(answer)


def test_a_new_token_makes_no_other_create_and_no_other_account() -> None:
    """What was sent with the old one is known again."""
    binding = bound()
    way = binding.way
    recipe = load_recipe("r", {**RECIPE, "many": {"url": "/jobs", "max": 9, "id": "/id"}}, "r.toml")
    accounts = [Many(Binding(recipe, base="https://api.test", params={"access_key": "ak"}, secret=SECRET)).account]
    binding.calls.renew(NOW)
    assert binding.way == way
    accounts.append(Many(Binding(recipe, base="https://api.test", params={"access_key": "ak"}, secret=SECRET)).account)
    assert accounts[0] == accounts[1]
    assert (
        Many(Binding(recipe, base="https://api.test", params={"access_key": "ak"}, secret="x")).account != accounts[0]
    )


# -- who has it renewed ----------------------------------------------------------------------------------


class Clocked:
    """A transport that answers everything alike, a provider over it, and the clock of both."""

    def __init__(self, recipe: dict[str, Any] = RECIPE) -> None:
        self.now = NOW
        self.tokens: list[str] = []
        self.prepared = 0
        loaded = load_recipe("r", recipe, "r.toml")
        binding = Binding(loaded, base="https://api.test", params={"access_key": "ak"}, secret=SECRET)
        self.provider = HttpProvider(binding, self, timeout_s=5, wall=lambda: self.now)

    async def send(self, call: Call, *, timeout_s: float) -> Answer:  # noqa: ARG002 - as of any transport
        await trio.lowlevel.checkpoint()
        self.tokens.append(token_in(call))
        return Answer(status=200, headers={}, body=b'{"id": "j", "status": "running"}')

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        self.prepared += 1
        return Prepared(partial(self.send, call, timeout_s=timeout_s), lambda _, __: None)

    def ages(self) -> list[int]:
        """How long after the beginning each token that was sent was made."""
        return [taken_apart(token)[1]["iat"] - int(NOW) for token in self.tokens]


async def test_the_first_token_is_of_the_time_of_the_first_request() -> None:
    """Not of when the provider was made."""
    clocked = Clocked()
    clocked.now += 86_400
    await clocked.provider.create(TASK)
    assert clocked.ages() == [86_400]


@pytest.mark.parametrize("method", ["create", "cancel", "poll"])
async def test_each_request_has_a_token_with_half_its_life_before_it(method: str) -> None:
    """It is made anew only when it must be."""
    clocked = Clocked()
    for after_s in (0.0, LIVES_S / 2 - 1, LIVES_S / 2, LIVES_S, 10 * LIVES_S):
        clocked.now = NOW + after_s
        if method == "create":
            await clocked.provider.create(TASK)
        elif method == "cancel":
            await clocked.provider.cancel(Job("j"))
        else:
            await clocked.provider.poll_of(Job("j"))()
    assert clocked.ages() == [0, 0, 900, 1800, 18_000]


async def test_a_standing_poll_is_written_anew_with_each_token() -> None:
    """And only then, however often it is asked."""
    clocked = Clocked()
    poll = clocked.provider.poll_of(Job("j"))
    for after_s in (0.0, 10.0, LIVES_S / 2, LIVES_S / 2 + 10):
        clocked.now = NOW + after_s
        await poll()
    assert clocked.ages() == [0, 0, 900, 900]
    assert clocked.prepared == 2


async def test_a_standing_poll_takes_the_token_that_another_request_had_made() -> None:
    """One for the whole account."""
    clocked = Clocked()
    poll = clocked.provider.poll_of(Job("j"))
    await poll()
    clocked.now += LIVES_S / 2
    await clocked.provider.create(TASK)
    clocked.now += 1
    await poll()
    assert clocked.ages() == [0, 900, 900]
