"""`creche recipes`: what there is, what is wrong, what would be sent, and how answers are read."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from creche.cli.recipes import SUNSET_DAYS, warnings
from creche.core.recipe import load_recipe

if TYPE_CHECKING:
    from tests.cli.conftest import Run

DOCS = Path(__file__).parent.parent.parent / "docs"
SPOILED = """
[create]
url = "/v1/jobs/{task}/{wat}"
[poll]
url = "/v1/jobs/{job}"
statos = "/status"
statuses = { succeeded = ["done"], failed = ["done"] }
error = "message"
"""


def example(page: str, kind: str, folder: Path, name: str) -> Path:
    """The first example of a kind on a page, as a file."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    path = folder / name
    path.write_text(found[1], encoding="utf-8")
    return path


@pytest.fixture
def upscaler(tmp_path: Path) -> str:
    """The recipe of the tutorial."""
    return str(example("tutorial/first-recipe.md", "toml", tmp_path, "upscaler.toml"))


def test_the_list_has_fifty_and_more(creche: Run) -> None:
    """One line for each, with what it is for and what it does; as JSON an object for each."""
    ran = creche("recipes", "list")
    assert ran.code == 0
    assert len(ran.out.splitlines()) > 51
    assert re.search(r"^replicate +Replicate predictions +creates, assets, cancels$", ran.out, re.MULTILINE)
    rows = [json.loads(line) for line in creche("recipes", "list", "--json").out.splitlines()]
    assert {row["name"] for row in rows} >= {"dashscope", "kling", "openai-batch", "simulator"}
    assert next(row for row in rows if row["name"] == "openai-batch")["repeat"] == "lookup"


def test_a_recipe_is_shown_as_it_is_written(creche: Run, upscaler: str) -> None:
    """One that comes with creche by its name, and a file by its path."""
    assert creche("recipes", "show", "kling").out.startswith("# Films and images of Kling")
    assert creche("recipes", "show", upscaler).out == Path(upscaler).read_text(encoding="utf-8")
    assert json.loads(creche("recipes", "show", "kling", "--json").out)["params"]["access_key"]["default"] is None


def test_a_name_that_is_none_gets_the_one_it_resembles(creche: Run) -> None:
    """Exit code 1, and a word on what to do."""
    ran = creche("recipes", "show", "klink")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == 'creche: no recipe is called "klink" (did you mean "kling"?)\n'


def test_every_mistake_is_told_with_its_place(creche: Run, tmp_path: Path) -> None:
    """Keys that are unknown, names that stand for nothing, words with two meanings, pointers that are none."""
    path = tmp_path / "spoiled.toml"
    path.write_text(SPOILED, encoding="utf-8")
    ran = creche("recipes", "check", str(path))
    assert (ran.code, ran.out) == (78, "")
    told = ran.err.replace(f"creche: {path}: ", "").splitlines()
    assert 'poll.statos: unknown key (did you mean "status"?)' in told
    assert "create.id: missing; where the answer has the job's id" in told
    assert 'poll.statuses.failed: "done" is mapped to succeeded already' in told
    assert any(line.startswith("poll.error: expected a JSON pointer") for line in told)
    assert any(line.startswith('create: "wat" is not a parameter') for line in told)


def test_what_should_be_known_is_told(creche: Run, upscaler: str) -> None:
    """It is good, and says what it needs; that creates cannot be repeated is a warning."""
    ran = creche("recipes", "check", upscaler)
    assert ran.code == 0
    assert ran.out.startswith(f"{upscaler}: good\n")
    assert "a create whose answer is lost cannot be repeated" in ran.err


