"""One client of the front: its requests read, handed on and answered, one after the other.

Whole requests are read within limits of size and time; of what a stranger sends only method and path ever reach a log.
A WebSocket upgrade is handed on with the bytes that announced it.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

import h11
import msgspec
import trio
from loguru import logger

from creche.core.exchange import Peer, Request, Response
from creche.core.wire import problem_response
from creche.edges.front_listening import Hangups, Replay, peer_of

if TYPE_CHECKING:
    from creche.edges.front import Front, Upgrade

STREAM_PATH = "/v1/stream"
MAX_HEADERS = 100
MAX_QUERY_FIELDS = 100

# Small pieces keep the loop responsive: a hostile body in chunks of one byte costs h11 some 20 us for every 6 bytes.
_RECEIVE_BYTES = 16 << 10
_SEND_BYTES = 256 << 10
LAST_S = 1.0
"""How long a stop waits for the first request of somebody who had connected before."""

_LINGER_S = 1.0
_LINGER_BYTES = 1 << 20
_SHOWN_CHARS = 200
_MALFORMED = "malformed_request"
_READING = "reading a request"
_BODILESS = frozenset({204, 304})
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Refusal(Exception):
    """The request is not served: this is the answer, and the connection closes after it."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Guests:
    """The clients of one kind of listener, and how much of their bodies we hold."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.bodies_bytes = 0


class Connection:
    """One client and its requests, one after the other. `idle_since` is infinite while a request is on its way.

    `arriving`: a request is on its way to us, or the first one is expected.
    """

    def __init__(self, front: Front, stream: trio.SocketStream, hangups: Hangups, guests: Guests) -> None:
        self.doing = _READING
        self._front = front
        self._limits = front.limits
        self._stream = stream
        self._hangups = hangups
        self._guests = guests
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)
        self._patience = trio.CancelScope()
        self.idle_since = math.inf
        self.arriving = True
        self._fresh = True
        self._body_bytes = 0
        self._head_only = False
        self._received = bytearray()

    async def converse(self) -> None:
        """Answer requests until one side has had enough. Raises when the client is gone in the midst of it."""
        try:
            peer = peer_of(self._stream.socket)
        except OSError:
            return
        wait_s = self._limits.head_s
        # Whoever had connected before a stop came is heard: nobody else would answer.
        while self._fresh or not self._front.stopping:
            try:
                request = await self._request_or_refusal(peer, LAST_S if self._front.stopping else wait_s)
                self._fresh = self.arriving = False
                self._front.note_arrived()
                if request is None:
                    return
                if isinstance(request, Response):
                    await self.refuse(request)
                    return
                if upgrade := self._upgrade_for(request):
                    await upgrade(request, Replay(self._stream, bytes(self._received)))
                    return
                if not await self._serve(request):
                    return
            finally:
                self._let_body_go()
            self._http.start_next_cycle()
            wait_s = self._limits.idle_s

    def close_if_idle(self) -> None:
        """End the conversation if the client is not in the midst of a request."""
        if self._is_idle:
            self._patience.cancel()

    def close_if_silent(self) -> None:
        """End the conversation if the client has nothing to say; who has just come may say something yet."""
        if self._is_idle and self._fresh:
            self._patience.deadline = min(self._patience.deadline, trio.current_time() + LAST_S)
        else:
            self.close_if_idle()

    async def refuse(self, response: Response) -> None:
        """Answer, and see to it that the answer arrives: closing on unread bytes would reset the connection."""
        logger.debug("refused, {}: {}", self.doing, response.status)
        await self._send(response, close=True)
        with trio.move_on_after(_LINGER_S):
            await self._stream.send_eof()
            drained = 0
            while drained < _LINGER_BYTES:
                some = await self._stream.receive_some(_RECEIVE_BYTES)
                if not some:
                    return
                drained += len(some)

    @property
    def _is_idle(self) -> bool:
        return self.idle_since < math.inf

    async def _request_or_refusal(self, peer: Peer, wait_s: float) -> Request | Response | None:
        try:
            return await self._next_request(peer, wait_s)
        except Refusal as refusal:
            self._let_body_go()
            return refusal.response

    async def _next_request(self, peer: Peer, wait_s: float) -> Request | None:
        """The next request, whole, but of an upgrade only the head; None when no more comes. Raises `Refusal`."""
        self.doing, self._head_only = _READING, False
        self._received = bytearray(self._http.trailing_data[0])
        with trio.move_on_after(wait_s) as self._patience:
            self.idle_since = math.inf if self._received else trio.current_time()
            if self._is_idle and not await self._receive():
                return None
            self.idle_since = math.inf
            self.arriving = True
            self._patience.deadline = trio.current_time() + self._limits.head_s
            head = await self._next_event()
            if not isinstance(head, h11.Request):
                return None
            request = self._understand(head, peer)
            if self._upgrade_for(request):
                return request
            self._patience.deadline = trio.current_time() + self._limits.body_s
            return msgspec.structs.replace(request, body=await self._read_body(request))
        if self._is_idle:
            return None  # a 408 might cross the client's next request, and be taken for the answer to it
        raise Refusal(problem_response(408, "request_timeout", "the request did not arrive in time"))

    async def _receive(self) -> bool:
        """Receive some bytes; False at the end of what the client sends."""
        some = await self._stream.receive_some(_RECEIVE_BYTES)
        self._http.receive_data(some)
        self._received += some
        return bool(some)

    async def _next_event(self) -> object:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                code = (
                    "header_too_large"
                    if exc.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                    else _MALFORMED
                )
                raise Refusal(problem_response(exc.error_status_hint, code, str(exc)[:_SHOWN_CHARS])) from exc
            if event is not h11.NEED_DATA:
                return event
            await self._receive()

    def _understand(self, head: h11.Request, peer: Peer) -> Request:
        target = head.target.decode("ascii")
        raw_path, _, raw_query = target.partition("?")
        method = head.method.decode("ascii")
        # h11 lets only visible ASCII through here, so that this can go to a log as it is.
        self.doing = f"{method} {raw_path}"[:_SHOWN_CHARS]
        self._head_only = method == "HEAD"
        head_bytes = len(self._received) - len(self._http.trailing_data[0])
        if head_bytes > self._limits.head_bytes or len(head.headers) > MAX_HEADERS:
            allowed = f"{self._limits.head_bytes} bytes and {MAX_HEADERS} fields"
            raise Refusal(problem_response(431, "header_too_large", f"a request head may have {allowed}"))
        headers = _joined(head.headers)
        self._front.check(peer, headers.get("host", ""))
        if not target.startswith("/") or "%00" in target:
            raise Refusal(problem_response(400, _MALFORMED, "the request target is no path without NUL"))
        try:
            path = unquote(raw_path, errors="strict")
            query = parse_qsl(raw_query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
        except ValueError as exc:
            detail = f"the request target is not UTF-8, or its query has more than {MAX_QUERY_FIELDS} fields"
            raise Refusal(problem_response(400, _MALFORMED, detail)) from exc
        method = "GET" if self._head_only else method
        return Request(method=method, path=path, query=tuple(query), headers=headers, body=b"", peer=peer)

    def _upgrade_for(self, request: Request) -> Upgrade | None:
        if request.path != STREAM_PATH or request.method != "GET":
            return None
        tokens = request.headers.get("connection", "").lower().split(",")
        wanted = "upgrade" in map(str.strip, tokens) and request.headers.get("upgrade", "").lower() == "websocket"
        return self._front.upgrade if wanted else None

    async def _read_body(self, request: Request) -> bytes:
        most = self._limits.body_bytes
        too_large = f"a request body may have {most} bytes"
        declared = int(request.headers.get("content-length", 0))
        if (declared or "transfer-encoding" in request.headers) and self._front.refuse is not None:
            response = self._front.refuse(request)
            if response is not None:
                raise Refusal(response)
        if declared > most:
            raise Refusal(problem_response(413, "too_large", too_large))
        if self._http.they_are_waiting_for_100_continue:
            await self._send_events(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            self._received.clear()  # only an upgrade is replayed, and does not come this far
            self._body_bytes += len(event.data)
            self._guests.bodies_bytes += len(event.data)
            if len(body) > most:
                raise Refusal(problem_response(413, "too_large", too_large))
            if self._guests.bodies_bytes > self._limits.bodies_bytes:
                detail = "too many large requests at once, try again later"
                raise Refusal(problem_response(503, "too_busy", detail))
        return bytes(body)

    def _let_body_go(self) -> None:
        self._guests.bodies_bytes -= self._body_bytes
        self._body_bytes = 0

    async def _serve(self, request: Request) -> bool:
        """Handle and answer one request; False ends the conversation."""
        began = trio.current_time()
        response: Response | None = None
        try:
            if request.method == "GET":
                response = await self._hangups.handle(self._front.handle, request, self._stream.socket.fileno())
            else:
                response = await self._front.handle(request)
        except* Exception as group:  # noqa: BLE001 - whatever a handler does, its client gets an answer
            report(group, self.doing)
            response = problem_response(500, "internal", "the daemon made a mistake; its log has the details")
        if response is not None:
            await self._send(response, close=self._front.stopping)
            if response.parts is not None and not self._head_only:
                sent = await self._hangups.handle(self._send_parts, response.parts, self._stream.socket.fileno())
                response = response if sent else None
        status = "hung up" if response is None else response.status
        took_ms = (trio.current_time() - began) * 1000
        peer = request.peer
        logger.debug("{} {} {:.1f} ms pid={} uid={}", self.doing, status, took_ms, peer.pid, peer.uid)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _send(self, response: Response, *, close: bool) -> None:
        body = b"" if self._head_only or response.status in _BODILESS else response.body
        is_whole = response.parts is None or self._head_only
        end = [h11.EndOfMessage()] if is_whole else []
        await self._send_events(_head(response, close=close), h11.Data(data=body), *end)

    async def _send_parts(self, parts: AsyncGenerator[bytes, None]) -> bool:
        """Send what comes, as it comes, until nothing more does; True then."""
        async with aclosing(parts):
            async for part in parts:
                await self._send_events(h11.Data(data=part))
        await self._send_events(h11.EndOfMessage())
        return True

    async def _send_events(self, *events: h11.Event) -> None:
        """Raises `trio.TooSlowError` when the client does not take them."""
        data = b"".join(self._http.send(event) or b"" for event in events)
        for start in range(0, len(data), _SEND_BYTES):
            with trio.fail_after(self._limits.write_s):
                await self._stream.send_all(data[start : start + _SEND_BYTES])


def _head(response: Response, *, close: bool) -> h11.Response:
    headers = [("Date", _http_date(int(time.time()))), ("X-Content-Type-Options", "nosniff"), *response.headers]
    if response.status not in _BODILESS:
        headers.append(("Content-Type", response.content_type))
    if response.status not in _BODILESS and response.parts is None:
        headers.append(("Content-Length", str(len(response.body))))
    if not any(name.lower() == "cache-control" for name, _ in response.headers):
        headers.append(("Cache-Control", "no-store"))
    if close:
        headers.append(("Connection", "close"))
    return h11.Response(status_code=response.status, headers=headers, reason=_REASONS.get(response.status, b""))


@lru_cache(maxsize=1)
def _http_date(unix_s: int) -> str:
    return formatdate(unix_s, usegmt=True)


def _joined(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def report(error: Exception, doing: str) -> None:
    """Log what went wrong while `doing`; a group of one error as that error."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    logger.opt(exception=error).error("{} failed", doing)
