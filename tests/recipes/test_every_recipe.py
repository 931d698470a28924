"""What holds for every shipped recipe, whatever its provider."""

from __future__ import annotations

from typing import Any

import pytest

from creche.core.binding import Binding
from creche.core.exchange import Call
from creche.core.reading import Reading
from creche.core.task import Job
from creche.errors import (
    AnswerError,
    CreateRefused,
    CreateUncertain,
    CredentialsRefused,
    JobNotFound,
    Outage,
    ProviderError,
    Throttled,
)
from tests.recipes.conftest import (
    CANCELLED,
    FAILED,
    FOLDER,
    KEEP,
    NAMES,
    PROCESSING,
    SECRET,
    SUCCEEDED,
    answer_with,
    binding_of,
    job_of,
    recipe_of,
    task_with,
)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_load_and_explain_themselves(name: str) -> None:
    """A shipped recipe has no mistake, a title, docs, a base, a comment at its top, and a word about each parameter."""
    recipe = recipe_of(name)
    assert recipe.title != name
    assert recipe.docs
    assert recipe.base
    assert (FOLDER / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")
    assert [key for key, param in recipe.params.items() if not param.about] == []
    reserved = {"task", "token", "user", "job", "input", "secret"}
    assert recipe.params.keys() & reserved == set()


@pytest.mark.parametrize("name", NAMES)
def test_recipes_tell_the_ends_apart(name: str) -> None:
    """A shipped recipe can read success, failure and a job that somebody cancelled."""
    poll = recipe_of(name).poll
    known = {*poll.statuses.values(), *(rule.then for rule in poll.rules)}
    assert known >= {SUCCEEDED, FAILED, CANCELLED}


@pytest.mark.parametrize("name", NAMES)
def test_unknown_words_do_not_end_a_job(name: str) -> None:
    """A status that the recipe has never heard of is `processing`, and marked."""
    binding = binding_of(name)
    pointer = binding.recipe.poll.status
    assert pointer is not None
    body: Any = "levitating"
    for member in reversed(pointer[1:].split("/")):
        body = {member: body}
    reading = binding.read_poll(answer_with(200, body))
    assert reading == Reading(status=PROCESSING, provider_status="levitating", known=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, CredentialsRefused),
        (402, CredentialsRefused),
        (403, CredentialsRefused),
        (404, JobNotFound),
        (429, Throttled),
        (500, AnswerError),
        (502, Outage),
        (503, Outage),
        (504, Outage),
    ],
)
def test_polls_that_bring_errors(name: str, status: int, error: type[ProviderError]) -> None:
    """An error answer to a poll is of the kind that its HTTP status says, with the provider's hint; it is no end."""
    with pytest.raises(error) as caught:
        binding_of(name).read_poll(answer_with(status, {"error": "no"}, {"retry-after": "7"}))
    assert type(caught.value) is error
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", b'{"unrelated": 1}'])
def test_polls_that_cannot_be_read(name: str, body: bytes) -> None:
    """A 200 without a status in it counts as an error of the answer, and is no end."""
    with pytest.raises(AnswerError):
        binding_of(name).read_poll(answer_with(200, body))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, {"detail": "who are you"}, CredentialsRefused),
        (402, {"detail": "pay first"}, CredentialsRefused),
        (408, {"detail": "too slow"}, CreateUncertain),
        (422, {"detail": "no such argument"}, CreateRefused),
        (429, {"detail": "slow down"}, Throttled),
        (500, {"detail": "oops"}, CreateUncertain),
        (503, {"detail": "away"}, CreateUncertain),
        (200, {"unrelated": 1}, CreateUncertain),
        (200, b"<html>", CreateUncertain),
    ],
)
def test_creates_that_bring_errors(name: str, status: int, body: object, error: type[ProviderError]) -> None:
    """Busy and refused creates have made no job; where that cannot be told, the error says so."""
    with pytest.raises(error) as caught:
        binding_of(name).read_create(answer_with(status, body), task_with({}))
    assert type(caught.value) is error


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("status", "error"), [(401, CredentialsRefused), (429, Throttled), (503, Outage)])
def test_cancels_that_bring_errors(name: str, status: int, error: type[ProviderError]) -> None:
    """A cancel that did not get through is asked again later."""
    with pytest.raises(error):
        binding_of(name).read_cancel(answer_with(status, {"error": "no"}))


@pytest.mark.parametrize("name", NAMES)
def test_creates_that_cannot_be_repeated_use_a_new_connection(name: str) -> None:
    """Without a token or an id of ours, a create is never sent into a connection that may be closing."""
    binding = binding_of(name)
    assert binding.create_call(task_with({})).fresh is (binding.way.repeat in {"none", "lookup"})


@pytest.mark.parametrize("name", NAMES)
def test_the_credential_goes_to_the_provider(name: str) -> None:
    """Each request to the provider's own address carries the credential, once and in no URL."""
    binding = binding_of(name)
    assert binding.recipe.credentials
    for call in calls_of(binding, job_of(name)):
        assert SECRET not in call.url
        assert len([value for _, value in call.headers if SECRET in value]) == len(binding.recipe.credentials)


@pytest.mark.parametrize("name", NAMES)
def test_the_credential_goes_nowhere_else(name: str) -> None:
    """A URL in an answer that leads elsewhere is asked without the credential."""
    binding = binding_of(name)
    elsewhere = dict.fromkeys(KEEP.get(name, {}), "https://queue.fal.run.elsewhere.test/j-1")
    strays = [
        call for call in calls_of(binding, job_of(name, elsewhere)) if "//queue.fal.run.elsewhere.test" in call.url
    ]
    assert len(strays) == (3 if name == "fal" else 0)
    assert [call for call in strays if SECRET in str(call)] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_echoed_credential_is_not_shown(name: str) -> None:
    """A provider that repeats the credential in its complaint does not bring it into our messages."""
    with pytest.raises(CredentialsRefused) as caught:
        binding_of(name).read_poll(answer_with(401, f"bad key {SECRET}".encode()))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if not recipe_of(name).secret_required])
def test_servers_of_ones_own_need_no_credential(name: str) -> None:
    """Where the credential is optional, requests without one carry no such header."""
    binding = binding_of(name, secret=None)
    sent = {header for call in calls_of(binding, job_of(name)) for header, _ in call.headers}
    assert sent & binding.recipe.credentials.keys() == set()


def calls_of(binding: Binding, job: Job) -> list[Call]:
    """Every request that a recipe can make."""
    calls = [binding.create_call(task_with({})), binding.poll_call(job), binding.cancel_call(job)]
    if binding.recipe.fetch is not None:
        calls.append(binding.fetch_call(job))
    return [call for call in calls if call is not None]
