"""One connection to a provider, and how one request is exchanged for one answer on it.

Plain non-blocking sockets, and TLS on the socket itself: together a third of the CPU that Trio's streams cost. Nobody
waits here: a connection sends what the kernel takes, is told by the switchboard when there is more to do, and says how
an exchange ended.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

import httpx2

from creche.core.exchange import Answer
from creche.edges.upstream_answer import AnswerReader

RECEIVE_BYTES = 65536
"""Read at once. More than the 16 KiB of a TLS record, so that after a read nothing is left inside the TLS layer,
where the kernel would not see it."""

READ, WRITE = select.EPOLLIN, select.EPOLLOUT

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

End = Answer | Exception
"""How an exchange ended: with a whole answer, or an error; those of the world are httpx2's."""


class Watch(Protocol):
    """What looks after connections: it calls `on_event` when one has something to read, or what it asked for."""

    def ask_for(self, connection: Connection, events: int) -> None:
        """From now on look for these events too, besides something to read."""

    def attend(self, connection: Connection) -> None:
        """From now on look at once."""

    def forget(self, connection: Connection) -> None:
        """It is about to be closed."""


class Expired(Exception):
    """The exchange took too long."""


class Connection:
    """A connection that carries one exchange at a time. `idle_since` and `deadline` belong to whoever keeps it.

    `on_spoiled` is called when something came while no exchange was under way: an end, or bytes that nobody asked for.
    """

    __slots__ = (
        "_done",
        "_look",
        "_on_spoiled",
        "_reader",
        "_refusal",
        "_socket",
        "_unsent",
        "_watch",
        "deadline",
        "idle_since",
        "sending",
    )

    def __init__(
        self,
        connected: socket.socket,
        reader: AnswerReader,
        watch: Watch,
        *,
        on_spoiled: Callable[[Connection], None],
    ) -> None:
        self._socket = connected
        self._reader = reader
        self._watch = watch
        self._look = select.poll()  # a third of what a `recv` costs that raises
        self._look.register(connected, select.POLLIN)
        self._done: Callable[[End], None] | None = None
        self._unsent: bytes | memoryview = b""
        self._refusal: OSError | None = None
        self._on_spoiled = on_spoiled
        self.idle_since = 0.0
        self.deadline = 0.0
        self.sending = False
        """Whether a part of the request has not been taken by the kernel yet."""

    def fileno(self) -> int:
        """As a socket's own."""
        return self._socket.fileno()

    @property
    def heard(self) -> bool:
        """Whether a byte of the answer came."""
        return self._reader.heard

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow: both messages were whole, and neither side wants to close."""
        return self._reader.keep_alive and not self.sending

    def is_quiet(self) -> bool:
        """Whether nothing came since the last exchange. Anything that did, an end or bytes, makes it unusable.

        Bytes that are no data of the provider's but of TLS, such as a new session's ticket, are none of our business.
        """
        if not self._look.poll(0):
            return True
        try:
            self._socket.recv(1)
        except _NOT_NOW:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close it at once, without the farewell of TLS: all that matters was delimited by HTTP.

        Of an exchange under way nobody hears any more.
        """
        self._done = None
        self._watch.forget(self)
        self._socket.close()
        self._reader.close()

    # -- one exchange ----------------------------------------------------------------------------------------

    def begin(self, request: bytes, *, body_expected: bool, done: Callable[[End], None]) -> None:
        """Begin to exchange a request for an answer, which may come before the request is through.

        `done` is called once, later: with the answer, or with `Expired`, `httpx2.WriteError`, `ReadError`,
        `RemoteProtocolError` or `DecodingError`. From then on `reusable` tells whether the connection is good for more
        than closing.
        """
        self._reader.expect(body=body_expected)
        self._done = done
        self._unsent = request
        self._refusal = None
        self.sending = True
        self._send()

    def fail(self, error: Exception) -> None:
        """End the exchange under way, if there is one."""
        self._end(error)

    def on_event(self) -> None:
        """Something came, or can be sent, or the connection broke."""
        if self._done is None:
            if not self.is_quiet():
                self._on_spoiled(self)
            return
        if self._unsent:
            self._send()
        self._receive()

    def _send(self) -> None:
        """Send what the kernel takes now.

        An error is not the last word: what the provider said before it hung up may still wait to be read.
        """
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except ssl.SSLWantReadError:
                return
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._watch.ask_for(self, WRITE)
                return
            except OSError as exc:
                self._refusal, self._unsent = exc, b""
                return
            self._unsent = memoryview(self._unsent)[sent:] if sent < len(self._unsent) else b""
        self.sending = False

    def _receive(self) -> None:
        """Read once: a large body shares the loop with others."""
        reader = self._reader
        try:
            data = self._socket.recv(RECEIVE_BYTES)
            if data:
                reader.feed(data)
            else:
                reader.feed_end()
            if reader.complete:
                self._end(reader.answer())
            elif not self._unsent:
                self._watch.attend(self)  # the rest is on its way, and one look after another would be slow
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except ssl.SSLWantWriteError:
            self._watch.ask_for(self, WRITE)
        except httpx2.HTTPError as exc:
            self._break(exc)
        except OSError as exc:
            self._break(httpx2.ReadError(f"the connection broke: {exc.strerror}"))

    def _break(self, error: httpx2.HTTPError) -> None:
        if isinstance(error, httpx2.ReadError) and self._refusal is not None and not self._reader.heard:
            error = httpx2.WriteError(f"the connection broke while sending: {self._refusal.strerror}")
        self._end(error)

    def _end(self, end: End) -> None:
        done, self._done = self._done, None
        self._unsent = b""
        if done is not None:
            done(end)
