"""What holds for every shipped recipe, whatever its provider. Its requests and answers: test_conformance.py."""

from __future__ import annotations

import msgspec
import pytest

from creche.core.binding import Binding
from creche.core.exchange import Call
from creche.core.reading import JobStatus
from creche.core.recipe import Recipe
from creche.core.task import Job
from tests.recipes.conftest import FOLDER, NAMES, SECRET, recipe_of, task_with
from tests.recipes.test_conformance import recording_of

ELSEWHERE = "https://elsewhere.example/j-1"


def test_there_are_enough() -> None:
    """Whoever comes with a provider's name most likely finds it."""
    assert len(NAMES) >= 50


@pytest.mark.parametrize("name", NAMES)
def test_recipes_load_and_explain_themselves(name: str) -> None:
    """A shipped recipe has no mistake, says what it is for and how well it is known, and a word to each parameter."""
    recipe = recipe_of(name)
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert recipe.title != name
    assert recipe.docs.startswith(("https://", "creche "))
    assert recipe.evidence
    assert text.startswith("# ")
    assert f'#   recipe = "{name}"' in text, "the head shows how it is used"
    assert [key for key, param in recipe.params.items() if not param.about] == []


@pytest.mark.parametrize("name", NAMES)
def test_recipes_tell_the_ends_apart(name: str) -> None:
    """A shipped recipe can read success and failure."""
    poll = recipe_of(name).poll
    known = {*poll.statuses.values(), *(rule.then for rule in poll.rules)}
    assert known >= {JobStatus.SUCCEEDED, JobStatus.FAILED}


@pytest.mark.parametrize("name", NAMES)
def test_creates_that_cannot_be_repeated_use_a_new_connection(name: str) -> None:
    """Without a token or an id of ours, a create is never sent into a connection that may be closing."""
    binding = binding_of(name)
    if binding.recipe.create is not None:
        call = binding.create_call(task_with(recording_of(name).input))
        assert call.fresh is (binding.way.repeat in {"none", "lookup"} or call.method == "GET")


@pytest.mark.parametrize("name", NAMES)
def test_the_credential_goes_to_the_provider(name: str) -> None:
    """Each request to the provider's own address carries the credential, and in no URL."""
    binding = binding_of(name)
    calls = [call for call in calls_of(binding, job_of(name)) if call.url.startswith(binding.calls.base)]
    assert calls
    for call in calls:
        assert SECRET not in call.url
        assert binding.recipe.credentials.keys() <= dict(call.headers).keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_credential_goes_nowhere_else(name: str) -> None:
    """A URL in an answer that leads elsewhere is asked without the credential."""
    binding = binding_of(name)
    kept = names_kept(binding.recipe)
    calls = calls_of(binding, Job("j-1", dict.fromkeys(kept, ELSEWHERE)))
    strays = [call for call in calls if call.url.startswith("https://elsewhere.example")]
    for call in strays:
        assert not binding.recipe.credentials.keys() & dict(call.headers).keys()
        assert SECRET not in str(call)


@pytest.mark.parametrize("name", [name for name in NAMES if not recipe_of(name).secret_required])
def test_servers_of_ones_own_need_no_credential(name: str) -> None:
    """Where the credential is optional, requests without one carry no such header."""
    binding = binding_of(name, secret=None)
    sent = {header for call in calls_of(binding, job_of(name)) for header, _ in call.headers}
    assert sent & binding.recipe.credentials.keys() == set()


def binding_of(name: str, secret: str | None = SECRET) -> Binding:
    recipe, recording = recipe_of(name), recording_of(name)
    params = {key: param.default for key, param in recipe.params.items()} | recording.params
    return Binding(recipe, base=recording.base or recipe.base, params=params, secret=secret)


def names_kept(recipe: Recipe) -> set[str]:
    steps = (recipe.create, recipe.lookup, recipe.poll)
    return {name for step in steps if step is not None for name in step.keep}


def job_of(name: str) -> Job:
    recording = recording_of(name)
    kept = dict.fromkeys(names_kept(recipe_of(name)), f"{recording.base or recipe_of(name).base}/kept")
    return Job(recording.job, kept)


def calls_of(binding: Binding, job: Job) -> list[Call]:
    """Every request that a recipe can make."""
    calls: list[Call | None] = [binding.poll_call(job), binding.cancel_call(job)]
    if binding.recipe.create is not None:
        task = msgspec.structs.replace(task_with(recording_of(binding.recipe.name).input), user="u")
        calls.append(binding.create_call(task))
    if binding.recipe.fetch is not None:
        calls.append(binding.fetch_call(job))
    return [call for call in calls if call is not None]
