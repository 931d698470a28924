"""All transports of the daemon: the fast one for most providers, others for those that need a proxy or HTTP/2."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from creche.core.exchange import Answer, Call, Prepared
from creche.core.proxies import ENVIRONMENT, EnvironmentProxies
from creche.edges.upstream import Upstream
from creche.edges.upstream_assets import AssetFiles, FindProxy
from creche.edges.upstream_httpx import HttpxUpstream
from creche.edges.upstream_request import locate

Settings = tuple[str | None, bool]
"""A proxy's URL, `ENVIRONMENT` or None, and whether HTTP/2 is wanted."""


class Sends(Protocol):
    """What is common to all transports."""

    async def send(self, call: Call, *, timeout_s: float) -> Answer: ...

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared: ...


class Upstreams:
    """The transports that are in use. `make` makes one more; the same settings share one.

    `direct` carries what needs neither a proxy nor HTTP/2, and calls to hosts that the environment names no proxy for.
    `make_saver` makes what saves files.
    """

    def __init__(
        self,
        direct: Upstream,
        make: Callable[[str | None, bool], HttpxUpstream],
        make_saver: Callable[[FindProxy], AssetFiles],
        environ: Mapping[str, str],
    ) -> None:
        self.direct = direct
        self._make_saver = make_saver
        self._make = make
        self._environment = EnvironmentProxies(environ)
        self._made: dict[Settings, HttpxUpstream] = {}
        self._retired: list[HttpxUpstream] = []

    def get(self, proxy: str | None, *, http2: bool) -> Sends:
        """The transport for these settings; it stays in use until `keep_only` leaves them out."""
        if proxy == ENVIRONMENT:
            return _ByEnvironment(self, self._environment, http2=http2)
        if proxy is None and not http2:
            return self.direct
        if (proxy, http2) not in self._made:
            self._made[proxy, http2] = self._make(proxy, http2)
        return self._made[proxy, http2]

    def saver(self, proxy: str | None) -> AssetFiles:
        """What saves files, by the same proxy as all else."""
        if proxy == ENVIRONMENT:
            return self._make_saver(self._environment.find)
        return self._make_saver(lambda _scheme, _host, _port: proxy)

    def keep_only(self, used: Iterable[Settings]) -> None:
        """Close what other settings had made, each connection as its request ends."""
        keep: set[Settings] = set()
        for proxy, http2 in used:
            proxies = {None, *self._environment.urls()} if proxy == ENVIRONMENT else {proxy}
            keep |= {(url, http2) for url in proxies}
        for settings in self._made.keys() - keep:
            retired = self._made.pop(settings)
            retired.retire()
            self._retired.append(retired)
        # Those that still carry requests must hear of the end.
        self._retired = [retired for retired in self._retired if retired.is_used()]

    async def aclose(self) -> None:
        """As `Upstream.aclose`, for all."""
        await self.direct.aclose()
        for upstream in (*self._made.values(), *self._retired):
            await upstream.aclose()


class _ByEnvironment:
    """Sends each call by the proxy that the environment names for its host; an answer may lead to another host."""

    def __init__(self, upstreams: Upstreams, environment: EnvironmentProxies, *, http2: bool) -> None:
        self._upstreams = upstreams
        self._http2 = http2
        self._find = functools.lru_cache(maxsize=256)(environment.find)

    async def send(self, call: Call, *, timeout_s: float) -> Answer:
        """As `Upstream.send`."""
        return await self._way_of(call).send(call, timeout_s=timeout_s)

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        """As `Upstream.prepare`. Which way the call goes is decided here: the environment does not change."""
        return self._way_of(call).prepare(call, timeout_s=timeout_s)

    def _way_of(self, call: Call) -> Sends:
        place, _ = locate(call.url)
        return self._upstreams.get(self._find(place.scheme, place.host, place.port), http2=self._http2)
