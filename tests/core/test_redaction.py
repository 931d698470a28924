"""An account's secret shows in nothing that people read, whatever a provider echoes and wherever the text is cut."""

from __future__ import annotations

import html
import json
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.core.binding import Binding
from creche.core.exchange import Answer
from creche.core.reading import MESSAGE_LIMIT, Redaction, excerpt
from creche.core.recipe import load_recipe
from creche.core.task import Task
from creche.errors import ProviderError

SECRET = 'sk/very+secret"0123&456789'
HEADER = f"Bearer {SECRET}"
RECIPE: dict[str, Any] = {
    "auth": {"Authorization": "Bearer {secret}"},
    "create": {"url": "/jobs", "id": "/id"},
    "poll": {
        "url": "/jobs/{job}",
        "status": "/status",
        "statuses": {"processing": ["running"], "failed": ["error"], "succeeded": ["done"]},
        "result": "/output",
        "error": ["/error"],
    },
    "fetch": {"url": "/jobs/{job}/result", "format": "jsonl", "failed": 422},
    "cancel": {"url": "/jobs/{job}/cancel"},
}
TASK = Task(id="t1", algorithm="draw", token="k1", accepted_at=0.0, input=msgspec.Raw(b"{}"))
BINDING = Binding(load_recipe("example", RECIPE, "e.toml"), base="https://x", params={}, secret=SECRET)
SPELLINGS = {
    "plain": SECRET,
    "upper": SECRET.upper(),
    "url": quote(SECRET, safe=""),
    "url, lower": quote(SECRET, safe="").lower(),
    "url, path": quote(SECRET),
    "form": quote_plus(HEADER),
    "json": json.dumps(SECRET)[1:-1],
    "json, slashes": json.dumps(SECRET)[1:-1].replace("/", "\\/"),
    "html": html.escape(SECRET),
}


def shown(answer: Answer) -> list[str]:
    """All that a binding makes of an answer for people to read."""
    texts = []
    reading = BINDING.read_poll(Answer(status=200, headers={}, body=b'{"status":"done"}'))
    for read in (
        lambda: BINDING.read_create(answer, TASK),
        lambda: BINDING.read_poll(answer),
        lambda: BINDING.read_fetch(answer, reading),
        lambda: BINDING.read_cancel(answer),
    ):
        try:
            made = read()
        except ProviderError as exc:
            texts.append(str(exc))
        else:
            if not isinstance(made, bool):
                texts += [made.message, made.provider_status or ""]
    return texts


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 404, 422, 429, 500, 503])
def test_an_echo_is_never_shown(status: int, spelling: str) -> None:
    """Neither in an error, whatever its kind, nor in a message or a status."""
    echo = SPELLINGS[spelling]
    bodies = [f"Bearer {echo}"]
    if not spelling.startswith("json"):
        bodies += [
            json.dumps({"error": echo, "status": "error"}),
            json.dumps({"error": {"headers": [echo]}, "status": echo}),
            json.dumps({"id": None, "status": echo}),
        ]
    for body in map(str.encode, bodies):
        for text in shown(Answer(status=status, headers={}, body=body)):
            assert "very" not in text.lower()
            assert "456789" not in text


@pytest.mark.parametrize("field", ["error", "status"])
@pytest.mark.parametrize("before", [*range(70, 102), *range(130, 164), *range(MESSAGE_LIMIT - 30, MESSAGE_LIMIT + 3)])
def test_no_cut_goes_through_a_secret(before: int, field: str) -> None:
    """A beginning of the secret would be no match for whoever looks for it later."""
    text = "x" * before + SECRET + "x" * 3000
    for body in (text.encode(), json.dumps({"status": "error", field: text}).encode()):
        for status in (200, 400):
            for told in shown(Answer(status=status, headers={}, body=body)):
                assert "sk" not in told


@given(st.integers(0, 400), st.integers(1, 200), st.sampled_from([" ", "\n", "é", "x", "***", SECRET]))
def test_no_cut_goes_through_one_of_many_secrets(before: int, times: int, between: str) -> None:
    """Nor where what was hidden or put together makes room for more of the text."""
    line = excerpt((between * before + (SECRET + between) * times).encode(), Redaction(SECRET))
    assert "sk" not in line
    assert len(line) <= 160


@given(st.integers(1, 120), st.integers(0, 60), st.integers(1, 12), st.sampled_from(["", "x", "é"]))
def test_the_beginning_of_a_text_never_ends_in_a_secret(at_most: int, before: int, times: int, between: str) -> None:
    """However short it is, compared with the secret."""
    text = Redaction(SECRET, [HEADER]).hide("x" * before + (HEADER + between) * times, at_most=at_most)
    assert set(text) <= set("x*é")
    assert len(text) <= at_most


def test_a_result_stays_as_it_came() -> None:
    """It is the client's, not ours to change."""
    body = json.dumps({"status": "done", "output": HEADER}).encode()
    assert msgspec.json.decode(BINDING.read_poll(Answer(status=200, headers={}, body=body)).result) == HEADER


def test_without_a_secret_nothing_is_hidden() -> None:
    """An account may have none."""
    assert Redaction(None).hide("as *it* is", at_most=7) == "as *it*"
