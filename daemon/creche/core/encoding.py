"""How the tree that a body template gives becomes bytes: JSON, a form, or the parts of a multipart form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import msgspec

from creche.core.reading import as_text

Encoded = tuple[bytes, str]
"""A body, and its media type."""


def _json(tree: Any) -> Encoded:  # noqa: ANN401 - any JSON
    return msgspec.json.encode(tree), "application/json"


def _form(tree: Any) -> Encoded:  # noqa: ANN401 - any JSON
    return urlencode(list(_fields(tree))).encode(), "application/x-www-form-urlencoded"


def _multipart(tree: Any) -> Encoded:  # noqa: ANN401 - any JSON
    """RFC 7578, with nothing but texts."""
    fields = list(_fields(tree))
    # Made of the content, so that the same request has the same bytes, and nobody who writes an input can foresee it.
    boundary = hashlib.sha256(msgspec.json.encode(fields)).hexdigest()
    parts = []
    for name, text in fields:
        shown = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{shown}"\r\n\r\n{text}\r\n')
    return f"{''.join(parts)}--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


ENCODINGS: dict[str, Callable[[Any], Encoded]] = {"json": _json, "form": _form, "multipart": _multipart}
"""By the words of a recipe. Each raises `msgspec.ValidationError` for a tree that it cannot write."""


def _fields(tree: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON
    """The members of an object: a list is a field for each item; what is itself an object is written as JSON."""
    for name, value in msgspec.json.decode(msgspec.json.encode(tree), type=dict[str, Any]).items():
        for item in value if isinstance(value, list) else [value]:
            yield name, msgspec.json.encode(item).decode() if isinstance(item, dict | list) else as_text(item)
