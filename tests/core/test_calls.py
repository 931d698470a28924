"""Whose URL it is decides about the credential, and about whether it is asked at all."""

from __future__ import annotations

from typing import Any

import pytest

from creche.core.binding import Binding
from creche.core.calls import Calls
from creche.core.recipe import load_recipe
from creche.core.task import Job
from creche.errors import AnswerError, CreateRefused
from creche.testing import make_task

RECIPE: dict[str, Any] = {
    "auth": {"Authorization": "Bearer {secret}"},
    "origins": ["https://files.example"],
    "create": {"url": "/jobs", "id": "/id", "keep": {"url": "/url"}},
    "poll": {"url": "{+keep.url}", "status": "/s", "statuses": {"failed": ["x"]}},
}


def ask(url: str, *, base: str = "https://api.example", **poll: Any) -> tuple[bool, bool]:  # noqa: ANN401 - any key
    """Whether a poll at a URL has the credential, and whether it is for the public internet only."""
    recipe = load_recipe("r", {**RECIPE, "poll": {**RECIPE["poll"], **poll}}, "r.toml")
    calls = Calls(recipe, base=base, params={}, secret="k")
    call = calls.about_job(recipe.poll, Job("j", {"url": url}))
    return "Authorization" in dict(call.headers), call.public_only


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("/jobs/j", True),
        ("https://api.example/x", True),
        ("https://api.example:443/x", True),
        ("https://files.example/x", True),
        ("http://api.example/x", False),
        ("https://api.example:8443/x", False),
        ("https://api.example.evil.test/x", False),
        ("https://evil.test/?https://api.example", False),
    ],
)
def test_the_credential_goes_to_the_provider_alone(url: str, trusted: bool) -> None:  # noqa: FBT001 - a parameter
    """Scheme, host and port must be those of the base, or of an origin; others are public, or not asked."""
    assert ask(url) == (trusted, not trusted)


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:3000", "http://server:3000", "http://10.1.2.3", "http+unix://%2Fa.sock"]
)
def test_a_provider_of_ones_own_may_name_neighbours(base: str) -> None:
    """Who is in the house already may point at the house, without the credential."""
    assert ask("http://10.0.0.7:9000/result", base=base) == (False, False)


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "[::1]", "[fe80::1]", "[::ffff:10.0.0.1]", "192.168.1.1", "10.0.0.1", "0.0.0.1"),
        *("127.1", "0x7f000001", "2130706433", "017700000001", "127.0x0.0.1", "127.0.0.0x1", "0x7f.1", "127.0.0.1."),
        *("localhost", "LOCALHOST", "localhost.", "a.localhost", "redis", "db.internal", "db.internal.", "nas.local"),
    ],
)
def test_a_provider_in_the_internet_may_not(host: str) -> None:
    """However an address is written."""
    with pytest.raises(AnswerError, match="no public address: not asked"):
        ask(f"http://{host}/x")


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "a.example", "a.example.", "0xfeed.example", "1.a"])
def test_what_may_be_in_the_internet_is_looked_at_again(host: str) -> None:
    """By the transport, which knows the addresses of a name."""
    assert ask(f"https://{host}/x") == (False, True)


def test_a_create_at_a_place_that_must_not_be_asked_is_refused() -> None:
    """Nothing was sent, so nobody need wonder whether there is a job."""
    create = RECIPE["create"] | {"url": "http://localhost:9/jobs"}
    recipe = load_recipe("r", RECIPE | {"create": create}, "r.toml")
    binding = Binding(recipe, base="https://api.example", params={}, secret="k")
    with pytest.raises(CreateRefused, match="'localhost', which is no public address"):
        binding.create_call(make_task("t"))


def test_an_origin_of_the_recipe_may_be_anywhere() -> None:
    """Whoever wrote the recipe vouches for it."""
    recipe = load_recipe("r", RECIPE | {"origins": ["http://10.0.0.7"]}, "r.toml")
    calls = Calls(recipe, base="https://api.example", params={}, secret="k")
    assert calls.about_job(recipe.poll, Job("j", {"url": "http://10.0.0.7/x"})).public_only is False


def test_a_held_poll_knows_for_how_long() -> None:
    """In whole seconds, where there are."""
    recipe = load_recipe(
        "r", RECIPE | {"poll": RECIPE["poll"] | {"url": "/{job}?wait={wait}", "wait": "20s"}}, "r.toml"
    )
    call = Calls(recipe, base="https://api.example", params={}, secret="k").about_job(recipe.poll, Job("j"))
    assert call.url == "https://api.example/j?wait=20"
