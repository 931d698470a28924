"""The simulated provider on a TCP socket: HTTP/1.1 with keep-alive, as cheap per request as Python allows.

It must not be what a benchmark of the daemon measures, hence bare sockets, httptools and ready-made heads; measured by
bench/simulator.py.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Mapping
from http import HTTPStatus

import httptools
import msgspec
import trio

from creche.simulator.rules import Drop, Reply, Simulator

MAX_HEAD_BYTES = 64 << 10
MAX_BODY_BYTES = 16 << 20

_CHUNK_BYTES = 64 << 10
_BACKLOG = 4096
_TIRED_S = 0.1
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_WANTED = {b"authorization", b"host", b"idempotency-key"}

_log = logging.getLogger(__name__)


async def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    key: str | None = None,
    seed: int = 0,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a new `Simulator` until cancelled; started with its URL. Port 0 takes a free one.

    No request and no client ends the server. Raises OSError when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=_BACKLOG) as listener:
        listener.setblocking(False)
        simulator = Simulator(key=key, seed=seed)
        epoch = time.time() - trio.current_time()
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        async with trio.open_nursery() as connections:
            task_status.started(f"http://{shown}:{listener.getsockname()[1]}")
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    client, _ = listener.accept()
                except OSError as exc:
                    # The client has gone again; or we have no descriptor left, and must wait for others to go.
                    if exc.errno in _EXHAUSTED:
                        await trio.sleep(_TIRED_S)
                    continue
                connections.start_soon(_serve_client, simulator, client, epoch)


async def _serve_client(simulator: Simulator, client: socket.socket, epoch: float) -> None:
    """One connection to its end, and the one error boundary around it."""
    with client:
        client.setblocking(False)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await _converse(simulator, client, epoch)
        except OSError:
            pass  # the client has gone
        except Exception:  # noqa: BLE001 - one bad request must not end the server
            _log.exception("simulator: a request could not be answered")


async def _converse(simulator: Simulator, client: socket.socket, epoch: float) -> None:
    requests = _Requests()
    while True:
        await trio.lowlevel.wait_readable(client)
        data = client.recv(_CHUNK_BYTES)
        if not data:
            return
        refusal = requests.feed(data)
        for request in requests.take():
            now = epoch + trio.current_time()
            reply = simulator.handle(request.method, request.path, request.headers, request.body, now)
            if reply.delay_s:
                await trio.sleep(reply.delay_s)
            if isinstance(reply, Drop):
                return
            await _send(client, _written(reply, request))
            if not request.keep_alive:
                return
        if refusal is not None:
            await _send(client, refusal)
            return


async def _send(client: socket.socket, data: bytes) -> None:
    """Send all of it; yields only where the socket is full, as `_converse` yields for every chunk."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[client.send(rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(client)


# -- HTTP ----------------------------------------------------------------------------------------------

_HEADS = {
    status.value: (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: creche-simulate\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()
    for status in HTTPStatus
}


def _head(status: int) -> bytes:
    return _HEADS.get(status) or _HEADS[HTTPStatus.OK].replace(b"200 OK", b"%d Simulated" % status)


class _Request(msgspec.Struct, frozen=True):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool


def _written(reply: Reply, request: _Request) -> bytes:
    head = b"%s%d\r\n" % (_head(reply.status), len(reply.body))
    if reply.retry_after_s is not None:
        head += b"Retry-After: %g\r\n" % reply.retry_after_s  # whole seconds where it is whole
    if not request.keep_alive:
        head += b"Connection: close\r\n"
    return head + b"\r\n" + (b"" if request.method == "HEAD" else reply.body)


def _refusal(status: int, message: str) -> bytes:
    body = msgspec.json.encode({"error": {"code": "invalid_request", "message": message}})
    return b"%s%d\r\nConnection: close\r\n\r\n%s" % (_head(status), len(body), body)


class _Requests:
    """Bytes in, whole requests out. The methods `on_…` are httptools' callbacks."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._whole: list[_Request] = []
        self._fed_bytes = 0
        self._in_head = True
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> bytes | None:
        """Parse; returns the answer to a request that cannot go on, after which the connection must be closed."""
        self._fed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            return _refusal(400, f"no HTTP/1.1 request: {exc}")
        except httptools.HttpParserUpgrade:
            self._whole.pop()
            return _refusal(400, "no other protocol is spoken here")
        if self._in_head and self._fed_bytes > MAX_HEAD_BYTES:
            return _refusal(431, f"the head is larger than {MAX_HEAD_BYTES} bytes")
        if self._fed_bytes > MAX_HEAD_BYTES + MAX_BODY_BYTES:
            return _refusal(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        return None

    def take(self) -> list[_Request]:
        """The requests that are whole."""
        whole, self._whole = self._whole, []
        return whole

    def on_message_begin(self) -> None:
        self._in_head, self._url, self._headers, self._body = True, b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self._in_head and name in _WANTED:  # behind a chunked body come trailers
            self._headers[name.decode("latin-1")] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        request = _Request(
            self._parser.get_method().decode("latin-1"),
            self._url.decode("latin-1"),
            self._headers,
            b"".join(self._body),
            self._parser.should_keep_alive(),
        )
        self._whole.append(request)
        self._fed_bytes, self._in_head = 0, True
