"""Where recipes are: those that come with creche, by their names, and files of one's own."""

from __future__ import annotations

import difflib
import importlib.resources
import os
from importlib.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import tomli

from creche.core.recipe import Recipe, load_recipe
from creche.errors import RecipeError


class RecipeText(NamedTuple):
    """A recipe as it is written. `source` names it in messages."""

    name: str
    source: str
    text: str

    def load(self) -> Recipe:
        """The recipe, checked. Raises `RecipeError`."""
        try:
            document = tomli.loads(self.text)
        except (ValueError, RecursionError) as exc:
            raise RecipeError([f"{self.source} is no valid TOML: {exc}"]) from exc
        return load_recipe(self.name, document, self.source)


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with creche."""
    return sorted(entry.name.removesuffix(".toml") for entry in _shipped().iterdir() if entry.name.endswith(".toml"))


def recipe_source(name: str, folder: Path) -> str:
    """The name of a shipped recipe, or the whole path of a file, which is looked up in `folder`."""
    # As text: Path's own raises for a user that does not exist.
    return str((folder / os.path.expanduser(name)).absolute()) if name.endswith(".toml") else name  # noqa: PTH111


def read_recipe(name: str, folder: Path) -> RecipeText:
    """The text of a shipped recipe, by its name, or of a file that ends in .toml. Raises `RecipeError`."""
    path: Traversable
    if name.endswith(".toml"):
        source = recipe_source(name, folder)
        title, path = Path(name).stem, Path(source)
    elif name in shipped_recipes():
        title, source, path = name, f"recipes/{name}.toml", _shipped() / f"{name}.toml"
    else:
        close = difflib.get_close_matches(name, shipped_recipes(), n=1, cutoff=0.6)
        instead = f'did you mean "{close[0]}"?' if close else "`creche recipes list` shows them; a file ends in .toml"
        raise RecipeError([f'no recipe is called "{name}" ({instead})'])
    try:
        return RecipeText(title, source, path.read_text("utf-8"))
    except OSError as exc:
        raise RecipeError([f"{source} cannot be read: {exc.strerror}"]) from exc
    except ValueError as exc:  # no UTF-8, or a name that no file can have
        raise RecipeError([f"{source} is no valid TOML: {exc}"]) from exc


def _shipped() -> Traversable:
    return importlib.resources.files("creche") / "recipes"
