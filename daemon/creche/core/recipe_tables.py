"""Reads the tables of a recipe, each with all its keys. What has to fit together is checked by `core.recipe`."""

from __future__ import annotations

from typing import Any

import msgspec

from creche.core.document import Table, scalar
from creche.core.encoding import ENCODINGS
from creche.core.envelope import Envelope
from creche.core.jwt import Jwt
from creche.core.reading import JobStatus, Rule, Source
from creche.core.recipe_steps import (
    FORMATS,
    METHODS,
    NEXT_BY,
    Assets,
    CancelStep,
    Caps,
    CreateStep,
    FetchStep,
    LookupStep,
    ManyStep,
    PollStep,
)
from creche.core.recipe_values import (
    as_body,
    as_ends,
    as_equals,
    as_http_statuses,
    as_pattern,
    as_pointer,
    as_pointers,
    as_progress,
    as_source,
    as_tree,
    as_values,
)
from creche.core.template import url_fields
from creche.core.way import REPEATS

WAIT_MAX_S = 300.0
"""No proxy on the way bears a request that is held for longer."""


class Parameter(msgspec.Struct, frozen=True):
    """A value that an algorithm gives; required when it has no default."""

    about: str
    default: str | int | float | bool | None = None


def params(table: Table) -> dict[str, Parameter]:
    """`[params.NAME]`."""
    found = {}
    for name in table.keys():  # noqa: SIM118 - not a dict
        row = table.table(name)
        default = row.value("default", None, scalar)
        found[name] = Parameter(about=row.text("about"), default=default)
        row.close()
    return found


def jwt(table: Table) -> Jwt:
    """`[auth.jwt]`."""
    found = Jwt(
        claims=table.value("claims", {}, as_tree),
        lives_s=table.duration("lives", 1800.0, at_least_s=60.0),
        early_s=table.duration("early", 0.0),
    )
    table.close()
    return found


def envelope(table: Table) -> Envelope:
    """`[envelope]`."""
    found = Envelope(
        ok=table.value("ok", (), as_values),
        busy=table.value("busy", (), as_equals),
        credentials=table.value("credentials", (), as_equals),
        not_found=table.value("not_found", (), as_equals),
    )
    table.close()
    return found


def caps(table: Table) -> Caps:
    """`[caps]`."""
    found = Caps(
        in_flight=table.integer("in_flight", 0, at_least=1) or None,
        creates_per_s=table.rate("create_rate"),
        polls_per_s=table.rate("poll_rate"),
    )
    table.close()
    return found


def create(table: Table) -> CreateStep:
    """`[create]`."""
    repeats = {word: word for word in REPEATS}
    repeat = repeats[table.choice("repeat", "none", REPEATS)]  # type: ignore[index]  # it is one of them
    if repeat != "id":
        table.required("id", "where the answer has the job's id")
    if repeat == "none" and "repeat_within" in table:
        table.wrong("repeat_within", 'leave it out: with `repeat = "none"` nothing is repeated')
    if "exists_pattern" in table and "exists" not in table:
        table.wrong("exists_pattern", "leave it out, or say in `exists` with which HTTP statuses it counts")
    step = CreateStep(
        **_step(table, "POST"),
        id=table.value("id", None, as_source),
        keep=_sources(table.table("keep")),
        repeat=repeat,
        repeat_within_s=table.duration("repeat_within", 86400.0),
        busy=table.value("busy", frozenset({429}), as_http_statuses),
        exists=table.value("exists", frozenset(), as_http_statuses),
        exists_pattern=table.value("exists_pattern", "", as_pattern),
        tells_state=table.flag("tells_state", default=True),
    )
    table.close()
    return step


def poll(table: Table) -> PollStep:
    """`[poll]`."""
    wait_s = table.duration("wait", 0.0)
    if wait_s > WAIT_MAX_S:
        table.wrong("wait", f"expected at most {WAIT_MAX_S:g}s")
    every_s = table.duration("every", 3.0, at_least_s=0.05)
    ignore_case = table.flag("ignore_case")
    step = PollStep(
        **_step(table, "GET"),
        status=table.value("status", None, as_pointer),
        statuses=_statuses(table.table("statuses"), ignore_case=ignore_case),
        ignore_case=ignore_case,
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
        wait_s=wait_s,
        once=table.flag("once"),
    )
    if not step.rules and (step.status is None or not step.statuses):
        table.wrong("status", "expected `status` with a table `statuses`, or `rules`")
    table.close()
    return step


