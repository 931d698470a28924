"""A request to a provider as bytes: what its URL means, and what goes before the body."""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import httpx2

from creche.core.exchange import Call

REPEATABLE = frozenset({"GET", "HEAD"})
"""The methods of calls that are sent once more when a kept connection turns out to be closed."""

UNIX = "http+unix"
"""The scheme of providers on a Unix socket: the authority is the socket's path, percent-encoded."""

_ABSOLUTE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>[^#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_][a-z0-9_.-]*))(?::(?P<port>[0-9]{1,5}))?")
_PORTS = {"http": 80, "https": 443}
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset(
    {"host", "content-length", "connection", "transfer-encoding", "keep-alive", "upgrade", "te", "trailer"}
)
_WITHOUT_LENGTH = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_UNSUPPORTED = "the URL begins with none of http://, https:// and http+unix://"
_SOCKET_PATH_BYTES = 107  # what the kernel takes, without the NUL


class Place(NamedTuple):
    """Where a URL leads: `name` is the origin as `scheme://host:port`, `host_field` what the Host header says.

    For a Unix socket `host` is its path and the port 0. `public_only`: only if it is in the public internet; such a
    place has a name, and so connections, of its own.
    """

    scheme: str
    host: str
    port: int
    name: str
    host_field: str
    public_only: bool = False


def locate(url: str, *, public_only: bool = False) -> tuple[Place, str]:
    """Where a URL leads, and the target of the request there. Raises `httpx2.UnsupportedProtocol`, `InvalidURL`."""
    absolute = _ABSOLUTE.fullmatch(url.partition("#")[0])
    if absolute is None:
        raise httpx2.UnsupportedProtocol(_UNSUPPORTED)
    place = _place(absolute["scheme"].lower(), absolute["authority"])
    if public_only:
        place = place._replace(name=f"{place.name} (public)", public_only=True)
    return place, _target(absolute["target"])


@functools.lru_cache(maxsize=256)
def _place(scheme: str, authority: str) -> Place:
    """Thousands of jobs are at a few places, and share what is known of them."""
    if scheme == UNIX:
        return _on_a_socket(authority)
    if scheme not in _PORTS:
        raise httpx2.UnsupportedProtocol(_UNSUPPORTED)
    found = _AUTHORITY.fullmatch(authority.lower())
    port = int((found and found["port"]) or _PORTS[scheme])
    if found is None or not 0 < port < 1 << 16:
        raise httpx2.InvalidURL("the URL's host and port cannot be understood")
    host = shown = found["ipv6"] or found["name"]
    if found["ipv6"] is not None:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise httpx2.InvalidURL("the URL's host is not an IPv6 address") from None
        shown = f"[{host}]"
    host_field = shown if port == _PORTS[scheme] else f"{shown}:{port}"
    return Place(scheme, host, port, f"{scheme}://{shown}:{port}", host_field)


def _on_a_socket(authority: str) -> Place:
    path = unquote_to_bytes(authority)
    if not path.startswith(b"/") or b"\0" in path or len(path) > _SOCKET_PATH_BYTES:
        raise httpx2.InvalidURL("the URL's host is not the path of a Unix socket, as in http+unix://%2Frun%2Fx.sock/")
    return Place(UNIX, path.decode("utf-8", "surrogateescape"), 0, f"{UNIX}://{authority}", "localhost")


def _target(rest: str) -> str:
    """What follows the authority of a URL, as a request's target. Raises `httpx2.InvalidURL`."""
    target = rest.partition("#")[0]
    if not (target.isascii() and target.isprintable()) or " " in target:
        raise httpx2.InvalidURL("the URL's path or query has characters that must be percent-encoded")
    return target if target.startswith("/") else f"/{target}"


def encode(call: Call, host_field: str, target: str) -> bytes:
    """The whole request. Raises `httpx2.LocalProtocolError` for what must not be sent."""
    if not (call.method.isascii() and call.method.isalpha()):
        raise httpx2.LocalProtocolError("the request's method is not a word")
    if call.body is not None:
        length = f"Content-Length: {len(call.body)}\r\n"
    else:
        length = "" if call.method in _WITHOUT_LENGTH else "Content-Length: 0\r\n"
    head = f"{call.method} {target} HTTP/1.1\r\nHost: {host_field}\r\n{_fields(call.headers)}{length}\r\n"
    return head.encode("latin-1") + (call.body or b"")


@functools.lru_cache(maxsize=256)
def _fields(headers: tuple[tuple[str, str], ...]) -> str:
    """The headers as they are sent. Refuses what could pass for more than one header, or contradict those we add."""
    names = {name.lower() for name, _ in headers}
    for name, value in headers:
        if not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            raise httpx2.LocalProtocolError(
                f"the request's header {name[:40]!r} has characters that no header may have"
            )
    if ours := names & _OURS:
        raise httpx2.LocalProtocolError(f"the request's header {min(ours)!r} is for the transport to set")
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    if "accept-encoding" not in names:
        lines.append("Accept-Encoding: identity\r\n")
    return "".join(lines)
