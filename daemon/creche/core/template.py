"""Templates and pointers: how a recipe writes requests and finds its way in answers.

URL templates use two forms of RFC 6570: `{name}` is percent-encoded, `{+name}` keeps reserved characters (for ids that
are paths, and for whole URLs). Body templates are JSON trees in which a text that starts with "$" stands for a value:
`"$input"` is the task's input, verbatim; `"$input/a/b"` a part of it (RFC 6901 pointer); `"$name"` a parameter
with its type. A member whose value is absent is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

_FIELD = re.compile(r"\{(\+?)([A-Za-z_][A-Za-z0-9_.]*)\}")
_RESERVED = ":/?#[]@!$&'()*+,;=%"  # RFC 3986, and "%" so that what is encoded stays as it is

MISSING = object()


class MissingValue(Exception):
    """A template names a value that is not there; `args[0]` is its name."""


def point(document: Any, pointer: str) -> Any:  # noqa: ANN401 - any JSON
    """The part of a JSON document that an RFC 6901 pointer names, or `MISSING`. "" is the whole document."""
    if not pointer:
        return document
    for token in pointer[1:].split("/"):
        name = token.replace("~1", "/").replace("~0", "~") if "~" in token else token
        if isinstance(document, dict):
            if name not in document:
                return MISSING
            document = document[name]
        elif isinstance(document, list) and name.isdecimal() and int(name) < len(document):
            document = document[int(name)]
        else:
            return MISSING
    return document


def is_pointer(text: str) -> bool:
    """Whether a text is an RFC 6901 pointer."""
    return not text or (text.startswith("/") and re.search(r"~(?![01])", text) is None)


def url_fields(template: str) -> list[str]:
    """The names that a URL template uses."""
    return [match[1] for match in _FIELD.findall(template)]


def fill_url(template: str, values: Mapping[str, str]) -> str:
    """Expand a URL template. Raises `MissingValue`."""

    def expand(match: re.Match[str]) -> str:
        reserved, name = match.groups()
        if name not in values:
            raise MissingValue(name)
        value = values[name]
        if not reserved and value in {".", ".."}:
            return value.replace(".", "%2E")  # as a path segment they would mean another place
        return quote(value, safe=_RESERVED if reserved else "")

    return _FIELD.sub(expand, template)


def fill_text(template: str, values: Mapping[str, str]) -> str:
    """Expand `{name}` in a header value, without any encoding. Raises `MissingValue`."""

    def expand(match: re.Match[str]) -> str:
        name = match[2]
        if name not in values:
            raise MissingValue(name)
        return values[name]

    return _FIELD.sub(expand, template)


def body_fields(template: Any) -> set[str]:  # noqa: ANN401 - any JSON
    """The names that a body template uses, without "$" and without the pointer behind `input`."""
    if isinstance(template, str):
        return {template[1:].partition("/")[0]} if template.startswith("$") else set()
    children = template.values() if isinstance(template, dict) else template if isinstance(template, list) else ()
    return set().union(*(body_fields(child) for child in children))


def fill_body(template: Any, values: Mapping[str, Any], task_input: msgspec.Raw | None) -> bytes:  # noqa: ANN401
    """Expand a body template into JSON bytes."""
    tree = _fill(template, values, task_input)
    return b"null" if tree is MISSING else msgspec.json.encode(tree)


def _fill(node: Any, values: Mapping[str, Any], task_input: msgspec.Raw | None) -> Any:  # noqa: ANN401
    if isinstance(node, str) and node.startswith("$"):
        name, slash, pointer = node[1:].partition("/")
        if name != "input":
            return values.get(name, MISSING)
        if task_input is None:
            return MISSING
        return point(msgspec.json.decode(task_input), slash + pointer) if slash else task_input
    if isinstance(node, dict):
        filled = ((key, _fill(child, values, task_input)) for key, child in node.items())
        return {key: child for key, child in filled if child is not MISSING}
    if isinstance(node, list):
        children = (_fill(child, values, task_input) for child in node)
        return [child for child in children if child is not MISSING]
    return node
