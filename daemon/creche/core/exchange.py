"""HTTP messages as values, in both directions; whoever carries them adds sockets.

`Call` and `Answer` go between us and a provider: a recipe writes the one and reads the other, the transport
carries them. `Request` and `Response` go between a client and our own API: the front carries them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request to a provider.

    `url` is absolute, percent-encoded ASCII. `headers` are complete but for Host, Content-Length and Connection,
    which the transport adds. `fresh` asks for a new connection: a request that must not be repeated must not be
    sent into a kept-alive connection which the provider may be closing at this moment, because its loss could
    not be told from an accepted request whose answer was lost. `public_only`: an answer named the URL, and nobody here
    vouches for it: no address of this machine or of the networks around it may be asked.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    fresh: bool = False
    public_only: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's whole answer; header names are in lower case, of repeated ones the last counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unanswered(Exception):
    """The provider closed a kept connection instead of answering: as good as not asked, the call may be sent again."""


class Prepared(NamedTuple):
    """A call that is ready to be sent, any number of times.

    `send` waits for the answer, and raises. `begin` does not wait: where the call can be sent at once it does so, and
    gives what abandons it; `done` is called later, with the answer or the error (which may be `Unanswered`), and up to
    so many seconds later than that could be known. If it gives None nothing was done.
    """

    send: Callable[[], Awaitable[Answer]]
    begin: Callable[[Callable[[Answer | Exception], None], float], Callable[[], None] | None]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end of a client connection.

    On the Unix socket the kernel's word (SO_PEERCRED): process, user and group id at the time of the connect.
    On TCP only `address`, as `host:port`.
    """

    address: str
    local: bool
    pid: int | None = None
    uid: int | None = None
    gid: int | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a client, whole.

    `path` is the decoded path without the query; `query` the decoded parameters in order; header names are in
    lower case, repeated ones joined with ", ".
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes
    peer: Peer


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """Our answer to a client; the front adds Content-Length, Date and Connection.

    With `parts` the body is what they give, for as long as they do, after `body`; the front closes them.
    """

    status: int
    body: bytes = b""
    parts: AsyncGenerator[bytes, None] | None = None
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
