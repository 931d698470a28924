"""The `[algorithms.NAME]` tables: which recipe, with which parameters, how often, how many."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping
from importlib.abc import Traversable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import tomli

from creche.config_values import Route, Secret, read_route, read_secret
from creche.core.document import Table, scalar, suggestion
from creche.core.polling import Rhythm
from creche.core.recipe import Recipe, load_recipe
from creche.core.recipe_steps import Caps
from creche.errors import RecipeError


class AlgorithmSection(msgspec.Struct, frozen=True, kw_only=True):
    """One `[algorithms.NAME]` table: a recipe, its parameters, its limits.

    `recipe_source` is where the recipe came from: the name of a shipped one, or the whole path of its file.
    """

    name: str
    recipe: Recipe
    recipe_source: str
    base: str
    params: Mapping[str, Any]
    secret: Secret | None
    rhythm: Rhythm
    deadline_s: float
    timeout_s: float
    route: Route
    in_flight: int | None
    creates_per_s: float | None
    polls_per_s: float | None
    assets: str
    on_timeout: str
    on_unknown: str


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with creche."""
    folder = importlib.resources.files("creche") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


class AlgorithmsReader:
    """Reads the tables; `folder` is where recipes given as files are looked up. Mistakes gather in `mistakes`."""

    def __init__(self, mistakes: list[str], folder: Path, environ: Mapping[str, str]) -> None:
        self._mistakes = mistakes
        self._folder = folder
        self._environ = environ
        self._recipes: dict[str, Recipe | None] = {}

    def read(self, table: Table, deadline_s: float, route: Route) -> dict[str, AlgorithmSection]:
        """All of them; `deadline_s` and `route` hold for those that do not say otherwise."""
        found = {}
        for name in table.keys():  # noqa: SIM118 - not a dict
            section = self._algorithm(name, table.table(name), deadline_s, route)
            if section is not None:
                found[name] = section
        return found

    def _algorithm(self, name: str, table: Table, deadline_s: float, route: Route) -> AlgorithmSection | None:
        table.required("recipe", f"one of {', '.join(shipped_recipes())}, or a path to a TOML file")
        recipe = self._recipe(table) if "recipe" in table else None
        params = table.table("params")
        secret = read_secret(table, "secret", self._environ)
        base = table.text("base") or (recipe.base if recipe is not None else "")
        deadline_s = table.duration("deadline", deadline_s, at_least_s=1.0)
        timeout_s = table.duration("timeout", 30.0, at_least_s=0.1)
        route = self._route(table, base, route)
        caps = recipe.caps if recipe is not None else Caps(in_flight=None, creates_per_s=None, polls_per_s=None)
        in_flight = table.integer("in_flight", caps.in_flight or 0) or None
        creates_per_s = table.rate("create_rate", caps.creates_per_s)
        polls_per_s = table.rate("poll_rate", caps.polls_per_s)
        assets = table.choice("assets", "leave", ("leave", "save"))
        on_timeout = table.choice("on_timeout", "leave", ("leave", "cancel"))
        on_unknown = table.choice("on_unknown", "ask", ("ask", "retry"))
        rhythm = _rhythm(table, recipe)
        table.close()
        if recipe is None:
            return None
        if _scheme(base) not in {"http", "https", "http+unix"}:
            table.wrong("base", f'expected a URL such as "https://api.example.com", got "{base}"')
        if recipe.secret_required and "secret" not in table:
            table.wrong("secret", f'missing; recipe "{recipe.name}" needs it: ${{env:NAME}} or ${{credential:NAME}}')
        if assets == "save" and recipe.assets is None:
            table.wrong("assets", f'leave it out: recipe "{recipe.name}" names no files, see [assets] there')
        return AlgorithmSection(
            name=name,
            recipe=recipe,
            recipe_source=self._source(table.text("recipe")),
            base=base,
            params=_with_defaults(recipe, params),
            secret=secret,
            rhythm=rhythm,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
            route=route,
            in_flight=in_flight,
            creates_per_s=creates_per_s,
            polls_per_s=polls_per_s,
            assets=assets,
            on_timeout=on_timeout,
            on_unknown=on_unknown,
        )

    def _route(self, table: Table, base: str, default: Route) -> Route:
        if _scheme(base) != "http+unix":
            return read_route(table, self._environ, default)
        route = read_route(table, self._environ, Route(proxy=None, http2=False))
        if route.proxy is not None:
            table.wrong("proxy", f'no proxy leads to a Unix socket, which is where "{base}" is; leave it out')
        if route.http2:
            table.wrong("http2", f'a provider on a Unix socket, as "{base}", is asked in HTTP/1.1; leave it out')
        return route

    def _recipe(self, table: Table) -> Recipe | None:
        """A recipe is read once, however many algorithms use it, so that its mistakes are told once."""
        name = table.text("recipe")
        if name not in self._recipes:
            self._recipes[name] = self._read_recipe(name, table)
        return self._recipes[name]

    def _read_recipe(self, name: str, table: Table) -> Recipe | None:
        if name.endswith(".toml"):
            path: Traversable = Path(self._source(name))
            title, shown = Path(name).stem, str(path)
        elif name in shipped_recipes():
            path = importlib.resources.files("creche") / "recipes" / f"{name}.toml"
            title, shown = name, f"recipes/{name}.toml"
        else:
            table.wrong("recipe", f'no recipe is called "{name}"{suggestion(name, shipped_recipes())}')
            return None
        try:
            return load_recipe(title, tomli.loads(path.read_text("utf-8")), shown)
        except OSError as exc:
            table.wrong("recipe", f"{shown} cannot be read: {exc.strerror}")
        except (ValueError, RecursionError) as exc:
            table.wrong("recipe", f"{shown} is no valid TOML: {exc}")
        except RecipeError as exc:
            self._mistakes.extend(exc.mistakes)
        return None

    def _source(self, name: str) -> str:
        # As text: Path's own raises for a user that does not exist.
        return str((self._folder / os.path.expanduser(name)).absolute()) if name.endswith(".toml") else name  # noqa: PTH111


def _scheme(url: str) -> str:
    """In lower case; empty for what is no URL of a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.scheme if parts.netloc else ""


def _rhythm(table: Table, recipe: Recipe | None) -> Rhythm:
    """The recipe's rhythm, where the algorithm does not say otherwise."""
    poll = recipe.poll if recipe is not None else None
    every_s = table.duration("poll_every", poll.every_s if poll else 3.0, at_least_s=0.05)
    return Rhythm(
        first_s=table.duration("poll_first", poll.first_s if poll else 0.0),
        every_s=every_s,
        grow=table.number("poll_grow", poll.grow if poll else 1.0, at_least=1.0),
        up_to_s=table.duration("poll_up_to", max(every_s, poll.up_to_s if poll else 60.0)),
        grace_s=poll.grace_s if poll else 10.0,
        max_failures=table.integer("max_failures", 5, at_least=1),
    )


def _with_defaults(recipe: Recipe, params: Table) -> dict[str, Any]:
    values = {}
    for name, parameter in recipe.params.items():
        default: Any = parameter.default
        values[name] = params.value(name, default, scalar)
        if values[name] is None:
            params.required(name, parameter.about)
    params.close()
    return values
