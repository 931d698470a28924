"""Parts of the composition root: each makes one thing of the configuration."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from creche.config import Config, HeartbeatsSection, TcpSection
from creche.config_algorithms import AlgorithmSection
from creche.core.access import Access
from creche.core.binding import Binding
from creche.core.reading import Redaction
from creche.core.recipe import Recipe
from creche.edges.front import Front, Handle, Limits, Refuse, Upgrade
from creche.edges.front_listening import adopt, open_tcp, open_unix, remove_unix
from creche.edges.heartbeats_redis import RedisHeartbeats
from creche.edges.http_asking import Asking
from creche.edges.http_provider import HttpProvider
from creche.edges.store_results import asset_folder
from creche.edges.upstream import Upstream
from creche.edges.upstream_assets import AssetFiles, FindProxy
from creche.edges.upstream_httpx import HttpxUpstream
from creche.edges.upstream_routes import Sends, Settings, Upstreams
from creche.engine.live import Algorithm
from creche.engine.ports import AssetSaver, Provider
from creche.engine.timetable import Timetable
from creche.errors import StartError
from creche.plugin import Settings as PluginSettings

BODIES_AT_ONCE = 4
"""How many requests of the largest size are received at the same time."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Transports(Protocol):
    """What carries requests to providers: `Upstreams`, or what a simulation has in its place."""

    def get(self, proxy: str | None, *, http2: bool) -> Sends:
        """The transport for these settings."""

    def saver(self, proxy: str | None) -> AssetSaver | None:
        """What saves the files of results."""

    def keep_only(self, used: Iterable[Settings]) -> None:
        """Close what other settings had made, each connection as its request ends."""

    async def aclose(self) -> None:
        """Send nothing more; requests on the wire end with an error."""


@asynccontextmanager
async def open_listeners(config: Config, inherited: Sequence[int]) -> AsyncIterator[list[trio.SocketListener]]:
    """The Unix socket and the TCP port, taken from systemd where it gave them. Raises `StartError`.

    A Unix socket of our own making is removed at the end; one of systemd's stays, so that clients queue there.
    """
    # The Unix socket first, in whatever order systemd has its units.
    listeners = sorted(map(adopt, inherited), key=lambda listener: listener.socket.family != socket.AF_UNIX)
    given = {listener.socket.family for listener in listeners}
    for listener in listeners:
        _check_exposure(listener, config.tcp)
    section, made = config.socket, None
    try:
        if socket.AF_UNIX not in given:
            make_folder(section.path.parent, 0o755)
            unix = open_unix(section.path, mode=section.mode, owner=section.owner, group=section.group)
            listeners.append(unix)
            made = section.path.stat().st_ino
        if config.tcp.enabled and not given & {socket.AF_INET, socket.AF_INET6}:
            listeners += await open_tcp(config.tcp.host, config.tcp.port)
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()
        if made is not None:
            remove_unix(section.path, made)


def _check_exposure(listener: trio.SocketListener, section: TcpSection) -> None:
    """What the configuration demands of its own address holds for systemd's as well. Raises `StartError`."""
    if listener.socket.family == socket.AF_UNIX:
        return
    host = listener.socket.getsockname()[0]
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback and section.token is None:
        raise StartError(f"systemd gave a socket on {host}, which others can reach: set [tcp] token")


def address_of(listener: trio.SocketListener) -> str:
    """As users write it: a path, or a URL."""
    name = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX:
        return str(name)
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_front(config: Config, *, handle: Handle, refuse: Refuse, upgrade: Upgrade) -> Front:
    """The front. By default only our own names are answered on loopback, against DNS rebinding."""
    hosts = config.tcp.hosts
    if config.tcp.host in LOOPBACK:
        hosts |= frozenset(LOOPBACK)
    limits = Limits(
        head_bytes=config.http.max_head_bytes,
        body_bytes=config.http.max_request_bytes,
        bodies_bytes=config.http.max_request_bytes * BODIES_AT_ONCE,
        connections=config.http.max_connections,
    )
    return Front(
        handle=handle,
        refuse=refuse,
        upgrade=upgrade,
        limits=limits,
        allowed_uids=config.socket.allow_uids,
        hosts=hosts or None,
    )


def make_access(section: TcpSection) -> Access:
    """The rules of the TCP listener."""
    token = section.token.reveal() if section.token is not None else None
    return Access(token=token, allow_writes=section.allow_writes, origins=section.origins)