def many(table: Table) -> ManyStep:
    """`[many]`."""
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


def lookup(table: Table) -> LookupStep:
    """`[lookup]`."""
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
        empty=table.value("empty", frozenset(), as_http_statuses),
        appears_within_s=table.duration("appears_within", 30.0),
    )
    for key in ("tag", "id"):
        if getattr(step, key).header is not None:
            table.wrong(key, "expected a pointer: no header tells of several jobs")
    table.close()
    return step


def fetch(table: Table) -> FetchStep:
    """`[fetch]`."""
    step = FetchStep(
        **_step(table, "GET"),
        after=table.value("after", frozenset({JobStatus.SUCCEEDED}), as_ends),
        result=table.value("result", "", as_pointer),
        error=table.value("error", (), as_pointers),
        format=table.choice("format", "json", FORMATS),
        failed=table.value("failed", frozenset(), as_http_statuses),
        once=table.flag("once"),
    )
    if step.format != "json" and "result" in table:
        table.wrong("result", f'leave it out: there are no pointers into "{step.format}"')
    table.close()
    return step


def assets(table: Table) -> Assets:
    """`[assets]`."""
    found = Assets(urls=table.value("urls", (), as_pointers), url=table.text("url"))
    if ("urls" in table) == ("url" in table):
        table.wrong("urls", "expected either `urls`, pointers into the result, or `url`, a template")
    table.close()
    return found


def cancel(table: Table) -> CancelStep:
    """`[cancel]`."""
    step = CancelStep(
        **_step(table, "POST"),
        agreed=table.value("agreed", frozenset({200, 201, 202, 204, 404, 409, 410}), as_http_statuses),
        deletes=table.flag("deletes"),
        ends_as=table.value("ends_as", frozenset(), as_ends),
    )
    if JobStatus.SUCCEEDED in step.ends_as:
        table.wrong("ends_as", "expected no `succeeded`: a result that is there is told, whoever asked for an end")
    table.close()
    return step


def _step(table: Table, method: str) -> dict[str, Any]:
    table.required("url", "a path below `base`, or a whole URL")
    if "encoding" in table and "body" not in table:
        table.wrong("encoding", "leave it out: there is no `body`")
    return {
        "method": table.choice("method", method, METHODS),
        "url": table.text("url"),
        "headers": table.text_map("headers"),
        "body": table.value("body", None, as_body),
        "encoding": table.choice("encoding", "json", ENCODINGS),
    }


def _listing(table: Table) -> dict[str, Any]:
    next_by = table.choice("next_by", "value", NEXT_BY)
    if "next" in table and next_by != "value":
        table.wrong("next_by", "leave it out: `next` says where the answer has the value")
    if next_by != "value" and "next_param" not in table:
        table.wrong("next_by", "needs `next_param`, the query parameter that it is for")
    if "next_param" in table and "next" not in table and next_by == "value":
        table.wrong("next_param", "leave it out, or say in `next` or `next_by` what its value is")
    if "next" not in table and "next_by" not in table:
        for key in ("more", "pages"):
            if key in table:
                table.wrong(key, "leave it out: without `next` or `next_by` there is one page")
    return {
        "items": table.value("items", "", as_pointer),
        "next": table.value("next", None, as_pointer),
        "next_param": table.text("next_param"),
        "next_by": next_by,
        "more": table.value("more", None, as_pointer),
        "pages": table.integer("pages", 3, at_least=1, at_most=100),
    }


def _statuses(table: Table, *, ignore_case: bool) -> dict[str, JobStatus]:
    words: dict[str, JobStatus] = {}
    for status in JobStatus:
        for word in table.texts(status.value):
            key = word.casefold() if ignore_case else word
            if key in words:
                table.wrong(status.value, f'"{word}" is mapped to {words[key].value} already')
            words[key] = status
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
