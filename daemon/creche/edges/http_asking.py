"""One account's way to its provider: a transport whose errors have become ours.

What decides is whether a byte of the request can have reached the provider: where it cannot, a create is an `Outage`,
else it is `CreateUncertain`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import httpx2

from creche.core.exchange import Answer, Call, Prepared
from creche.core.reading import Redaction
from creche.errors import AnswerError, CreateRefused, CreateUncertain, Outage, ProviderError

_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_NEVER_SENT = (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.LocalProtocolError)
_UNREADABLE = (httpx2.RemoteProtocolError, httpx2.DecodingError)
ERRORS = (httpx2.HTTPError, httpx2.InvalidURL)
"""All that a transport raises."""

_WORDS_LIMIT = 300


class Transport(Protocol):
    """Carries one request to its whole answer within `timeout_s` seconds, or raises one of httpx2's errors.

    `ConnectError`, `ConnectTimeout` and `PoolTimeout` promise that no byte of the request was sent;
    `RemoteProtocolError` and `DecodingError` say that an answer came which cannot be used. The errors' words are
    shown to people.
    """

    async def send(self, call: Call, *, timeout_s: float) -> Answer: ...

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        """The call, ready to be sent again and again. Raises for a call that can never be sent."""


class Asking:
    """Sends requests, each within `timeout_s` seconds; `redaction` gives what hides the account's secrets."""

    def __init__(self, transport: Transport, redaction: Callable[[], Redaction], *, timeout_s: float) -> None:
        self._transport = transport
        self._redaction = redaction
        self._timeout_s = timeout_s

    async def ask(self, call: Call) -> Answer:
        """Send what may be sent again. Raises `Outage`, `AnswerError`."""
        try:
            return await self._transport.send(call, timeout_s=self._timeout_s)
        except ERRORS as exc:
            raise failure(exc, call.url, self._redaction()) from exc

    async def create(self, call: Call) -> Answer:
        """Send a create. Raises `Outage`, `CreateRefused`, `CreateUncertain`."""
        try:
            return await self._transport.send(call, timeout_s=self._timeout_s)
        except _NOT_SENT as exc:
            raise Outage(_describe(exc, call.url, self._redaction())) from exc
        except _NEVER_SENT as exc:
            raise CreateRefused(_describe(exc, call.url, self._redaction())) from exc
        except httpx2.HTTPError as exc:
            words = _describe(exc, call.url, self._redaction())
            raise CreateUncertain(words, answered=isinstance(exc, _UNREADABLE)) from exc


def failure(error: Exception, url: str, redaction: Redaction) -> ProviderError:
    """Of a question, which may be asked again."""
    kind = AnswerError if isinstance(error, (*_NEVER_SENT, *_UNREADABLE)) else Outage
    return kind(_describe(error, url, redaction))


def _describe(error: Exception, url: str, redaction: Redaction) -> str:
    """In one line, redacted, with the origin at most: paths and queries of providers may hold secrets."""
    words = str(error).partition("\n")[0] or "the request failed"
    return redaction.hide(_origin(url) + words, at_most=_WORDS_LIMIT)


def _origin(url: str) -> str:
    """Scheme, host and port as the beginning of a message; nothing for what has none, which may be anything."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https"} or not re.fullmatch(r"[a-z0-9._:-]{1,253}", host):
        return ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port is not None else ''}: "
