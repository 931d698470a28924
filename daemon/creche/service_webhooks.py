"""The outbox as the configuration wants it."""

from __future__ import annotations

from creche.config import Config
from creche.core.webhooks import CALLBACK, Endpoint, read_key
from creche.edges.http_webhooks import HttpSender
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


def reconfigure(outbox: Outbox, config: Config, outside: Outside, upstreams: Transports) -> None:
    """From now on as in `config`; what is on its way ends as it began."""
    outbox.reconfigure(_sender(config, outside, upstreams), _endpoints(config))


def _sender(config: Config, outside: Outside, upstreams: Transports) -> Sender:
    proxy = config.upstream.route.proxy
    return HttpSender(upstreams.get(None if proxy is None else proxy.reveal(), http2=False), outside.wall)


def _endpoints(config: Config) -> dict[str, Endpoint]:
    endpoints = {
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
    callbacks = config.callbacks
    keys = tuple(read_key(one.reveal()) for one in (callbacks.secret, callbacks.old_secret) if one is not None)
    if callbacks.secret is not None:
        endpoints[CALLBACK] = Endpoint(name=CALLBACK, url="", keys=keys, public_only=not callbacks.private)
    return endpoints
