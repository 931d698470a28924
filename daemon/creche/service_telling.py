"""What tells others of outcomes, as the configuration wants it: webhooks, analytics and traces."""

from __future__ import annotations

from creche import __version__
from creche.config import Config
from creche.core.analytics import PREFIX, Collector
from creche.core.webhooks import CALLBACK, Endpoint, read_key
from creche.edges.http_traces import HttpTraces
from creche.edges.http_webhooks import HttpSender
from creche.edges.upstream_routes import Sends
from creche.engine.journal import Journal
from creche.engine.outbox import Outbox, Sender
from creche.service_outside import Outside
from creche.service_parts import Transports


def make_outbox(config: Config, outside: Outside, journal: Journal, upstreams: Transports) -> Outbox:
    """The outbox of a store."""
    return Outbox(
        journal,
        _sender(config, outside, upstreams),
        _endpoints(config),
        wall=outside.wall,
        dice=outside.dice,
        max_inline=config.store.max_inline_bytes,
        keep_s=config.store.keep_s,
    )


def make_traces(config: Config, upstreams: Transports, *, node: str, host: str) -> HttpTraces:
    """What sends traces, where that is wanted."""
    section = config.traces
    url = "" if section.url is None else section.url.reveal()
    headers = () if section.secret is None else (("Authorization", f"Bearer {section.secret.reveal()}"),)
    about = {"service.name": "creche", "service.version": __version__, "service.instance.id": node, "host.name": host}
    return HttpTraces(_transport(config, upstreams), url, headers=headers, resource=about)


def reconfigure(outbox: Outbox, config: Config, outside: Outside, upstreams: Transports) -> None:
    """From now on as in `config`; what is on its way ends as it began."""
    outbox.reconfigure(_sender(config, outside, upstreams), _endpoints(config))


def _sender(config: Config, outside: Outside, upstreams: Transports) -> Sender:
    return HttpSender(_transport(config, upstreams), outside.wall)


def _transport(config: Config, upstreams: Transports) -> Sends:
    proxy = config.upstream.route.proxy
    return upstreams.get(None if proxy is None else proxy.reveal(), http2=False)


def _endpoints(config: Config) -> dict[str, Endpoint | Collector]:
    endpoints: dict[str, Endpoint | Collector] = {
        section.name: Endpoint(
            name=section.name,
            url=section.url.reveal(),
            keys=tuple(read_key(one.reveal()) for one in (section.secret, section.old_secret) if one is not None),
            algorithms=section.algorithms,
            statuses=section.statuses,
            public_only=not section.private,
        )
        for section in config.webhooks.values()
    }
    for section in config.analytics.values():
        name = PREFIX + section.name
        endpoints[name] = Collector(
            name=name,
            url=section.url.reveal(),
            form=section.form,
            secret="" if section.secret is None else section.secret.reveal(),
            algorithms=section.algorithms,
        )
    callbacks = config.callbacks
    keys = tuple(read_key(one.reveal()) for one in (callbacks.secret, callbacks.old_secret) if one is not None)
    if callbacks.secret is not None:
        endpoints[CALLBACK] = Endpoint(name=CALLBACK, url="", keys=keys, public_only=not callbacks.private)
    return endpoints
