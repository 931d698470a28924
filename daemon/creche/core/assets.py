"""The files that belong to a result: where they are at the provider, and how they are called here."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from creche.core.template import point
from creche.errors import AnswerError

MAX_ASSETS = 100
"""Files of one result. More than any provider makes, and few enough for a record."""

_URL_LIMIT = 8000


class Asset(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of a result. `path` is where it was saved, with its size in `bytes` and the SHA-256 of these; else `error`
    says why it was not.
    """

    url: str
    path: str | None = None
    media_type: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    error: str = ""


def urls_in(result: msgspec.Raw, pointers: tuple[str, ...]) -> list[str]:
    """The URLs at some pointers of a result, or anywhere below, each once, in order; `MAX_ASSETS` at most.

    Raises `AnswerError` for a result that cannot be looked through.
    """
    try:
        document = msgspec.json.decode(result)
    except RecursionError as exc:
        raise AnswerError("the result is nested too deeply to look for files in it") from exc
    found = dict.fromkeys(url for pointer in pointers for url in _urls(point(document, pointer)))
    return list(found)[:MAX_ASSETS]


def _urls(node: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    waiting = [node]  # results may be nested as deeply as their providers like
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            if node.startswith(("https://", "http://")) and len(node) <= _URL_LIMIT:
                yield node
        elif isinstance(node, dict | list):
            waiting += reversed(list(node.values()) if isinstance(node, dict) else node)


def file_name(number: int, url: str, media_type: str) -> str:
    """What a file is called: its number among the result's, and an ending by its URL, else by its media type."""
    match = re.search(r"(\.[A-Za-z0-9]{1,8})$", urlsplit(url).path)
    ending = match[1].lower() if match else mimetypes.guess_extension(media_type.partition(";")[0].strip()) or ""
    return f"{number:03}{ending}"
