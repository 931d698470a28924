"""Every shipped recipe through the life of a job at its provider, over answers in the shapes that its API documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from creche.conformance import SECRET, Check, FakeTransport, checks
from creche.core.binding import Binding
from creche.core.reading import JobStatus
from creche.core.recipe import Recipe
from creche.core.recording import Recording, load_recording
from creche.edges.http_provider import HttpProvider
from tests.recipes.conftest import NAMES, recipe_of

FOLDER = Path(__file__).parent / "recordings"

ELSEWHERE = "https://elsewhere.example/job"


def recording_of(name: str) -> Recording:
    path = FOLDER / f"{name}.json"
    return load_recording(path.read_bytes(), path.name)


def provider_of(name: str, transport: FakeTransport, secret: str | None = SECRET) -> HttpProvider:
    recipe, recording = recipe_of(name), recording_of(name)
    params = {key: param.default for key, param in recipe.params.items()} | recording.params
    binding = Binding(recipe, base=recording.base or recipe.base, params=params, secret=secret)
    return HttpProvider(binding, transport, timeout_s=1.0, wall=lambda: 1_800_000_000.0)


def _all_checks() -> list[tuple[str, Check]]:
    found = []
    for name in NAMES:
        recipe = recipe_of(name)
        suite = checks(recording_of(name), base=recipe.base, status=recipe.poll.status)
        found += [(name, check) for check in suite]
    return found


ALL_CHECKS = _all_checks()


@pytest.mark.parametrize(("name", "check"), ALL_CHECKS, ids=[f"{name}: {check}" for name, check in ALL_CHECKS])
async def test_the_recipe_minds_a_job(name: str, check: Check) -> None:
    """The recipe writes the requests that the API documents, and reads its answers rightly."""
    await check(lambda transport: provider_of(name, transport))


def meanings_of(recipe: Recipe) -> set[JobStatus]:
    return {*recipe.poll.statuses.values(), *(rule.then for rule in recipe.poll.rules)}


@pytest.mark.parametrize("name", NAMES)
def test_the_recording_is_whole(name: str) -> None:
    """Each thing that a recipe says is in its recording: each kind of request, and an answer for each meaning."""
    recipe, recording = recipe_of(name), recording_of(name)
    assert {scene.means for scene in recording.scenes} >= meanings_of(recipe)
    assert (recording.create is None, recording.cancel is None) == (recipe.create is None, recipe.cancel is None)
    assert (not recording.lookup, recording.many is None) == (recipe.lookup is None, recipe.many is None)
    assert any(scene.fetch is not None for scene in recording.scenes) is (recipe.fetch is not None)
    assert recording.source


def test_no_recording_is_left_over() -> None:
    """Each recording belongs to a recipe."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES)


def test_evidence_by_an_sdk_is_that_of_the_recording() -> None:
    """The recipe names the version whose types read its recording."""
    for name in NAMES:
        for package in recording_of(name).sdk:
            assert package.replace("==", " ") in recipe_of(name).evidence, name