@pytest.mark.parametrize(
    ("today", "words"),
    [
        (date(2027, 1, 31), "the provider's API has ended on 2027-01-31"),
        (date(2027, 1, 30), "the provider's API ends on 2027-01-31"),
        (date(2026, 11, 3), "the provider's API ends on 2027-01-31"),
        (date(2026, 11, 2), None),
    ],
)
def test_an_api_that_ends_is_warned_of(today: date, words: str | None) -> None:
    """From ninety days before."""
    assert (date(2027, 1, 31) - date(2026, 11, 2)).days == SUNSET_DAYS
    poll = {"url": "/", "status": "/s", "statuses": {"succeeded": ["x"]}}
    recipe = load_recipe("r", {"sunset": "2027-01-31", "poll": poll, "cancel": {"url": "/"}}, "r.toml")
    assert warnings(recipe, today) == ([] if words is None else [words])


def test_requests_are_shown_and_not_sent(creche: Run, upscaler: str) -> None:
    """With stand-ins for what only the provider knows, and none for the secret."""
    ran = creche("recipes", "try", upscaler, "--data", '{"image": "x"}', "--param", "factor=4", "--json")
    assert (ran.code, ran.err) == (0, "")
    steps = {row["step"]: row for row in map(json.loads, ran.out.splitlines())}
    assert list(steps) == ["create", "poll", "cancel"]
    assert json.loads(steps["create"]["body"]) == {"image": "x", "factor": 4}
    assert steps["create"]["headers"]["X-Api-Key"] == "***"
    assert steps["cancel"] == steps["cancel"] | {"method": "DELETE", "url": f"{steps['create']['url']}/JOB"}


def test_recorded_answers_are_replayed(creche: Run, upscaler: str, tmp_path: Path) -> None:
    """Those of the tutorial are good; what reads them otherwise is told, and ends with exit code 1."""
    recording = str(example("reference/recordings.md", "json", tmp_path, "upscaler.json"))
    good = creche("recipes", "try", upscaler, "--answers", recording)
    assert good.code == 0
    assert re.fullmatch(r"upscaler: (\d+) of \1 checks good\n", good.out)
    path = Path(upscaler)
    path.write_text(path.read_text(encoding="utf-8").replace('"/image_url"', '"/image"'), encoding="utf-8")
    bad = creche("recipes", "try", upscaler, "--answers", recording)
    assert bad.code == 1
    assert "scene 3: succeeded: the result is " in bad.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "Input data was truncated"),
        ('{"source": "x"}', "Object missing required field `job`"),
        ('{"source": "x", "job": "j", "poll": {"method": "GET", "url": "/"}, "scenes": [{"means": "dunno"}]}', "dunno"),
    ],
)
def test_a_recording_that_is_none_says_why(
    creche: Run, upscaler: str, tmp_path: Path, content: str, words: str
) -> None:
    """With its name, and the place within."""
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="utf-8")
    ran = creche("recipes", "try", upscaler, "--answers", str(path))
    assert ran.code == 1
    assert ran.err.startswith(f"creche: {path}: ")
    assert words in ran.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--live", "--data", "{}"), "the recipe needs a key: say in --secret-env"),
        (("--live", "--data", "{}", "--secret-env", "NOWHERE_SET"), "the environment has no NOWHERE_SET"),
        (("--param", "factr=2"), 'expected NAME=VALUE of a parameter of the recipe (factor), got "factr=2"'),
        (("--data", "{"), "--data:1:2: not valid JSON"),
        (("--answers", "nowhere.json"), "cannot read nowhere.json: No such file or directory"),
    ],
)
def test_a_command_line_that_is_wrong_says_so(creche: Run, upscaler: str, args: tuple[str, ...], words: str) -> None:
    """Before anything is sent."""
    ran = creche("recipes", "try", upscaler, *args)
    assert (ran.code, ran.out) == (2, "")
    assert words in " ".join(ran.err.split())


def test_a_provider_that_is_not_in_the_list_takes_under_thirty_lines(creche: Run) -> None:
    """The example needs no code; it was written from the provider's page, and reads what that shows."""
    folder = DOCS.parent / "examples/shotstack"
    recipe = folder / "shotstack.toml"
    assert len(recipe.read_text(encoding="utf-8").splitlines()) < 30
    ran = creche("recipes", "try", str(recipe), "--answers", str(folder / "shotstack.json"))
    assert ran.code == 0, ran.out
