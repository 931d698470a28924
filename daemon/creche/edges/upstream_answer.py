"""A provider's answer, put together from bytes. Errors are httpx2's, so that every transport fails alike."""

from __future__ import annotations

import functools
import zlib

import httptools
import httpx2

from creche.core.exchange import Answer
from creche.edges.upstream_words import answers_nothing, too_large, too_long_headers

_SWITCHING_PROTOCOLS, _OK = 101, 200


class AnswerReader:
    """Puts together the answers of one connection, one after another, from bytes; the parser calls its `on_` methods.

    `complete` says that the answer is whole, `heard` that a byte of it came, `keep_alive` that the connection can carry
    another exchange: the provider wants it so, and sent not one byte beyond the answer.
    """

    def __init__(self, *, max_body_bytes: int, max_header_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._parser = httptools.HttpResponseParser(self)
        self.expect(body=True)

    def expect(self, *, body: bool) -> None:
        """Begin anew. `body` is False when the answer has none whatever its headers say, because of a HEAD."""
        self.heard = self.complete = self.keep_alive = False
        self._body_expected = body
        self._headers_complete = False
        self._status = 0
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._body_bytes = self._header_bytes = self._other_bytes = 0
        self._fault: str | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises `httpx2.RemoteProtocolError` if they are no HTTP or pass a limit."""
        self.heard = True
        body_bytes = self._body_bytes
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self.keep_alive = False
            if not self.complete and self._fault is None:
                raise httpx2.RemoteProtocolError(f"the provider's answer is not HTTP/1.1: {exc}") from exc
        if self._body_bytes == body_bytes:
            # Headers without an end, informational answers, chunk extensions, trailers: none may go on for ever.
            self._other_bytes += len(data)
        if self._body_bytes > self._max_body_bytes:
            self._fault = too_large("answer", self._max_body_bytes)
        elif self._header_bytes > self._max_header_bytes or self._other_bytes > self._max_header_bytes:
            self._fault = too_long_headers("the provider", self._max_header_bytes)
        if self._fault is not None:
            self.keep_alive = False
            raise httpx2.RemoteProtocolError(self._fault)

    def feed_end(self) -> None:
        """The provider closed its side. Completes an answer that ends so, else raises `httpx2.ReadError`.

        That is what a reset raises too: balancers that restart and workers that die close politely.
        """
        if not self.heard:
            raise httpx2.ReadError("the provider closed the connection before answering")
        delimited = "content-length" in self._headers or "transfer-encoding" in self._headers
        if not self._headers_complete or delimited:
            raise httpx2.ReadError("the provider closed the connection in the middle of its answer")
        self.complete = True

    def answer(self) -> Answer:
        """The complete answer, its body decoded. Raises `httpx2.DecodingError`."""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        coding = self._headers.get("content-encoding")
        if coding is not None and body:
            body = decode(body, coding, self._max_body_bytes)
        return Answer(status=self._status, headers=self._headers, body=body)

    def close(self) -> None:
        """Let go of the parser, which holds on to this reader in turn: no work for the garbage collector."""
        del self._parser

    def on_message_begin(self) -> None:
        if self.complete:
            # Ends the parsing; `feed` knows what it means.
            raise ValueError("a second answer to one request")
        self._headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        # What comes after the body, as a trailer, must not pass for a header: nobody looked at it before the body.
        if not self._headers_complete:
            self._headers[_header_name(name)] = value.decode("latin-1").strip(" \t")

    def on_headers_complete(self) -> None:
        status = self._status = self._parser.get_status_code()
        if status < _OK:
            if status < 100 or status == _SWITCHING_PROTOCOLS:  # noqa: PLR2004 - no status is below 100
                self._fault = answers_nothing(status)
            return
        self._headers_complete = True
        if not self._body_expected:
            self.complete = True
        elif int(self._headers.get("content-length", 0)) > self._max_body_bytes:
            self._fault = too_large("answer", self._max_body_bytes)
        elif self._headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self._fault = "the provider's answer has a transfer encoding other than chunked"

    def on_body(self, data: bytes) -> None:
        # A parser that was not told of a HEAD takes for its body what cannot be one.
        if self._body_expected:
            self._body_bytes += len(data)
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._headers_complete:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()


@functools.lru_cache(maxsize=512)
def _header_name(name: bytes) -> str:
    """Providers send the same few names with every answer."""
    return name.decode("latin-1").lower()


def decode(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """A body of some bytes without its coding. Raises `httpx2.DecodingError`, `RemoteProtocolError` if too large."""
    coding = coding.lower()
    if coding in {"", "identity"}:
        return body
    if coding in {"gzip", "x-gzip"}:
        window = 16 + zlib.MAX_WBITS
    elif coding == "deflate":
        # The standard means zlib's format; some servers send the bare stream. Zlib's first byte ends in 8.
        window = zlib.MAX_WBITS if body[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS
    else:
        raise httpx2.DecodingError(f"the provider's answer has a content encoding that nobody asked for: {coding!r}")
    decoder = zlib.decompressobj(window)
    try:
        decoded = decoder.decompress(body, limit_bytes + 1)
    except zlib.error as exc:
        raise httpx2.DecodingError(f"the provider's answer is not valid {coding}: {exc}") from exc
    if len(decoded) > limit_bytes:
        raise httpx2.RemoteProtocolError(too_large("answer, decoded,", limit_bytes))
    if not decoder.eof:
        raise httpx2.DecodingError(f"the provider's answer is {coding} without its end")
    return decoded
