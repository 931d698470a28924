"""The OpenAPI 3.1 document, made from the table of routes and the structs of `core.wire`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from creche.core import wire
from creche.core.task import Status
from creche.edges.api_routes import Route

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_STATUS = "|".join(("unfinished", *Status))
_SWITCH = {"type": "string", "pattern": "^(|1|0|[Tt]rue|[Ff]alse|[Yy]es|[Nn]o)$"}
_DURATION = {"type": "string", "pattern": "^([0-9]{1,3}(ms|s|m)?)?$"}

_PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "status": (
        "one or more statuses, comma-separated or repeated; `unfinished` for all that are no end",
        {"type": "array", "items": {"type": "string", "pattern": f"^({_STATUS})(,({_STATUS}))*$"}},
    ),
    "algorithm": ("name of an algorithm; repeat it for several", _TEXTS),
    "user": ("the task's user; repeat it for several", _TEXTS),
    "label": (
        "NAME:VALUE; repeat it to ask for several, at most 32",
        {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,20}:[a-z]{0,20}$"}, "maxItems": 32},
    ),
    "task": ("a task's id; repeat it for several", _TEXTS),
    "limit": (
        "at most so many; a page of some 8 MiB ends earlier",
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1000}, {"const": ""}], "default": 100},
    ),
    "after": ("the `after` of the page before", _TEXT),
    "wait": (
        'answer when the task is at rest (or a result is there), or after this time: "30s", at most five minutes',
        _DURATION,
    ),
    "input": ("1: with the task's input", _SWITCH),
    "story": ("1: with every status that the task came to, and the last answers of the provider", _SWITCH),
    "since": ("a cursor, or `oldest` for everything that is kept; without it from now on", _TEXT),
}


def describe(table: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The document as a JSON tree."""
    types = [wire.Problem, *(type_ for route in table for type_ in (route.takes, route.gives) if type_ is not None)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "creche", "version": version, "license": {"name": "MIT", "identifier": "MIT"}},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, schemas: dict[type, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "query", "description": about, "schema": schema}
        for name in route.query or ()
        for about, schema in (_PARAMETERS[name],)
    ]
    if "{id}" in route.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    answer: dict[str, Any] = {"description": "as asked"}
    if route.gives is not None:
        answer["content"] = {"application/json": {"schema": schemas[route.gives]}}
    refusal = {"application/problem+json": {"schema": schemas[wire.Problem]}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__.lstrip("_"),
        "responses": {"2XX": answer, "default": {"description": "a refusal", "content": refusal}},
    }
    if parameters:
        operation["parameters"] = parameters
    if route.takes is not None:
        operation["requestBody"] = {
            "required": any(field.required for field in msgspec.structs.fields(route.takes)),
            "content": {"application/json": {"schema": schemas[route.takes]}},
        }
    return operation
