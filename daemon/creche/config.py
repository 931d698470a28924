"""The configuration: frozen sections, every key with a default, all mistakes at once.

Secrets are written as `${env:NAME}` or `${credential:NAME}` (a file in systemd's credentials directory) and nowhere
in plain text; they are kept as `Secret`, which no repr, log or traceback shows. Every key is explained in config.toml
and docs/reference/config.md, and a test compares them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import tomli

from creche.config_algorithms import AlgorithmSection, AlgorithmsReader
from creche.config_values import (
    Route,
    Secret,
    default_folder,
    read_redis,
    read_route,
    read_secret,
)
from creche.config_webhooks import (
    AnalyticsSection,
    CallbacksSection,
    WebhookSection,
    read_analytics,
    read_callbacks,
    read_url,
    read_webhooks,
)
from creche.core.document import Table
from creche.errors import ConfigError

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
DURABLE = ("server", "always")
LOG_FORMATS = ("auto", "text", "json")
MAX_SOCKET_BYTES = 107
"""What the system binds: `sun_path` of Linux holds 108 bytes with the closing NUL."""

MAX_UID = (1 << 32) - 2
_BARE_MODE = re.compile(r"^\s*mode\s*=\s*0\d", re.MULTILINE)


class SocketSection(msgspec.Struct, frozen=True, kw_only=True):
    """The Unix socket."""

    path: Path
    mode: int
    owner: str | None
    group: str | None
    allow_uids: frozenset[int] | None


class TcpSection(msgspec.Struct, frozen=True, kw_only=True):
    """The TCP listener. `hosts` are the names by which it may be called, besides its own."""

    enabled: bool
    host: str
    port: int
    token: Secret | None
    allow_writes: bool
    origins: frozenset[str]
    hosts: frozenset[str]


class HttpSection(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of both listeners, in bytes."""

    max_request_bytes: int
    max_head_bytes: int
    max_connections: int


class StoreSection(msgspec.Struct, frozen=True, kw_only=True):
    """The SQLite file, or with a `url` the Redis or Valkey of a fleet; and how long settled tasks stay there."""

    path: Path
    url: Secret | None
    prefix: str
    durable: str
    replicas: int
    keep_s: float
    keep_count: int
    max_inline_bytes: int
    max_asset_bytes: int


class HeartbeatsSection(msgspec.Struct, frozen=True, kw_only=True):
    """Redis or Valkey, or None: the ages are kept in the process."""

    url: Secret | None
    prefix: str


class UpstreamSection(msgspec.Struct, frozen=True, kw_only=True):
    """How providers are asked. `route` holds where an algorithm does not say otherwise."""

    connections: int
    max_answer_bytes: int
    ca_file: Path | None
    route: Route


class TracesSection(msgspec.Struct, frozen=True, kw_only=True):
    """Where traces are sent, if anywhere; `secret` lets us in."""

    url: Secret | None
    secret: Secret | None


class LogSection(msgspec.Struct, frozen=True, kw_only=True):
    """The log on stderr."""

    level: str
    format: str


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is in force. `source` is the file, or None when there is none."""

    source: Path | None
    socket: SocketSection
    tcp: TcpSection
    http: HttpSection
    store: StoreSection
    heartbeats: HeartbeatsSection
    upstream: UpstreamSection
    log: LogSection
    max_tasks: int
    deadline_s: float
    algorithms: Mapping[str, AlgorithmSection]
    webhooks: Mapping[str, WebhookSection]
    analytics: Mapping[str, AnalyticsSection]
    callbacks: CallbacksSection
    traces: TracesSection


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read a file; None means all defaults. Raises `ConfigError` with every mistake, each with file and key."""
    source = str(path or "defaults")
    text = ""
    try:
        text = path.read_text("utf-8") if path is not None else ""
        data = tomli.loads(text)
    except OSError as exc:
        raise ConfigError([f"{source}: cannot be read: {exc.strerror}"]) from exc
    except (ValueError, RecursionError) as exc:
        hint = '; file modes stand in quotes: mode = "0660"' if _BARE_MODE.search(text) else ""
        raise ConfigError([f"{source}: no valid TOML: {exc}{hint}"]) from exc
    mistakes: list[str] = []
    config = _Reader(Table(data, "", mistakes, source), mistakes, path, environ).read()
    if mistakes:
        raise ConfigError(mistakes)
    return config


