"""The docs as text: links lead somewhere, examples can be read by what they are for, drawings are up to date."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from creche import config
from creche.core.recipe import load_recipe
from tests.manual import page as page_of_the_manual

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = ROOT / "config.toml"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
REFERENCE = re.compile(r"\$\{(env|credential):([A-Za-z0-9_.-]+)\}")
OFF = re.compile(r"^#(?=[a-z\[])", re.MULTILINE)
"""What makes a line of config.toml a setting that is off; a comment has a space there."""


MADE_UP = "whsec_" + 12 * "bWFk"
"""A secret that is good for everything: it has the form that those of webhooks must have."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fences(page: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def anchors(page: Path) -> set[str]:
    """The ids that a forge gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def environ_for(text: str, folder: Path) -> dict[str, str]:
    """An environment in which every secret that a configuration refers to is there."""
    environ = {"CREDENTIALS_DIRECTORY": str(folder), "HOME": str(folder)}
    for kind, found in REFERENCE.findall(text):
        if kind == "env":
            environ[found] = MADE_UP
        else:
            (folder / found).write_text(MADE_UP, encoding="utf-8")
    return environ


def load(text: str, folder: Path) -> config.Config:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, environ_for(text, folder))


def without_algorithms(loaded: config.Config) -> config.Config:
    return msgspec.structs.replace(loaded, source=None, algorithms={})


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link leads to a file that is there, and to a heading that is there."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_can_be_found() -> None:
    """Every page of docs/ is linked from another one."""
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if not link.startswith("#")
    }
    assert [name(page) for page in PAGES[1:] if page.resolve() not in linked] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_begin_with_a_title_and_what_they_are_for(page: Path) -> None:
    """A page begins with its title, and says in a sentence what it is for before anything else."""
    title, blank, first = page.read_text(encoding="utf-8").splitlines()[:3]
    assert title.startswith("# ")
    assert blank == ""
    assert re.match(r"[A-Za-z`]", first)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_are_python(page: Path) -> None:
    """Every Python example compiles."""
    for code in fences(page, "python"):
        ast.parse(code)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_json_examples_are_json(page: Path) -> None:
    """Every JSON example is one value, every example of JSON lines one value per line."""
    for code in fences(page, "json"):
        json.loads(code)
    for code in fences(page, "jsonl"):
        for line in code.splitlines():
            json.loads(line)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_toml_examples_load(page: Path, tmp_path: Path) -> None:
    """Every TOML example is a recipe or a configuration without mistakes; the latter may use the page's recipes."""
    examples = fences(page, "toml")
    recipes = [code for code in examples if "poll" in tomllib.loads(code)]
    for code in recipes:
        load_recipe("example", tomllib.loads(code), name(page))
        path = tmp_path / code.partition("\n")[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")
    for code in examples:
        if code not in recipes:
            load(code, tmp_path)


def test_the_diagram_of_statuses_is_up_to_date() -> None:
    """The diagram on the page is what scripts/statuses draws from `MOVES`."""
    command = [str(ROOT / "scripts/statuses"), "--print"]
    drawn = subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603 - our own script
    page = (ROOT / "docs/explanation/statuses.md").read_text(encoding="utf-8")
    assert f"<!-- statuses: begin -->\n{drawn.stdout}<!-- statuses: end -->" in page


def test_the_manual_page_is_up_to_date() -> None:
    """docs/creche.1 is what scripts/man makes of the commands' help."""
    assert (ROOT / "docs/creche.1").read_text(encoding="utf-8") == page_of_the_manual()


# -- config.toml -------------------------------------------------------------------------------------------------------


def test_the_example_loads_in_an_empty_environment() -> None:
    """config.toml as it stands needs no secret and has no mistake."""
    assert set(config.load(EXAMPLE, {"HOME": "/"}).algorithms) == {"rehearsal", "report", "train"}


def test_the_example_loads_with_everything_on(tmp_path: Path) -> None:
    """With every setting on and its secrets there, config.toml has no mistake, and shows recipes of several sorts."""
    loaded = load(OFF.sub("", EXAMPLE.read_text(encoding="utf-8")), tmp_path)
    recipes = {section.kind.name for section in loaded.algorithms.values()}
    assert recipes >= {"simulator", "bentoml", "replicate", "openai-batch"}


def test_the_example_shows_the_defaults() -> None:
    """The settings of config.toml that are on change nothing."""
    environ = {"HOME": "/"}
    assert without_algorithms(config.load(EXAMPLE, environ)) == without_algorithms(config.load(None, environ))


def test_the_example_shows_the_defaults_of_an_algorithm(tmp_path: Path) -> None:
    """What config.toml says about its first algorithm is what a table with nothing but the recipe means."""
    shown = config.load(EXAMPLE, {"HOME": "/"}).algorithms["rehearsal"]
    bare = load('[algorithms.rehearsal]\nrecipe = "simulator"\n', tmp_path).algorithms["rehearsal"]
    assert shown == bare


def test_every_setting_of_the_example_is_explained() -> None:
    """A comment stands above each setting of config.toml, or above the group of settings that it belongs to."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    first = lines.index("# Methods marked @bentoml.task of a BentoML service.")
    bare = [
        line
        for before, line in pairwise(lines[:first])
        if OFF.sub("", line)[:1].isalpha() and (not before or before.startswith("["))
    ]
    assert bare == []
