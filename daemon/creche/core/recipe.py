"""The recipe format: how to create, poll, fetch and cancel jobs at one kind of provider API, as TOML without code.

`load_recipe` turns a parsed document into a `Recipe` or names all its mistakes. Every key is described in
docs/reference/recipes.md, which a test compares with this module. What a recipe says is applied by `core.binding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from creche.core.document import Table, scalar
from creche.core.reading import JobStatus, Rule, Source
from creche.core.recipe_steps import (
    FORMATS,
    METHODS,
    CancelStep,
    CreateStep,
    FetchStep,
    LookupStep,
    ManyStep,
    PollStep,
)
from creche.core.recipe_values import (
    as_ends,
    as_equals,
    as_http_statuses,
    as_pointer,
    as_pointers,
    as_progress,
    as_source,
)
from creche.core.template import body_fields, url_fields
from creche.core.way import REPEATS
from creche.errors import RecipeError

OURS = frozenset({"task", "token", "user", "job", "input", "ids"})
"""Names that stand for values of creche's own in every template."""


class Parameter(msgspec.Struct, frozen=True):
    """A value that an algorithm gives; required when it has no default."""

    about: str
    default: str | int | float | bool | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One checked recipe."""

    name: str
    title: str
    docs: str
    base: str
    origins: tuple[str, ...]
    params: Mapping[str, Parameter]
    headers: Mapping[str, str]
    credentials: Mapping[str, str]
    secret_required: bool
    create: CreateStep | None
    lookup: LookupStep | None
    poll: PollStep
    many: ManyStep | None
    fetch: FetchStep | None
    cancel: CancelStep | None


def load_recipe(name: str, data: Mapping[str, Any], source: str) -> Recipe:
    """Check a parsed TOML document. `source` names it in messages. Raises `RecipeError` with all mistakes."""
    mistakes: list[str] = []
    root = Table(data, "", mistakes, source)
    root.required("poll", "every recipe says how to poll")
    params = _params(root.table("params"))
    auth = root.table("auth")
    credentials = {key: auth.text(key) for key in auth.keys() if key != "optional"}  # noqa: SIM118 - not a dict
    recipe = Recipe(
        name=name,
        title=root.text("title", name),
        docs=root.text("docs"),
        base=root.text("base"),
        origins=root.texts("origins"),
        params=params,
        headers=root.text_map("headers"),
        credentials=credentials,
        secret_required=bool(credentials) and not auth.flag("optional"),
        create=_create(root.table("create")) if "create" in root else None,
        lookup=_lookup(root.table("lookup")) if "lookup" in root else None,
        poll=_poll(root.table("poll")),
        many=_many(root.table("many")) if "many" in root else None,
        fetch=_fetch(root.table("fetch")) if "fetch" in root else None,
        cancel=_cancel(root.table("cancel")) if "cancel" in root else None,
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


def _params(table: Table) -> dict[str, Parameter]:
    params = {}
    for name in table.keys():  # noqa: SIM118 - not a dict
        row = table.table(name)
        default = row.value("default", None, scalar)
        params[name] = Parameter(about=row.text("about"), default=default)
        row.close()
    return params


def _step(table: Table, method: str) -> dict[str, Any]:
    table.required("url", "a path below `base`, or a whole URL")
    return {
        "method": table.choice("method", method, METHODS),
        "url": table.text("url"),
        "headers": table.text_map("headers"),
        "body": table.value("body", None, lambda tree: tree),
    }


def _create(table: Table) -> CreateStep:
    repeats = {word: word for word in REPEATS}
    repeat = repeats[table.choice("repeat", "none", REPEATS)]  # type: ignore[index]  # it is one of them
    if repeat != "id":
        table.required("id", "where the answer has the job's id")
    if repeat == "none" and "repeat_within" in table:
        table.wrong("repeat_within", 'leave it out: with `repeat = "none"` nothing is repeated')
    step = CreateStep(
        **_step(table, "POST"),
        id=table.value("id", None, as_source),
        keep=_sources(table.table("keep")),
        repeat=repeat,
        repeat_within_s=table.duration("repeat_within", 86400.0),
        busy=table.value("busy", frozenset({429}), as_http_statuses),
        exists=table.value("exists", frozenset(), as_http_statuses),
    )
    table.close()
    return step


def _poll(table: Table) -> PollStep:
    every_s = table.duration("every", 3.0, at_least_s=0.05)
    step = PollStep(
        **_step(table, "GET"),
        status=table.value("status", None, as_pointer),
        statuses=_statuses(table.table("statuses")),
        rules=tuple(_rule(row) for row in table.tables("rules")),
        keep=_sources(table.table("keep")),
        progress=table.value("progress", None, as_progress),
        result=table.value("result", "", as_pointer),
        error=table.value("error", (), as_pointers),
        retry_after=table.value("retry_after", None, as_source),
        first_s=table.duration("first", 0.0),
        every_s=every_s,
        grow=table.number("grow", 1.0, at_least=1.0),
        up_to_s=table.duration("up_to", max(every_s, 60.0)),
        grace_s=table.duration("grace", 10.0),
        once=table.flag("once"),
    )
    if not step.rules and (step.status is None or not step.statuses):
        table.wrong("status", "expected `status` with a table `statuses`, or `rules`")
    table.close()
    return step


def _many(table: Table) -> ManyStep:
    table.required("max", "how many jobs one request asks for at most")
    step = ManyStep(
        **_step(table, "GET"),
        max=table.integer("max", 2, at_least=2, at_most=10_000),
        separator=table.text("separator", ","),
        keyed_by_id=table.flag("keyed_by_id"),
        id=table.value("id", None, as_source),
        item=table.value("item", "", as_pointer),
        whole=table.flag("whole", default=True),
        **_listing(table),
    )
    if not step.keyed_by_id:
        table.required("id", "where an item has its job's id, unless items are `keyed_by_id`")
    elif "id" in table:
        table.wrong("id", "leave it out: the items are keyed by their jobs' ids")
    if step.id is not None and step.id.header is not None:
        table.wrong("id", "expected a pointer: no header tells the ids of several jobs")
    if "separator" in table and "ids" not in url_fields(step.url):
        table.wrong("separator", "leave it out: it stands between the {ids} of a URL, and there are none in `url`")
    table.close()
    return step


def _listing(table: Table) -> dict[str, Any]:
    for key in ("next_param", "pages"):
        if key in table and "next" not in table:
            table.wrong(key, "leave it out: without `next` there is one page")
    return {
        "items": table.value("items", "", as_pointer),
        "next": table.value("next", None, as_pointer),
        "next_param": table.text("next_param"),
        "pages": table.integer("pages", 3, at_least=1, at_most=100),
    }


def _lookup(table: Table) -> LookupStep:
    table.required("tag", "where an item has the {token} that the create sent")
    table.required("id", "where an item has its job's id")
    nowhere = Source()
    step = LookupStep(
        **_step(table, "GET"),
        **_listing(table),
        tag=table.value("tag", None, as_source) or nowhere,
        id=table.value("id", None, as_source) or nowhere,
        keep=_sources(table.table("keep")),
        created=table.value("created", None, as_pointer),
        appears_within_s=table.duration("appears_within", 30.0),
    )
    for key in ("tag", "id"):
        if getattr(step, key).header is not None:
            table.wrong(key, "expected a pointer: no header tells of several jobs")
    table.close()
    return step


def _fetch(table: Table) -> FetchStep:
    step = FetchStep(
        **_step(table, "GET"),
        after=table.value("after", frozenset({JobStatus.SUCCEEDED}), as_ends),
        result=table.value("result", "", as_pointer),
        error=table.value("error", (), as_pointers),
        format=table.choice("format", "json", FORMATS),
        failed=table.value("failed", frozenset(), as_http_statuses),
        once=table.flag("once"),
    )
    table.close()
    return step


def _cancel(table: Table) -> CancelStep:
    step = CancelStep(
        **_step(table, "POST"),
        agreed=table.value("agreed", frozenset({200, 201, 202, 204, 404, 409, 410}), as_http_statuses),
    )
    table.close()
    return step


def _statuses(table: Table) -> dict[str, JobStatus]:
    words: dict[str, JobStatus] = {}
    for status in JobStatus:
        for word in table.texts(status.value):
            if word in words:
                table.wrong(status.value, f'"{word}" is mapped to {words[word].value} already')
            words[word] = status
    table.close()
    return words


def _rule(table: Table) -> Rule:
    table.required("then", f"one of {', '.join(JobStatus)}")
    rule = Rule(
        then=JobStatus(table.choice("then", JobStatus.PROCESSING, JobStatus)),
        http=table.value("http", frozenset(), as_http_statuses),
        equals=table.value("equals", (), as_equals),
        exists=table.value("exists", (), as_pointers),
        absent=table.value("absent", (), as_pointers),
        partial=table.flag("partial"),
    )
    if not (rule.http or rule.equals or rule.exists or rule.absent):
        table.wrong("then", "a rule needs a condition: http, equals, exists or absent")
    table.close()
    return rule


def _sources(table: Table) -> dict[str, Source]:
    found = {name: table.value(name, None, as_source) for name in table.keys()}  # noqa: SIM118 - not a dict
    return {name: source for name, source in found.items() if source is not None}


def _check_credentials(recipe: Recipe, root: Table) -> None:
    for name, value in recipe.credentials.items():
        for field in url_fields(value):
            if field != "secret":
                root.wrong(f"auth.{name}", f'"{field}" is not known here; only {{secret}} is')


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
            root.wrong(
                "create.repeat", 'repeat = "lookup" needs "$token" in the body, or {token} elsewhere, to be found by'
            )


def _check_names(recipe: Recipe, root: Table) -> None:
    """Every name that a template uses must be a parameter, a kept value, or one of ours."""
    for name in sorted(recipe.params.keys() & OURS):
        root.wrong(f"params.{name}", "this name stands for a value of creche's own; choose another")
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
    ours_at = {"create": of_task, "lookup": of_task, "many": {"ids"}}
    for place, step in steps.items():
        if step is None:
            continue
        known = recipe.params.keys() | ours_at.get(place, {"job", *kept})
        headers = [name for value in step.headers.values() for name in url_fields(value)]
        unknown = [name for name in [*url_fields(step.url), *headers] if name not in known]
        unknown += sorted(f"${name}" for name in body_fields(step.body) - known - {"input"})
        for name in unknown:
            root.wrong(place, f'"{name}" is not a parameter, a kept value or one of {", ".join(sorted(known))}')
