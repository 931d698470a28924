"""Between `HttpxUpstream` and httpcore2: requests and proxies as httpcore2 has them, its errors as ours."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from urllib.parse import unquote, urlsplit

import httpcore2
import httpx2

from creche.core.exchange import Call
from creche.edges.upstream_httpx_wire import Exchange
from creche.edges.upstream_request import Place, encode

try:
    from h2.exceptions import H2Error
except ImportError:  # without the extra `http2` nobody asks for HTTP/2: the configuration sees to it

    class H2Error(Exception):  # type: ignore[no-redef]
        """Never raised."""


class ProxyServer:
    """What httpcore2 needs to know of a proxy; no repr shows it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.tls else 80)
        self.url = httpcore2.URL(scheme=parts.scheme, host=_host(self.host), port=self.port, target="/")
        self.auth: tuple[bytes, bytes] | None = None
        if parts.username is not None or parts.password is not None:
            self.auth = (unquote(parts.username or "").encode(), unquote(parts.password or "").encode())


@contextlib.contextmanager
def translated(exchange: Exchange) -> Iterator[None]:
    """Errors of httpcore2 and h2 as those that `send` promises; before the request is sent they are the proxy's."""
    try:
        yield
    except httpx2.ConnectError:
        raise
    except httpx2.HTTPError as exc:
        if not exchange.begun:
            raise httpx2.ConnectError(f"no tunnel: {exc}") from exc
        raise
    except httpcore2.ProxyError as exc:
        raise httpx2.ConnectError(f"the proxy refuses: {exc}") from exc
    except (httpcore2.NetworkError, httpcore2.ProtocolError, H2Error, ValueError) as exc:  # a status that is no number
        if not exchange.begun:
            raise httpx2.ConnectError(f"the connection cannot be used: {exc}") from exc
        if isinstance(exc, httpcore2.NetworkError):
            if exchange.sending:
                raise httpx2.WriteError(f"the connection broke while sending: {exc}") from exc
            raise httpx2.ReadError(f"the connection broke: {exc}") from exc
        told = exc.args[0] if exc.args else None
        if not isinstance(told, Exception | str):  # what the provider told of an HTTP/2 stream or connection
            code = getattr(told, "error_code", None)
            said = getattr(code, "name", str(code)).replace("_", " ").lower()
            raise httpx2.ReadError(f"the provider broke off the exchange: {said}") from exc
        # Whoever broke a rule: the request was looked at before, so that it can only have been the provider.
        raise httpx2.RemoteProtocolError(f"the provider's answer is not valid HTTP: {exc}") from exc


def left_over(response: httpcore2.Response) -> bool:
    """Whether more came than the answer: httpcore2 would take it for the next one, and shows it nowhere.

    A test holds that this finds it; where httpcore2 is built otherwise, no connection is kept.
    """
    connection = getattr(response.stream, "_connection", None)
    parser = getattr(connection, "_h11_state", None)
    return parser is None or bool(parser.trailing_data[0])


CoreRequest = Callable[..., httpcore2.Request]
"""Makes the request once more, with what httpcore2 calls `extensions`."""


def core_place(place: Place) -> httpcore2.Origin:
    """Where a provider is, as httpcore2 has it."""
    return httpcore2.Origin(place.scheme.encode(), _host(place.host).encode(), place.port)


def core_request(call: Call, place: Place, target: str) -> CoreRequest:
    """What `Upstream` would send, taken apart for httpcore2, so that the two cannot differ."""
    head = encode(call, place.host_field, target).partition(b"\r\n\r\n")[0]
    fields = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    # Spaces around a value are none of it, and h11 takes none: its error would show the value.
    headers = [(name, value.strip(b" \t")) for name, _, value in fields]
    port = place.port if place.host_field.endswith(f":{place.port}") else None
    url = httpcore2.URL(scheme=place.scheme, host=_host(place.host), port=port, target=target)
    return functools.partial(httpcore2.Request, call.method, url, headers=headers, content=call.body)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
