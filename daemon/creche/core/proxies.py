"""Which proxy leads to a provider: what may be configured, and what the environment says, read as curl reads it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

ENVIRONMENT = "environment"
"""What stands in the place of a URL where the environment decides."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_proxy_url(url: str) -> bool:
    """Whether it is one that can be used: `http://` or `https://`, a host, perhaps user and port, and nothing else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    bare = parts.path in {"", "/"} and not parts.query and not parts.fragment
    plain = url.isascii() and url.isprintable() and " " not in url
    return parts.scheme in {"http", "https"} and bool(host) and port != 0 and bare and plain


class EnvironmentProxies:
    """HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY; where a name is there in both cases, the lower one counts.

    NO_PROXY is a list of names, which stand for all below them too, of addresses and networks, each perhaps with a
    port; `*` stands for everything.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._names: dict[str, str] = {}
        self._urls: dict[str, str] = {}
        for scheme in ("http", "https"):
            for variable in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
                if url := environ.get(variable, "").strip():
                    self._names[scheme] = variable
                    self._urls[scheme] = url if _SCHEME.match(url) else f"http://{url}"
                    break
        excluded = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        self._excluded = [entry.lower() for entry in re.split(r"[\s,]+", excluded) if entry]

    def urls(self) -> set[str]:
        """All that any provider is reached through."""
        return set(self._urls.values())

    def unusable(self) -> list[str]:
        """The variables that hold what no proxy can be reached by."""
        return sorted({self._names[scheme] for scheme, url in self._urls.items() if not is_proxy_url(url)})

    def find(self, scheme: str, host: str, port: int) -> str | None:
        """The proxy to a provider, whose host is in lower case and without brackets; None: there is none."""
        url = self._urls.get(scheme)
        if url is None or any(_excludes(entry, host, port) for entry in self._excluded):
            return None
        return url


def _excludes(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # one of the two is a name, or has a port
    name, colon, only_port = entry.rpartition(":")
    if not colon:
        name = entry
    elif only_port != str(port):
        return False
    name = name.removeprefix("*").strip("[].")
    return host == name or host.endswith(f".{name}")
