"""The files of the dashboard: a page, its style and its scripts, as they lie in the package.

The page takes everything from this daemon and runs no script that is not one of these files; only pictures, films and
sounds that results name may come from elsewhere, once a person asks for them.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple

from creche.core.exchange import Request, Response
from creche.core.wire import problem_response

INDEX = "index.html"

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' https: http:; "
    "media-src https: http:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),  # kept, but asked about each time: the next version has other files
)


class _File(NamedTuple):
    body: bytes
    media_type: str
    tag: str


class Dashboard:
    """Reads the files once, at the start."""

    def __init__(self) -> None:
        self._files = {}
        for file in files("creche").joinpath("dashboard").iterdir():
            media_type = _TYPES.get(file.name.rpartition(".")[2])
            if media_type is not None:
                body = file.read_bytes()
                self._files[file.name] = _File(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:20]}"')

    def answer(self, request: Request, name: str) -> Response:
        """A file by its name; 304 where the browser has it, 404 where there is none."""
        file = self._files.get(name)
        if file is None:
            return problem_response(404, "no_such_route", "the dashboard has no such file")
        headers = (*_HEADERS, ("ETag", file.tag))
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status=304, headers=headers)
        return Response(status=200, body=file.body, content_type=file.media_type, headers=headers)
