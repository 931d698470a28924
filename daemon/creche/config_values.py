"""Values of the configuration that are more than TOML: secrets by reference, default folders."""

from __future__ import annotations

import hmac
import importlib.util
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from creche.core.document import Table, suggestion
from creche.core.proxies import ENVIRONMENT, EnvironmentProxies, is_proxy_url
from creche.core.redis_url import KINDS, read_redis_url

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


class Route(msgspec.Struct, frozen=True):
    """How providers are reached: by which proxy, whose URL may hold a password, and whether over HTTP/2."""

    proxy: Secret | None
    http2: bool


def read_redis(table: Table, environ: Mapping[str, str], kinds: Collection[str] = KINDS) -> Secret | None:
    """The `url` of a Redis or Valkey, None where there is none. Its password must be a reference."""
    url = read_secret(table, "url", environ, whole=False)
    if url is None:
        return None
    if has_plain_password(table.text("url")):
        table.wrong("url", "the password stands in plain text; write ${env:NAME} or ${credential:NAME} there")
        return url
    try:
        if read_redis_url(url.reveal()).kind not in kinds:
            table.wrong("url", "expected redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH")
    except ValueError as exc:
        table.wrong("url", str(exc))
    return url


def read_route(table: Table, environ: Mapping[str, str], default: Route) -> Route:
    """`proxy` and `http2`; what is not there is as in `default`."""
    proxy = _read_proxy(table, environ) if "proxy" in table else table.value("proxy", default.proxy, lambda _: None)
    http2 = table.flag("http2", default=default.http2)
    if http2 and "http2" in table and importlib.util.find_spec("h2") is None:
        table.wrong("http2", 'needs the package h2, which is not installed: pip install "creche[http2]"')
    return Route(proxy, http2)


def _read_proxy(table: Table, environ: Mapping[str, str]) -> Secret | None:
    proxy = read_secret(table, "proxy", environ, whole=False)
    if proxy is None:
        return None
    # No message shows a value that may hold a password, referred to or not.
    if proxy.reveal() == ENVIRONMENT:
        for name in EnvironmentProxies(environ).unusable():
            table.wrong("proxy", f"{name} in the environment is no URL of an HTTP proxy: http://HOST:PORT or https://…")
    elif not is_proxy_url(proxy.reveal()):
        hint = _proxy_hint(proxy)
        table.wrong("proxy", f'expected "http://HOST:PORT", "https://HOST:PORT" or "{ENVIRONMENT}"{hint}')
    elif has_plain_password(proxy.written):
        table.wrong("proxy", "the password stands in plain text; write ${env:NAME} or ${credential:NAME} there")
    return proxy


def _proxy_hint(proxy: Secret) -> str:
    if proxy.reveal().lower().startswith("socks"):
        return "; SOCKS is not spoken"
    if "://" not in proxy.reveal() and is_proxy_url(f"http://{proxy.reveal()}"):
        if re.fullmatch(r"[a-z]+", proxy.written):
            return suggestion(proxy.written, [ENVIRONMENT])
        if "@" not in proxy.written:
            return f' (did you mean "http://{proxy.written}"?)'
    return ""


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