class _Reader:
    """Reads one document; mistakes gather while it goes on with defaults."""

    def __init__(self, root: Table, mistakes: list[str], path: Path | None, environ: Mapping[str, str]) -> None:
        self._root = root
        self._mistakes = mistakes
        self._source = path
        self._folder = path.parent if path is not None else Path()
        self._environ = environ

    def read(self) -> Config:
        root = self._root
        tasks = root.table("tasks")
        deadline_s = tasks.duration("deadline", 3600.0, at_least_s=1.0)
        upstream = self._upstream(root.table("upstream"))
        config = Config(
            source=self._source,
            socket=self._socket(root.table("socket")),
            tcp=self._tcp(root.table("tcp")),
            http=self._http(root.table("http")),
            store=self._store(root.table("store")),
            heartbeats=self._heartbeats(root.table("heartbeats")),
            upstream=upstream,
            log=self._log(root.table("log")),
            max_tasks=tasks.integer("max", 100_000, at_least=1),
            deadline_s=deadline_s,
            algorithms=AlgorithmsReader(self._mistakes, self._folder, self._environ).read(
                root.table("algorithms"), deadline_s, upstream.route
            ),
            webhooks=read_webhooks(root.table("webhooks"), self._environ),
            analytics=read_analytics(root.table("analytics"), self._environ),
            callbacks=read_callbacks(root.table("callbacks"), self._environ),
            traces=self._traces(root.table("traces")),
        )
        tasks.close()
        root.close()
        return config

    def _socket(self, table: Table) -> SocketSection:
        section = SocketSection(
            path=self._path(table.text("path")) or default_folder(self._environ, "run") / "creche.sock",
            mode=table.value("mode", 0o660, _mode),
            owner=table.text("owner") or None,
            group=table.text("group") or None,
            allow_uids=table.value("allow_uids", None, _uids),
        )
        if len(os.fsencode(section.path)) > MAX_SOCKET_BYTES:
            table.wrong("path", f"{section.path} is longer than the {MAX_SOCKET_BYTES} bytes that a socket can have")
        table.close()
        return section

    def _tcp(self, table: Table) -> TcpSection:
        host = table.text("host", "127.0.0.1")
        section = TcpSection(
            enabled=table.flag("enabled", default=True),
            host=host,
            port=table.integer("port", 8787, at_most=65535),
            token=read_secret(table, "token", self._environ),
            allow_writes=table.flag("allow_writes"),
            origins=frozenset(table.texts("origins")),
            hosts=frozenset(name.lower() for name in table.texts("hosts")),
        )
        if section.enabled and host not in _LOOPBACK and "token" not in table:
            table.wrong("token", f"missing; listening on {host}, which others can reach, needs a token")
        if section.allow_writes and "token" not in table:
            table.wrong("token", "missing; writing over TCP (allow_writes) needs a token")
        table.close()
        return section

    def _http(self, table: Table) -> HttpSection:
        section = HttpSection(
            max_request_bytes=table.size("max_request", 16 << 20, at_least=1024),
            max_head_bytes=table.size("max_head", 64 << 10, at_least=1024),
            max_connections=table.integer("max_connections", 1024, at_least=1),
        )
        table.close()
        return section

    def _store(self, table: Table) -> StoreSection:
        section = StoreSection(
            path=self._path(table.text("path")) or default_folder(self._environ, "state") / "creche.db",
            url=read_redis(table, self._environ),
            prefix=table.text("prefix", "creche"),
            durable=table.choice("durable", "server", DURABLE),
            replicas=table.integer("replicas", 0, at_least=0, at_most=9),
            keep_s=table.duration("keep_for", 30 * 86400.0, at_least_s=60.0),
            keep_count=table.integer("keep_count", 1_000_000, at_least=1),
            max_inline_bytes=table.size("max_inline", 256 << 10, at_least=1024),
            max_asset_bytes=table.size("max_asset", 1 << 30, at_least=1024),
        )
        for key, given in (("durable", section.durable != "server"), ("replicas", section.replicas)):
            if given and section.url is None:
                table.wrong(key, "is for a fleet: say in `url` which Redis or Valkey keeps the store")
        if not section.prefix or set(section.prefix) & set("{}"):
            table.wrong("prefix", "expected some letters, without braces")
        table.close()
        return section

    def _heartbeats(self, table: Table) -> HeartbeatsSection:
        url = read_redis(table, self._environ, kinds=("standalone",))
        section = HeartbeatsSection(url=url, prefix=table.text("prefix", "creche"))
        table.close()
        return section

    def _upstream(self, table: Table) -> UpstreamSection:
        section = UpstreamSection(
            connections=table.integer("connections", 256, at_least=1),
            max_answer_bytes=table.size("max_answer", 16 << 20, at_least=1024),
            ca_file=self._path(table.text("ca_file")),
            route=read_route(table, self._environ, Route(proxy=None, http2=False)),
        )
        table.close()
        return section

    def _traces(self, table: Table) -> TracesSection:
        url, secret = read_url(table, self._environ), read_secret(table, "secret", self._environ)
        section = TracesSection(url=url, secret=secret)
        table.close()
        return section

    def _log(self, table: Table) -> LogSection:
        section = LogSection(
            level=table.choice("level", "INFO", LEVELS), format=table.choice("format", "auto", LOG_FORMATS)
        )
        table.close()
        return section

    def _path(self, text: str) -> Path | None:
        """Relative paths start at the configuration's folder, wherever the daemon was started."""
        # As text: Path's own raises for a user that does not exist.
        return (self._folder / os.path.expanduser(text)).absolute() if text else None  # noqa: PTH111


def _mode(value: object) -> int:
    if not isinstance(value, str) or re.fullmatch(r"0?[0-7]{3}", value) is None:
        raise ValueError('expected a file mode in quotes such as "0660"')
    return int(value, 8)


def _uids(value: object) -> frozenset[int]:
    if not isinstance(value, list) or not all(type(uid) is int and 0 <= uid <= MAX_UID for uid in value):
        raise ValueError("expected a list of user ids such as [1000]")
    return frozenset(value)
