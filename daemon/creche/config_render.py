"""The configuration as its file would say it: names and units of docs/reference/config.md, secrets as references.

Reading what is rendered gives the same configuration again, in the same environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from creche.config import Config
from creche.config_algorithms import AlgorithmSection
from creche.config_values import Route, Secret, masked
from creche.config_webhooks import AnalyticsSection, WebhookSection
from creche.core.document import format_duration, format_rate, format_size
from creche.plugin import Plugin

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

Tables = dict[str, dict[str, object]]


def tables(config: Config) -> Tables:
    """Every table with every key and its value, ready for JSON. None: the key is not set, and has no default."""
    socket, tcp, http = config.socket, config.tcp, config.http
    store, heartbeats, upstream, log = config.store, config.heartbeats, config.upstream, config.log
    callbacks = config.callbacks
    return {
        "socket": {
            "path": str(socket.path),
            "mode": f"{socket.mode:04o}",
            "owner": socket.owner or "",
            "group": socket.group or "",
            "allow_uids": None if socket.allow_uids is None else sorted(socket.allow_uids),
        },
        "tcp": {
            "enabled": tcp.enabled,
            "host": tcp.host,
            "port": tcp.port,
            "token": _written(tcp.token),
            "allow_writes": tcp.allow_writes,
            "origins": sorted(tcp.origins),
            "hosts": sorted(tcp.hosts),
        },
        "http": {
            "max_request": format_size(http.max_request_bytes),
            "max_head": format_size(http.max_head_bytes),
            "max_connections": http.max_connections,
        },
        "store": {
            "path": str(store.path),
            "url": _written(store.url),
            "prefix": store.prefix,
            "durable": store.durable,
            "replicas": store.replicas,
            "keep_for": format_duration(store.keep_s),
            "max_inline": format_size(store.max_inline_bytes),
            "max_asset": format_size(store.max_asset_bytes),
            "keep_count": store.keep_count,
        },
        "heartbeats": {"url": _written(heartbeats.url), "prefix": heartbeats.prefix},
        "upstream": {
            "connections": upstream.connections,
            "max_answer": format_size(upstream.max_answer_bytes),
            "ca_file": str(upstream.ca_file or ""),
            **_route(upstream.route),
        },
        "traces": {
            "url": None if config.traces.url is None else masked(config.traces.url.written),
            "secret": _written(config.traces.secret),
        },
        "log": {"level": log.level, "format": log.format},
        "tasks": {"max": config.max_tasks, "deadline": format_duration(config.deadline_s)},
        "algorithms": {name: _algorithm(section) for name, section in config.algorithms.items()},
        "webhooks": {name: _webhook(section) for name, section in config.webhooks.items()},
        "analytics": {name: _collector(section) for name, section in config.analytics.items()},
        "callbacks": {
            "secret": _written(callbacks.secret),
            "old_secret": _written(callbacks.old_secret),
            "private": callbacks.private,
        },
    }


def _algorithm(section: AlgorithmSection) -> dict[str, object]:
    rhythm = section.rhythm
    return {
        **({"plugin": section.source} if isinstance(section.kind, Plugin) else {"recipe": section.source}),
        "base": masked(section.base),
        "params": dict(section.params),
        "secret": _written(section.secret),
        "deadline": format_duration(section.deadline_s),
        "timeout": format_duration(section.timeout_s),
        **_route(section.route),
        "in_flight": section.in_flight or 0,
        "create_rate": format_rate(section.creates_per_s),
        "poll_rate": format_rate(section.polls_per_s),
        "assets": section.assets,
        "on_timeout": section.on_timeout,
        "on_unknown": section.on_unknown,
        "poll_first": format_duration(rhythm.first_s),
        "poll_every": format_duration(rhythm.every_s),
        "poll_grow": rhythm.grow,
        "poll_up_to": format_duration(rhythm.up_to_s),
        "max_failures": rhythm.max_failures,
    }


def _webhook(section: WebhookSection) -> dict[str, object]:
    return {
        "url": masked(section.url.written),
        "secret": _written(section.secret),
        "old_secret": _written(section.old_secret),
        "algorithms": sorted(section.algorithms),
        "statuses": sorted(section.statuses),
        "private": section.private,
    }


def _collector(section: AnalyticsSection) -> dict[str, object]:
    return {
        "url": masked(section.url.written),
        "format": section.form,
        "secret": _written(section.secret),
        "algorithms": sorted(section.algorithms),
    }


def _route(route: Route) -> dict[str, object]:
    return {"proxy": "" if route.proxy is None else route.proxy.written, "http2": route.http2}


def _written(secret: Secret | None) -> str | None:
    return None if secret is None else secret.written


def as_toml(shown: Tables) -> str:
    """The tables as TOML; a key that is not set is a comment."""
    return "\n\n".join("\n".join(lines) for lines in _sections("", shown))


def _sections(place: str, shown: Mapping[str, object]) -> Iterator[list[str]]:
    for name, value in shown.items():
        if not isinstance(value, Mapping):
            continue
        path = f"{place}{_key(name)}"
        if place or name not in {"algorithms", "analytics", "webhooks"}:
            yield [f"[{path}]", *(_line(key, item) for key, item in value.items())]
        else:
            yield from _sections(f"{path}.", value)


def _line(key: str, value: object) -> str:
    return f"# {key} is not set" if value is None else f"{_key(key)} = {_value(value)}"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    match value:
        case str():
            # TOML's escapes are JSON's, and one character more must be escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
        case Mapping():
            pairs = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case _:
            return repr(value)
