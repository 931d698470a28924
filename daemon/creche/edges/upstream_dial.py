"""How a connection to a provider is made: the first address that answers, then TLS where it is wanted."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Sequence

import trio

from creche.edges.upstream_addresses import Address

STAGGER_S = 0.25
"""How long one address may take before the next is tried beside it (RFC 8305, section 5)."""

FULL_PAUSE_S = 0.02
"""How long to wait before a Unix socket whose listener has a full queue is tried again."""


async def dial(addresses: Sequence[Address]) -> socket.socket:
    """A connected non-blocking TCP socket to the first address that answers; they are tried in order, overlapping.

    Raises the `OSError` of the first address when none answers. Cancelled: nothing stays open.
    """
    winners: list[socket.socket] = []
    failures: list[OSError] = []
    with contextlib.ExitStack() as abandoned:
        async with trio.open_nursery() as nursery:

            async def attempt(address: Address, failed: trio.Event) -> None:
                try:
                    connected = await _connect(address)
                except OSError as exc:
                    failures.append(exc)
                    failed.set()
                else:
                    winners.append(abandoned.enter_context(connected))
                    nursery.cancel_scope.cancel()

            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(STAGGER_S):
                    await failed.wait()
        if not winners:
            raise failures[0]
        for late in winners[1:]:
            late.close()
        abandoned.pop_all()
    return winners[0]


async def _connect(address: Address) -> socket.socket:
    family, where = address
    with contextlib.ExitStack() as abandoned:
        connecting = abandoned.enter_context(socket.socket(family, socket.SOCK_STREAM))
        connecting.setblocking(False)
        if family == socket.AF_UNIX:
            await _connect_to_path(connecting, where)
        else:
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                connecting.connect(where)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(connecting)
                error = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise OSError(error, os.strerror(error)) from None
        abandoned.pop_all()
    return connecting


async def _connect_to_path(connecting: socket.socket, path: tuple[object, ...] | str) -> None:
    """A Unix socket is connected at once or not at all: where the listener's queue is full, nothing tells of room."""
    while True:
        try:
            connecting.connect(path)
        except BlockingIOError:
            await trio.sleep(FULL_PAUSE_S)
        else:
            return


async def secure(connected: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """TLS on a connected socket, which it takes over: failed or cancelled, it is closed.

    Raises `OSError`, of which TLS errors are a kind, or `ValueError` for a host name that no certificate can have.
    """
    with contextlib.ExitStack() as abandoned:
        abandoned.callback(connected.close)
        secured = context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
        abandoned.callback(secured.close)
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(secured)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(secured)
        abandoned.pop_all()
    return secured
