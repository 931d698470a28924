"""A small HTTP/2 server that does what a test wants with each request, counts its connections, and the way to it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio
import trustme

from creche.edges.upstream_httpx import HttpxUpstream
from tests.edges.transports.peers import BROKEN, Peer, relay, serve

if TYPE_CHECKING:
    from h2.settings import SettingCodes


class H2Request:
    """One request, whole, and ways to answer it."""

    def __init__(self, connection: H2Connection, stream_id: int) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.headers: list[tuple[str, str]] = []
        self.body = b""

    def __getitem__(self, name: str) -> str:
        return dict(self.headers)[name]

    async def answer(self, body: bytes, *fields: tuple[str, str], status: str = "200", end: bool = True) -> None:
        """Head and body; with `end` False the body is open."""
        state = self.connection.state
        state.send_headers(self.stream_id, [(":status", status), *fields], end_stream=end and not body)
        await self.connection.flush()
        while body:
            room = min(state.local_flow_control_window(self.stream_id), state.max_outbound_frame_size)
            if not room:
                await self.connection.wait_for_window()
                continue
            piece, body = body[:room], body[room:]
            state.send_data(self.stream_id, piece, end_stream=end and not body)
            await self.connection.flush()

    async def reset(self, code: int = 2) -> None:
        """Break the stream off."""
        self.connection.state.reset_stream(self.stream_id, code)
        await self.connection.flush()


class H2Connection:
    """One connection."""

    def __init__(self, peer: Peer, settings: dict[SettingCodes | int, int]) -> None:
        self.peer = peer
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_outbound_headers=False)
        self.state = h2.connection.H2Connection(config)
        self.number = 0
        self._settings = settings
        self._lock = trio.Lock()
        self._window = trio.Event()

    async def flush(self) -> None:
        """Send what there is to send, if anybody is there."""
        async with self._lock:
            data = self.state.data_to_send()
            if data:
                with contextlib.suppress(*BROKEN):
                    await self.peer.say(data)

    async def wait_for_window(self) -> None:
        await self._window.wait()

    async def run(self, handler: Callable[[H2Request], Awaitable[None]]) -> None:
        """Serve until the client closes."""
        self.state.initiate_connection()
        if self._settings:
            self.state.update_settings(self._settings)
        await self.flush()
        requests: dict[int, H2Request] = {}

        async def guarded(request: H2Request) -> None:
            try:
                await handler(request)
            except (*BROKEN, h2.exceptions.ProtocolError):
                pass  # the client went away, or broke the stream off

        async with trio.open_nursery() as nursery:
            while data := await self._receive():
                for event in self._events(data):
                    match event:
                        case h2.events.RequestReceived(stream_id=number, headers=headers):
                            requests[number] = H2Request(self, number)
                            requests[number].headers = [(str(name), str(value)) for name, value in headers]
                        case h2.events.DataReceived(stream_id=number, data=piece, flow_controlled_length=length):
                            requests[number].body += piece
                            self.state.acknowledge_received_data(length, number)
                        case h2.events.StreamEnded(stream_id=number):
                            nursery.start_soon(guarded, requests.pop(number))
                        case h2.events.WindowUpdated():
                            self._window.set()
                            self._window = trio.Event()
                await self.flush()
            nursery.cancel_scope.cancel()

    def _events(self, data: bytes) -> list[h2.events.Event]:
        try:
            return self.state.receive_data(data)
        except h2.exceptions.ProtocolError:
            return []  # after a GOAWAY of ours, or a breach of the client's, nothing counts any more

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.peer.stream.receive_some(65536))
        except BROKEN:
            return b""


class H2Server:
    """For `serve`: does `handler` with each request."""

    def __init__(
        self,
        handler: Callable[[H2Request], Awaitable[None]],
        settings: dict[SettingCodes | int, int] | None = None,
    ) -> None:
        self._handler = handler
        self._settings = settings or {}
        self.connections: list[H2Connection] = []
        self.requests = 0

    async def __call__(self, peer: Peer) -> None:
        connection = H2Connection(peer, self._settings)
        self.connections.append(connection)
        connection.number = len(self.connections)

        async def counted(request: H2Request) -> None:
            self.requests += 1
            await self._handler(request)

        await connection.run(counted)


async def echo(request: H2Request) -> None:
    """Answer with the path and the body."""
    await request.answer(request[":path"].encode() + b" " + request.body, ("x-path", request[":path"]))


class H2Way:
    """Makes providers that speak HTTP/2, and transports that want it; straight or through a proxy."""

    def __init__(self, authority: trustme.CA, *, proxied: bool) -> None:
        self._authority = authority
        self._proxied = proxied
        self._proxy: str | None = None

    def _client_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    @contextlib.asynccontextmanager
    async def serving(
        self, handler: Callable[[Peer], Awaitable[None]], *, protocols: tuple[str, ...] = ("h2", "http/1.1")
    ) -> AsyncIterator[str]:
        """A provider's origin."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert("127.0.0.1").configure_cert(context)
        context.set_alpn_protocols(list(protocols))
        async with serve(relay) as proxy, serve(handler, context) as port:
            self._proxy = f"http://127.0.0.1:{proxy}" if self._proxied else None
            yield f"https://127.0.0.1:{port}"

    @contextlib.asynccontextmanager
    async def transport(self, **limits: int) -> AsyncIterator[HttpxUpstream]:
        """A transport, after which nothing may be in use."""
        made = HttpxUpstream(
            http2=True,
            proxy=self._proxy,
            make_context=self._client_context,
            **limits,
        )
        yield made
        await made.aclose()
        assert made.statistics().origins == {}
