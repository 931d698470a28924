"""The `[algorithms.NAME]` tables: which recipe, with which parameters, how often, how many."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from creche.config_recipes import read_recipe, recipe_source
from creche.config_values import Route, Secret, read_route, read_secret
from creche.core.document import Table, scalar
from creche.core.polling import Rhythm
from creche.core.recipe import Recipe
from creche.core.recipe_steps import Caps
from creche.errors import PluginError, RecipeError
from creche.plugin import Plugin, find_plugin


class AlgorithmSection(msgspec.Struct, frozen=True, kw_only=True):
    """One `[algorithms.NAME]` table: a recipe or a plug-in, its parameters, its limits.

    `source` is where the recipe came from: the name of a shipped one, or the whole path of its file; or the plug-in's
    name.
    """

    name: str
    kind: Recipe | Plugin
    source: str
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
        kind = self._kind(table)
        params = table.table("params")
        secret = read_secret(table, "secret", self._environ)
        base = table.text("base") or (kind.base if kind is not None else "")
        deadline_s = table.duration("deadline", deadline_s, at_least_s=1.0)
        timeout_s = table.duration("timeout", 30.0, at_least_s=0.1)
        route = self._route(table, base, route)
        caps = kind.caps if kind is not None else Caps(in_flight=None, creates_per_s=None, polls_per_s=None)
        in_flight = table.integer("in_flight", caps.in_flight or 0) or None
        creates_per_s = table.rate("create_rate", caps.creates_per_s)
        polls_per_s = table.rate("poll_rate", caps.polls_per_s)
        assets = table.choice("assets", "leave", ("leave", "save"))
        on_timeout = table.choice("on_timeout", "leave", ("leave", "cancel"))
        on_unknown = table.choice("on_unknown", "ask", ("ask", "retry"))
        rhythm = _rhythm(table, kind.rhythm if kind is not None else Rhythm())
        table.close()
        if kind is None:
            return None
        if _scheme(base) not in {"http", "https", "http+unix"}:
            table.wrong("base", f'expected a URL such as "https://api.example.com", got "{base}"')
        what = f'{"recipe" if isinstance(kind, Recipe) else "plug-in"} "{kind.name}"'
        if kind.secret_required and "secret" not in table:
            table.wrong("secret", f"missing; {what} needs it: ${{env:NAME}} or ${{credential:NAME}}")
        if assets == "save" and not kind.names_files:
            table.wrong("assets", f"leave it out: {what} names no files")
        return AlgorithmSection(
            name=name,
            kind=kind,
            source=kind.name if isinstance(kind, Plugin) else recipe_source(table.text("recipe"), self._folder),
            base=base,
            params=_with_defaults(kind, params),
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

    def _kind(self, table: Table) -> Recipe | Plugin | None:
        if "plugin" in table:
            if "recipe" in table:
                table.wrong("recipe", "leave it out: a plug-in needs none")
            name = table.text("plugin")
            try:
                return find_plugin(name)
            except PluginError as exc:
                table.wrong("plugin", str(exc))
                return None
        table.text("plugin")
        table.required("recipe", "the name of one (`creche recipes list`), or a path to a TOML file; or say `plugin`")
        return self._recipe(table) if "recipe" in table else None

    def _recipe(self, table: Table) -> Recipe | None:
        """A recipe is read once, however many algorithms use it, so that its mistakes are told once."""
        name = table.text("recipe")
        if name not in self._recipes:
            self._recipes[name] = self._read_recipe(name, table)
        return self._recipes[name]

    def _read_recipe(self, name: str, table: Table) -> Recipe | None:
        try:
            text = read_recipe(name, self._folder)
        except RecipeError as exc:
            table.wrong("recipe", str(exc))
            return None
        try:
            return text.load()
        except RecipeError as exc:
            self._mistakes.extend(exc.mistakes)
        return None


def _scheme(url: str) -> str:
    """In lower case; empty for what is no URL of a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.scheme if parts.netloc else ""


def _rhythm(table: Table, default: Rhythm) -> Rhythm:
    """The recipe's rhythm, where the algorithm does not say otherwise."""
    every_s = table.duration("poll_every", default.every_s, at_least_s=0.05)
    return Rhythm(
        first_s=table.duration("poll_first", default.first_s),
        every_s=every_s,
        grow=table.number("poll_grow", default.grow, at_least=1.0),
        up_to_s=table.duration("poll_up_to", max(every_s, default.up_to_s)),
        grace_s=default.grace_s,
        max_failures=table.integer("max_failures", default.max_failures, at_least=1),
    )


def _with_defaults(kind: Recipe | Plugin, params: Table) -> dict[str, Any]:
    values = {}
    for name, parameter in kind.params.items():
        default: Any = parameter.default
        values[name] = params.value(name, default, scalar)
        if values[name] is None:
            params.required(name, parameter.about)
    params.close()
    return values
