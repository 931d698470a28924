"""Templates and pointers: how a recipe writes requests and finds its way in answers.

URL templates use two forms of RFC 6570: `{name}` is percent-encoded, `{+name}` keeps reserved characters (for ids that
are paths, and for whole URLs). Body templates are JSON trees in which a text that starts with "$" stands for a value:
`"$input"` is the task's input, verbatim; `"$input/a/b"` a part of it (RFC 6901 pointer); `"$name"` a parameter
with its type. A member whose value is absent is left out. The member `"..."` is not one of its own: those of the object
that it stands for are put in its place, and what follows it counts more. A text that begins with "$$" is itself, with
one "$" less.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

_FIELD = re.compile(r"\{(\+?)([A-Za-z_][A-Za-z0-9_.]*)\}")
_RESERVED = ":/?#[]@!$&'()*+,;=%"  # RFC 3986, and "%" so that what is encoded stays as it is

SPREAD = "..."
"""The member of a body template whose value's members are put in its place."""

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
        return {template[1:].partition("/")[0]} if _is_field(template) else set()
    children = template.values() if isinstance(template, dict) else template if isinstance(template, list) else ()
    return set().union(*(body_fields(child) for child in children))


def fill_body(template: Any, values: Mapping[str, Any], task_input: msgspec.Raw | None) -> bytes:  # noqa: ANN401
    """Expand a body template into JSON bytes. Raises as `fill_tree`."""
    return msgspec.json.encode(fill_tree(template, values, task_input))


def fill_tree(template: Any, values: Mapping[str, Any], task_input: msgspec.Raw | None) -> Any:  # noqa: ANN401
    """Expand a body template. Raises `msgspec.DecodeError` where the task's input is not what the template needs."""
    tree = _fill(template, values, task_input)
    return None if tree is MISSING else tree


def _fill(node: Any, values: Mapping[str, Any], task_input: msgspec.Raw | None) -> Any:  # noqa: ANN401
    if isinstance(node, str):
        return _fill_text(node, values, task_input) if node.startswith("$") else node
    if isinstance(node, dict):
        return _fill_members(node, values, task_input)
    if isinstance(node, list):
        children = (_fill(child, values, task_input) for child in node)
        return [child for child in children if child is not MISSING]
    return node


def _fill_text(node: str, values: Mapping[str, Any], task_input: msgspec.Raw | None) -> Any:  # noqa: ANN401
    if not _is_field(node):
        return node[1:]
    name, slash, pointer = node[1:].partition("/")
    if name != "input":
        return values.get(name, MISSING)
    if task_input is None:
        return MISSING
    return point(msgspec.json.decode(task_input), slash + pointer) if slash else task_input


def _fill_members(node: Mapping[str, Any], values: Mapping[str, Any], task_input: msgspec.Raw | None) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key, template in node.items():
        child = _fill(template, values, task_input)
        if child is MISSING:
            continue
        if key == SPREAD:
            # Its members stay as they were written.
            filled |= msgspec.json.decode(msgspec.json.encode(child), type=dict[str, msgspec.Raw])
        else:
            filled[key] = child
    return filled


def _is_field(text: str) -> bool:
    return text.startswith("$") and not text.startswith("$$")
