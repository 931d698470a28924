"""What is around a daemon that is to start: is it as it should be? Nothing is changed, and a daemon may run."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec

from creche.config import Config
from creche.core.redis_url import read_redis_url
from creche.edges.front_listening import is_alive
from creche.edges.store_sqlite_schema import look
from creche.errors import StartError

LOW_DISK_BYTES = 500 << 20
FEW_CLIENTS = 1000
"""Connections of clients and listeners for which there should be descriptors, beside those to providers."""

BUILT_AT = 1_790_000_000
"""Unix seconds; a clock that is before them is wrong."""

TIME_ERROR = 5
"""What adjtimex(2) returns while the clock is not synchronized."""

State = Literal["ok", "warn", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """One line: what was looked at, how it is, and what to do about it."""

    state: State
    what: str
    said: str
    hint: str = ""


def look_around(config: Config, now: float) -> Iterator[Finding]:
    """Everything that a start needs, but for the configuration itself, which was read."""
    yield _algorithms(config)
    yield _file(config.source)
    yield _store(config)
    yield from _disk(config)
    yield from _heartbeats(config)
    unix = _unix(config.socket.path)
    yield unix
    yield from _tcp(config, busy="somebody listens" in unix.said)
    yield _clock(now)
    yield _descriptors(config)


def _algorithms(config: Config) -> Finding:
    if not config.algorithms:
        return Finding("warn", "algorithms", "none: nothing can be submitted", "add a table [algorithms.NAME]")
    secrets = sum(section.secret is not None for section in config.algorithms.values())
    return Finding("ok", "algorithms", f"{len(config.algorithms)}, {secrets} of them with a secret that is there")


def _file(source: Path | None) -> Finding:
    if source is None:
        return Finding("ok", "configuration", "no file: the defaults")
    mode = source.stat().st_mode
    if mode & stat.S_IWOTH:
        hint = f"chmod o-w {source}"
        return Finding("warn", "configuration", f"{source} can be written by anybody: who can may run up bills", hint)
    return Finding("ok", "configuration", str(source))


def _store(config: Config) -> Finding:
    section = config.store
    try:
        if section.url is None:
            folder = section.path.parent
            said = look(section.path) if folder.exists() or not _may_make(folder) else "is made by the start"
            return Finding("ok", "store", f"{section.path}: {said}")
        from creche.edges.store_redis_server import RedisServer  # noqa: PLC0415 - takes long to import

        server = RedisServer(
            read_redis_url(section.url.reveal()),
            prefix=section.prefix,
            durable=section.durable == "always",
            replicas=section.replicas,
        )
        return Finding("ok", "store", f"{server.label}: {server.check()}")
    except (StartError, OSError) as exc:
        hint = "see docs/how-to/run-a-fleet.md" if section.url else "the daemon's user must have it"
        return Finding("wrong", "store", str(exc), hint)


def _may_make(path: Path) -> bool:
    """Whether this user can make it, with the folders above it that are missing."""
    return os.access(next(parent for parent in path.parents if os.path.lexists(parent)), os.W_OK | os.X_OK)


def _disk(config: Config) -> Iterator[Finding]:
    folder = config.store.path.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # it is not there yet, or not for this user, which the store's line says
        return
    said = f"{free >> 20} MiB free in {folder}"
    if free < LOW_DISK_BYTES:
        yield Finding("warn", "disk", said, "a full disk refuses submits and keeps outcomes in memory: make room")
    else:
        yield Finding("ok", "disk", said)


def _heartbeats(config: Config) -> Iterator[Finding]:
    section = config.heartbeats
    if section.url is None:
        return
    from redis import RedisError  # noqa: PLC0415 - as above

    from creche.edges.store_redis_connect import Primary, in_words  # noqa: PLC0415 - as above

    address = read_redis_url(section.url.reveal())
    with closing(Primary(address, section.prefix, timeout_s=2.0)) as server:
        try:
            server.client().ping()
        except (RedisError, OSError) as exc:
            said = f"{address.label} does not answer: {in_words(exc, address)}"
            yield Finding("warn", "heartbeats", said, "the daemon starts without it, and shows beats once it is there")
            return
    yield Finding("ok", "heartbeats", f"{address.label} answers")


def _unix(path: Path) -> Finding:
    other = "run the check as the daemon's user, or choose another [socket] path"
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            hint = "remove it, or choose another [socket] path"
            return Finding("wrong", "socket", f"{path} is there and no socket", hint)
        if is_alive(path):
            return Finding("ok", "socket", f"{path}: somebody listens, a daemon that runs or systemd")
    except FileNotFoundError:
        pass
    except OSError as exc:
        return Finding("warn", "socket", f"{path} cannot be looked at: {exc.strerror}", other)
    if not _may_make(path):
        return Finding("wrong", "socket", f"{path} cannot be made by this user", other)
    return Finding("ok", "socket", f"{path} can be made")


def _tcp(config: Config, *, busy: bool) -> Iterator[Finding]:
    section = config.tcp
    if not section.enabled:
        return
    where = f"{section.host}, port {section.port}"
    family = socket.AF_INET6 if ":" in section.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((section.host, section.port))
        except OSError as exc:
            if busy:
                yield Finding("ok", "tcp", f"{where}: taken, as the socket is")
                return
            hint = "find out by whom (ss -ltnp), or choose another [tcp] port"
            yield Finding("wrong", "tcp", f"{where} cannot be had: {exc.strerror}", hint)
            return
    yield Finding("ok", "tcp", f"{where} is free")


def _clock(now: float) -> Finding:
    if now < BUILT_AT:
        return Finding("wrong", "clock", "it is years behind", "set it: deadlines and certificates depend on it")
    answer = _clock_state()
    if answer == TIME_ERROR:
        hint = "have it synchronized (systemd-timesyncd, chrony): the nodes of a fleet and signed requests need that"
        return Finding("warn", "clock", "not synchronized with a time server", hint)
    return Finding("ok", "clock", "synchronized" if answer >= 0 else "plausible")


def _clock_state() -> int:
    """What adjtimex(2) says; -1 where it may not be asked."""
    # A structure of zeros only asks; 512 bytes are more than any machine's.
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))


def _descriptors(config: Config) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.upstream.connections + FEW_CLIENTS
    said = f"{soft} file descriptors may be open"
    if soft != resource.RLIM_INFINITY and soft < wanted:
        hint = "raise it: LimitNOFILE= in the unit, ulimit -n in a shell"
        return Finding("warn", "limits", f"{said}, which is little for {wanted} connections", hint)
    return Finding("ok", "limits", said)