def make_heartbeats(section: HeartbeatsSection, name: str) -> RedisHeartbeats | None:
    """Redis or Valkey, where one is configured. `name` is that of a node of a fleet. Raises `StartError`."""
    if section.url is None:
        return None
    try:
        return RedisHeartbeats(section.url.reveal(), prefix=section.prefix, name=name)
    except ValueError as exc:
        raise StartError(f"[heartbeats] url: {exc}") from None


def make_upstreams(
    config: Config, environ: Mapping[str, str], timetable: Timetable, may_create: Callable[[], bool]
) -> Upstreams:
    """The transports to all providers; `environ` names proxies, `may_create` is `Upstream`'s. Raises `StartError`."""
    section, store = config.upstream, config.store
    files = trio.CapacityLimiter(1)
    context = None
    make_context: Callable[[], ssl.SSLContext] = ssl.create_default_context
    if section.ca_file is not None:
        try:
            context = ssl.create_default_context(cafile=section.ca_file)
            # Others are made later, when the file may have gone.
            authorities = section.ca_file.read_text("ascii", errors="ignore")
            make_context = partial(ssl.create_default_context, cadata=authorities)
        except OSError as exc:
            raise StartError(f"[upstream] ca_file {section.ca_file} cannot be used: {exc}") from exc

    def make(proxy: str | None, http2: bool) -> HttpxUpstream:  # noqa: FBT001 - as Upstreams has it
        return HttpxUpstream(
            proxy=proxy,
            http2=http2,
            connections_per_origin=section.connections,
            max_body_bytes=section.max_answer_bytes,
            make_context=make_context,
        )

    def make_saver(find_proxy: FindProxy) -> AssetFiles:
        return AssetFiles(
            asset_folder(store.path),
            max_bytes=store.max_asset_bytes,
            run=partial(trio.to_thread.run_sync, limiter=files),
            make_context=make_context,
            find_proxy=find_proxy,
        )

    direct = Upstream(
        connections_per_origin=section.connections,
        max_body_bytes=section.max_answer_bytes,
        ssl_context=context,
        timetable=timetable,
        may_create=may_create,
    )
    return Upstreams(direct, make, make_saver, environ)


def algorithms_of(config: Config, upstreams: Transports) -> dict[str, Algorithm]:
    """What the engine needs of every algorithm."""
    return {name: _algorithm(section, upstreams) for name, section in config.algorithms.items()}


def routes_of(config: Config) -> list[Settings]:
    """The transports that are needed, as `Upstreams` knows them: those of the algorithms, and of who tells others."""
    routes = [_settings(section) for section in config.algorithms.values()]
    told = config.webhooks or config.analytics or config.callbacks.secret is not None or config.traces.url is not None
    if told:
        proxy = config.upstream.route.proxy
        routes.append((None if proxy is None else proxy.reveal(), False))
    return routes


def _settings(section: AlgorithmSection) -> Settings:
    proxy = section.route.proxy
    return (proxy.reveal() if proxy is not None else None, section.route.http2)


def _algorithm(section: AlgorithmSection, upstreams: Transports) -> Algorithm:
    proxy, http2 = _settings(section)
    upstream = upstreams.get(proxy, http2=http2)
    secret = section.secret.reveal() if section.secret is not None else None
    return Algorithm(
        name=section.name,
        provider=_provider(section, upstream, secret),
        rhythm=section.rhythm,
        in_flight=section.in_flight,
        creates_per_s=section.creates_per_s,
        polls_per_s=section.polls_per_s,
        deadline_s=section.deadline_s,
        saver=upstreams.saver(proxy) if section.assets == "save" else None,
        on_timeout=section.on_timeout,
        on_unknown=section.on_unknown,
    )


def _provider(section: AlgorithmSection, upstream: Sends, secret: str | None) -> Provider:
    if isinstance(section.kind, Recipe):
        binding = Binding(section.kind, base=section.base, params=section.params, secret=secret)
        return HttpProvider(binding, upstream, timeout_s=section.timeout_s)
    redaction = Redaction(secret)
    http = Asking(upstream, lambda: redaction, timeout_s=section.timeout_s)
    settings = PluginSettings(base=section.base, params=section.params, secret=secret, http=http, wall=time.time)
    return section.kind.make(settings)


def flatten(error: BaseException) -> Iterator[Exception]:
    """The single errors within nested groups."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from flatten(part)
    elif isinstance(error, Exception):
        yield error


def make_folder(path: Path, mode: int) -> None:
    """Make a folder with all above it. Raises `StartError`."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as exc:
        raise StartError(f"cannot make the folder {path}: {exc.strerror}") from exc
