"""The recipe format: how to create, poll, fetch and cancel jobs at one kind of provider API, as TOML without code.

`load_recipe` turns a parsed document into a `Recipe` or names all its mistakes. Every key is described in
docs/reference/recipes.md, which a test compares with this module. What a recipe says is applied by `core.binding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from creche.core import recipe_tables as tables
from creche.core.document import Table
from creche.core.envelope import Envelope
from creche.core.jwt import Jwt
from creche.core.polling import Rhythm
from creche.core.recipe_steps import Assets, CancelStep, Caps, CreateStep, FetchStep, LookupStep, ManyStep, PollStep
from creche.core.recipe_tables import Parameter
from creche.core.recipe_values import as_day
from creche.core.template import body_fields, url_fields
from creche.errors import RecipeError

OURS = frozenset({"task", "token", "user", "job", "input", "ids", "wait"})
"""Names that stand for values of creche's own in every template."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One checked recipe. `evidence`, `unverified` and `sunset` are for people: how well it is known to work."""

    name: str
    title: str
    docs: str
    evidence: tuple[str, ...]
    unverified: tuple[str, ...]
    sunset: str
    base: str
    origins: tuple[str, ...]
    params: Mapping[str, Parameter]
    headers: Mapping[str, str]
    credentials: Mapping[str, str]
    jwt: Jwt | None
    secret_required: bool
    envelope: Envelope | None
    caps: Caps
    create: CreateStep | None
    lookup: LookupStep | None
    poll: PollStep
    many: ManyStep | None
    fetch: FetchStep | None
    assets: Assets | None
    cancel: CancelStep | None

    @property
    def rhythm(self) -> Rhythm:
        """How often to ask, where an algorithm does not say otherwise."""
        step = self.poll
        return Rhythm(
            first_s=step.first_s, every_s=step.every_s, grow=step.grow, up_to_s=step.up_to_s, grace_s=step.grace_s
        )

    @property
    def can_create(self) -> bool:
        """Whether jobs can be made, and not only be attached to."""
        return self.create is not None

    @property
    def can_cancel(self) -> bool:
        """Whether jobs can be ended."""
        return self.cancel is not None

    @property
    def names_files(self) -> bool:
        """Whether it says which files belong to a result."""
        return self.assets is not None


def load_recipe(name: str, data: Mapping[str, Any], source: str) -> Recipe:
    """Check a parsed TOML document. `source` names it in messages. Raises `RecipeError` with all mistakes."""
    mistakes: list[str] = []
    root = Table(data, "", mistakes, source)
    root.required("poll", "every recipe says how to poll")
    auth = root.table("auth")
    credentials = {key: auth.text(key) for key in auth.keys() if key not in {"optional", "jwt"}}  # noqa: SIM118 - not a dict
    recipe = Recipe(
        name=name,
        title=root.text("title", name),
        docs=root.text("docs"),
        evidence=root.texts("evidence"),
        unverified=root.texts("unverified"),
        sunset=root.value("sunset", "", as_day),
        base=root.text("base"),
        origins=root.texts("origins"),
        params=tables.params(root.table("params")),
        headers=root.text_map("headers"),
        credentials=credentials,
        jwt=tables.jwt(auth.table("jwt")) if "jwt" in auth else None,
        secret_required=bool(credentials) and not auth.flag("optional"),
        envelope=tables.envelope(root.table("envelope")) if "envelope" in root else None,
        caps=tables.caps(root.table("caps")),
        create=tables.create(root.table("create")) if "create" in root else None,
        lookup=tables.lookup(root.table("lookup")) if "lookup" in root else None,
        poll=tables.poll(root.table("poll")),
        many=tables.many(root.table("many")) if "many" in root else None,
        fetch=tables.fetch(root.table("fetch")) if "fetch" in root else None,
        assets=tables.assets(root.table("assets")) if "assets" in root else None,
        cancel=tables.cancel(root.table("cancel")) if "cancel" in root else None,
    )
    auth.close()
    root.close()
    _check_credentials(recipe, root)
    _check_lookup(recipe, root)
    if recipe.poll.once and recipe.many is not None:
        root.wrong("many", "leave it out: with `once` below [poll] the end of a job is told to one poll, its own")
    _check_names(recipe, root)
    if mistakes:
        raise RecipeError(mistakes)
    return recipe


def _check_credentials(recipe: Recipe, root: Table) -> None:
    auth = root.table("auth")
    known = {"secret"} if recipe.jwt is None else {"secret", "jwt"}
    used = {name: url_fields(value) for name, value in recipe.credentials.items()}
    for name, fields in used.items():
        for field in fields:
            if field not in known:
                only = " and ".join(f"{{{one}}}" for one in sorted(known))
                auth.wrong(name, f'"{field}" is not known here; only {only}')
    if recipe.jwt is not None:
        if not any("jwt" in fields for fields in used.values()):
            auth.wrong("jwt", 'no header of [auth] has it: Authorization = "Bearer {jwt}"')
        for name in sorted(body_fields(recipe.jwt.claims) - recipe.params.keys()):
            auth.table("jwt").wrong("claims", f'"${name}" is not a parameter')


def _check_lookup(recipe: Recipe, root: Table) -> None:
    """Who looks for a job must have sent what it can be found by."""
    create = recipe.create
    wanted = create is not None and create.repeat == "lookup"
    if wanted and recipe.lookup is None:
        root.wrong("create", 'repeat = "lookup" needs the table [lookup], which says how')
    if recipe.lookup is not None and not wanted:
        root.wrong("lookup", 'leave it out, or say [create] repeat = "lookup"')
    if wanted and create is not None:
        named = {field for text in (create.url, *create.headers.values()) for field in url_fields(text)}
        if "token" not in named | body_fields(create.body):
            root.table("create").wrong(
                "repeat", 'repeat = "lookup" needs "$token" in the body, or {token} elsewhere, to be found by'
            )


def _check_names(recipe: Recipe, root: Table) -> None:
    """Every name that a template uses must be a parameter, a kept value, or one of ours."""
    for name in sorted(recipe.params.keys() & OURS):
        root.table("params").wrong(name, "this name stands for a value of creche's own; choose another")
    keepers = (recipe.create, recipe.lookup, recipe.poll)
    kept = {f"keep.{name}" for step in keepers if step is not None for name in step.keep}
    steps = {
        "create": recipe.create,
        "lookup": recipe.lookup,
        "poll": recipe.poll,
        "many": recipe.many,
        "fetch": recipe.fetch,
        "cancel": recipe.cancel,
    }
    of_task = {"task", "token", "user"}
    of_job = {"job", *kept}
    ours_at = {"create": of_task, "lookup": of_task, "many": {"ids"}}
    if recipe.poll.wait_s:
        ours_at["poll"] = of_job | {"wait"}
    used = {
        place: [*url_fields(step.url), *(name for value in step.headers.values() for name in url_fields(value))]
        for place, step in steps.items()
        if step is not None
    }
    if recipe.assets is not None:
        used["assets"] = url_fields(recipe.assets.url)
    for place, names in used.items():
        step = steps.get(place)
        known = recipe.params.keys() | ours_at.get(place, of_job)
        unknown = [name for name in names if name not in known]
        if step is not None:
            allowed = known | ({"input"} if place == "create" else set())
            unknown += sorted(f"${name}" for name in body_fields(step.body) - allowed)
        for name in unknown:
            root.wrong(place, f'"{name}" is not a parameter, a kept value or one of {", ".join(sorted(known))}')
