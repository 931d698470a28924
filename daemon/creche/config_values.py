"""Values of the configuration that are more than TOML: secrets by reference, default folders."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from creche.core.document import Table

_REFERENCE = re.compile(r"\$\{(env|credential):([A-Za-z0-9_.-]+)\}")
_QUERY_PASSWORD = re.compile(r"(?<=[?&]password=)[^&#]+")


class Secret:
    """A text that shows itself only when asked to. `written` is what stands in the file in its place."""

    __slots__ = ("_text", "written")

    def __init__(self, text: str, written: str) -> None:
        self._text = text
        self.written = written

    def reveal(self) -> str:
        """The text itself; hand it on, never format it."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(Secret)

    def __repr__(self) -> str:
        return "Secret(***)"


def read_secret(table: Table, key: str, environ: Mapping[str, str], *, whole: bool = True) -> Secret | None:
    """A secret by reference. `whole`: the value is one reference; else references stand within it."""

    def convert(value: object) -> Secret | None:
        if whole and value != "" and (not isinstance(value, str) or _REFERENCE.fullmatch(value) is None):
            raise _PlainSecret
        if not isinstance(value, str):
            raise ValueError("expected a text in quotes")  # noqa: TRY004
        return Secret(_REFERENCE.sub(lambda match: _look_up(match, environ), value), value) if value else None

    try:
        return table.value(key, None, convert)
    except _PlainSecret:
        table.wrong(key, "a secret does not belong in this file; write ${env:NAME} or ${credential:NAME}")
    except LookupError as exc:
        table.wrong(key, str(exc.args[0]))
    return None


def has_plain_password(url: str) -> bool:
    """Whether a URL shows a password, its references aside."""
    return masked(bare := _REFERENCE.sub("", url)) != bare


def masked(url: str) -> str:
    """A URL as it may be shown: without its password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    if password:
        host = parts.netloc.rpartition("@")[2]
        parts = parts._replace(netloc=f"{user}{colon}***@{host}")
        url = parts.geturl()
    return _QUERY_PASSWORD.sub("***", url)


def _look_up(match: re.Match[str], environ: Mapping[str, str]) -> str:
    kind, name = match.groups()
    if kind == "env":
        if name not in environ:
            raise LookupError(f"the environment has no {name}")
        if not environ[name].strip():
            raise LookupError(f"{name} is empty in the environment")
        return environ[name]
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise LookupError(f"credential {name}: no CREDENTIALS_DIRECTORY; start under systemd with LoadCredential=")
    try:
        text = (Path(folder) / name).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise LookupError(f"credential {name} cannot be read: {exc}") from exc
    if not text:
        raise LookupError(f"credential {name} is empty")
    return text


class _PlainSecret(Exception):
    """A secret stands in the file; not a ValueError, whose message would show what was found."""


def default_folder(environ: Mapping[str, str], kind: str) -> Path:
    """Where the socket (`run`) and the store (`state`) are by default.

    systemd's RuntimeDirectory and StateDirectory where it gives them; else the user's own XDG folders.
    """
    given, user, fallback = {
        "run": ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "/run"),
        "state": ("STATE_DIRECTORY", "XDG_STATE_HOME", "~/.local/state"),
    }[kind]
    if given in environ:
        return Path(environ[given].partition(":")[0])
    # As text: a user without a home has no use for it, but may have given a path.
    return Path(os.path.expanduser(environ.get(user) or fallback)) / "creche"  # noqa: PTH111 - Path's raises there
