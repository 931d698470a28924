"""The `[webhooks.NAME]`, `[callbacks]` and `[analytics.NAME]` tables: whose servers hear of tasks, and how they know
that it is us.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import cast, get_args
from urllib.parse import urlsplit

import msgspec

from creche.config_values import Secret, has_plain_password, read_secret
from creche.core.analytics import Form
from creche.core.document import Table, suggestion
from creche.core.task import ENDS, Status
from creche.core.webhooks import CALLBACK, read_key

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class WebhookSection(msgspec.Struct, frozen=True, kw_only=True):
    """One `[webhooks.NAME]` table. No algorithms, no statuses: all. `private`: the URL may lead into our networks."""

    name: str
    url: Secret
    secret: Secret
    old_secret: Secret | None
    algorithms: frozenset[str]
    statuses: frozenset[Status]
    private: bool


class CallbacksSection(msgspec.Struct, frozen=True, kw_only=True):
    """The `callback` that tasks may have; without a secret they may not."""

    secret: Secret | None
    old_secret: Secret | None
    private: bool


class AnalyticsSection(msgspec.Struct, frozen=True, kw_only=True):
    """One `[analytics.NAME]` table. No algorithms: all. `secret` lets us in."""

    name: str
    url: Secret
    form: Form
    secret: Secret | None
    algorithms: frozenset[str]


def read_webhooks(root: Table, environ: Mapping[str, str]) -> dict[str, WebhookSection]:
    """All of them, by name."""
    found = {}
    for name in root.keys():  # noqa: SIM118 - not a dict
        table = root.table(name)
        if _NAME.fullmatch(name) is None or name == CALLBACK:
            root.wrong(name, f'expected a name of letters, digits, "-" and "_", other than "{CALLBACK}"')
        url = read_url(table, environ)
        secret, old_secret = _read_keys(table, environ)
        algorithms = frozenset(table.texts("algorithms"))
        statuses = table.value("statuses", frozenset[Status](), _statuses)
        private = table.flag("private")
        table.required("url", "where to send outcomes")
        table.required("secret", "what they are signed with")
        table.close()
        if url is not None and secret is not None:
            found[name] = WebhookSection(
                name=name,
                url=url,
                secret=secret,
                old_secret=old_secret,
                algorithms=algorithms,
                statuses=statuses,
                private=private,
            )
    return found


def read_analytics(root: Table, environ: Mapping[str, str]) -> dict[str, AnalyticsSection]:
    """All of them, by name."""
    found = {}
    for name in root.keys():  # noqa: SIM118 - not a dict
        table = root.table(name)
        if _NAME.fullmatch(name) is None:
            root.wrong(name, 'expected a name of letters, digits, "-" and "_"')
        url, secret = read_url(table, environ), read_secret(table, "secret", environ)
        form = table.choice("format", "json", get_args(Form))
        if form == "sensors" and importlib.util.find_spec("sensorsanalytics") is None:
            table.wrong("format", 'needs the SDK of Sensors Data, which is missing: pip install "creche[sensors]"')
        algorithms = frozenset(table.texts("algorithms"))
        table.required("url", "where to send events")
        table.close()
        if url is not None:
            found[name] = AnalyticsSection(
                name=name, url=url, form=cast("Form", form), secret=secret, algorithms=algorithms
            )
    return found


def read_callbacks(table: Table, environ: Mapping[str, str]) -> CallbacksSection:
    """The table, which may be absent."""
    secret, old_secret = _read_keys(table, environ)
    section = CallbacksSection(secret=secret, old_secret=old_secret, private=table.flag("private"))
    table.close()
    return section


def read_url(table: Table, environ: Mapping[str, str]) -> Secret | None:
    """The `url` of a server that is told something; a password in it must be a reference."""
    url = read_secret(table, "url", environ, whole=False)
    if url is None:
        return None
    try:
        parts = urlsplit(url.reveal())
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        good = good and re.fullmatch("[!-~]+", url.reveal()) is not None
    except ValueError:
        good = False
    if not good:
        table.wrong("url", "expected https://HOST/PATH, or http://")
    elif has_plain_password(url.written):
        table.wrong("url", "the password stands in plain text; write ${env:NAME} or ${credential:NAME} there")
    return url


def _read_keys(table: Table, environ: Mapping[str, str]) -> tuple[Secret | None, Secret | None]:
    found = []
    for name in ("secret", "old_secret"):
        secret = read_secret(table, name, environ)
        if secret is not None:
            try:
                read_key(secret.reveal())
            except ValueError as exc:
                table.wrong(name, str(exc))
        found.append(secret)
    secret, old_secret = found
    if old_secret is not None and secret is None and "secret" not in table:
        table.wrong("old_secret", "is for the time in which `secret` takes its place, which is missing")
    return secret, old_secret


def _statuses(value: object) -> frozenset[Status]:
    if not isinstance(value, list):
        raise ValueError('expected a list of ends such as ["succeeded"]')  # noqa: TRY004
    for word in value:
        if word not in ENDS:
            raise ValueError(f'"{str(word)[:40]}" is no end of a task{suggestion(str(word), ENDS)}')
    return frozenset(map(Status, value))
