"""What a Redis URL says: where the server is, or how it is found, and how to log in there.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]             rediss:// with TLS
    unix://[USER:PASSWORD@]/PATH[?db=N]
    redis+sentinel://…@HOST[:PORT],HOST[:PORT]/SERVICE[/DB]    the primary that Sentinels name
    redis+cluster://…@HOST[:PORT],HOST[:PORT]                  the node of a cluster that has our keys

TLS takes the options `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile`; Sentinels that want a login of their own
`sentinel_username` and `sentinel_password`. Special characters are %-encoded. The first two forms are those of the
scheme registered with IANA and of redis-py, the others follow them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

Kind = Literal["standalone", "sentinel", "cluster"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("standalone", False),
    "rediss": ("standalone", True),
    "unix": ("standalone", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: dict[Kind, int] = {"standalone": 6379, "sentinel": 26379, "cluster": 6379}
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how to connect: to the socket `path`, or else to `hosts`, which are those of the server, of Sentinels
    that know the primary of `service`, or of some nodes of a cluster.

    `options` are TLS files by the names that redis-py has for them, `login` and `sentinel_login` user and password.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    tls: bool = False
    login: dict[str, str] = {}
    sentinel_login: dict[str, str] = {}
    options: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"RedisAddress({self.label})"

    @property
    def label(self) -> str:
        """The address as messages show it."""
        return self.path or ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )

    def without_password(self, text: str) -> str:
        """A server that does not know AUTH answers with its arguments."""
        passwords = {login["password"] for login in (self.login, self.sentinel_login) if login.get("password")}
        for password in sorted(passwords, key=len, reverse=True):  # else a part of the longer one could be left
            text = text.replace(password, "***")
        return text


def read_redis_url(url: str) -> RedisAddress:
    """Read a URL. Raises ValueError, which names parts of it only where no part of a password can have ended up."""
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        login, _, places = parts.netloc.rpartition("@")
        hosts = tuple(_host(place) for place in places.split(",")) if places else ()
    except ValueError:
        # Without `from`: these errors quote what they could not read, be it the password.
        raise ValueError("the Redis URL cannot be read; special characters in a password must be %-encoded") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(
            "a Redis URL begins with redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://"
        )
    kind, tls = _SCHEMES[parts.scheme]
    if kind != "standalone" and "@" in login:
        raise ValueError(
            "the Redis URL has two @: user and password come once, before all hosts, and are %-encoded where special"
        )
    local = parts.scheme == "unix"
    if "@/" in parts.path and login if local else "@" in parts.path:
        # The password went on there, and what seems to be the place of the server is a part of it.
        raise ValueError("the Redis URL has an @ after its host; special characters in a password must be %-encoded")
    path = unquote(parts.path) if local else ""
    _check_place(kind, hosts, path, local=local)
    service, db = ("", query.pop("db", "0")) if local else _service_and_db(kind, unquote(parts.path).strip("/"))
    if not (db.isascii() and db.isdigit()):
        raise ValueError("the database in the Redis URL must be a number")
    known = (_TLS_OPTIONS if tls else frozenset()) | (_SENTINEL_OPTIONS if kind == "sentinel" else frozenset())
    if query.keys() - known or parts.fragment:
        raise ValueError("the Redis URL has an option that is not known here")
    user, _, password = login.partition(":")
    names = {"username": unquote(user), "password": unquote(password)}
    return RedisAddress(
        kind=kind,
        hosts=tuple((host, port or _PORTS[kind]) for host, port in hosts),
        path=path,
        service=service,
        db=int(db),
        tls=tls,
        login={name: value for name, value in names.items() if value},
        sentinel_login={name.removeprefix("sentinel_"): query[name] for name in _SENTINEL_OPTIONS if query.get(name)},
        options={name: query[name] for name in _TLS_OPTIONS & query.keys()},
    )


def _check_place(kind: Kind, hosts: Sequence[object], path: str, *, local: bool) -> None:
    if local and (hosts or not path.startswith("/")):
        raise ValueError("a unix:// URL needs an absolute path: unix:///run/redis/redis.sock")
    if not local and not hosts:
        raise ValueError("the Redis URL names no host: redis://host:6379")
    if kind == "standalone" and len(hosts) > 1:
        raise ValueError("several hosts are those of redis+sentinel:// or of redis+cluster://")


def _service_and_db(kind: Kind, path: str) -> tuple[str, str]:
    service, _, db = path.partition("/") if kind == "sentinel" else ("", "", path)
    if kind == "sentinel" and not service:
        raise ValueError("the Redis URL names no service: redis+sentinel://host:26379/mymaster")
    if kind == "cluster" and db:
        raise ValueError("a cluster has one database only: leave out what follows the hosts")
    return service, db or "0"


def _host(place: str) -> tuple[str, int]:
    """Host and port, which is 0 where none is said."""
    parts = urlsplit(f"//{place}")
    if not parts.hostname or parts.path:
        raise ValueError("no host")
    return parts.hostname.encode("idna").decode(), parts.port or 0
