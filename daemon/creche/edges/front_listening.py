"""The front's sockets: where it listens, who is at the other end, and whether they are still there."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import trio

from creche.core.exchange import Peer
from creche.errors import StartError

A = TypeVar("A")
T = TypeVar("T")

MAX_UNIX_PATH_BYTES = 107
"""What `sun_path` of Linux holds (108 bytes) less the closing NUL."""

_PEERCRED = struct.Struct("iII")


def open_unix(
    path: Path, *, mode: int = 0o660, owner: str | None = None, group: str | None = None, backlog: int = 1024
) -> trio.SocketListener:
    """Listen on the Unix socket `path`; whoever may write to it by `mode`, `owner` and `group` may connect.

    What a dead process left at `path` is removed. Raises `StartError` when another process listens there, when
    something else than a socket is there, and when the path or its folder does not do; then nothing of ours stays.
    """
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        raise StartError(
            f"the socket path {path} is longer than {MAX_UNIX_PATH_BYTES} bytes, which the system cannot bind"
        )
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(sock, path)
        try:
            # The rights are right before the first connection can be made: nobody slips in between.
            if owner:
                shutil.chown(path, user=owner)
            if group:
                shutil.chown(path, group=group)
            path.chmod(mode)
            sock.listen(backlog)
        except (OSError, LookupError):
            path.unlink(missing_ok=True)
            raise
    except (OSError, LookupError) as exc:
        sock.close()
        raise StartError(f"cannot listen on {path}: {_reason(exc)}") from exc
    return _listener(sock)


def remove_unix(path: Path, inode: int) -> None:
    """Remove the socket file at the end, unless another process has put its own in that place since.

    `inode` is the file's inode number as it was after `open_unix`. A file that is gone, or may not be removed, is left
    alone: the next start removes what is stale.
    """
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except OSError:
        return


async def open_tcp(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on every address that `host` has. Raises `StartError` when one is taken or not ours."""
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as exc:
        raise StartError(f"cannot listen on {host} port {port}: {_reason(exc)}") from exc


def adopt(fd: int) -> trio.SocketListener:
    """Take over a listening socket, Unix or TCP, which systemd opened. Raises `StartError` when `fd` is none."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as exc:
        raise StartError(f"file descriptor {fd} is no socket: {_reason(exc)}") from exc
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise StartError(f"file descriptor {fd} is no listening stream socket; the socket unit needs ListenStream=")
    sock.set_inheritable(False)
    return _listener(sock)


def peer_of(sock: trio.socket.SocketType) -> Peer:
    """Who is connected to `sock`. Raises OSError when a TCP client is gone already."""
    if sock.family == socket.AF_UNIX:
        pid, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        return Peer(address=os.fsdecode(sock.getsockname()), local=True, pid=pid, uid=uid, gid=gid)
    host, port = sock.getpeername()[:2]
    return Peer(address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", local=False)


class Replay(trio.abc.Stream):
    """A connection from which `replayed` is received first, and then what `stream` brings."""

    def __init__(self, stream: trio.SocketStream, replayed: bytes) -> None:
        self._stream = stream
        self._replayed = replayed

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the stream's own; the replayed bytes come without waiting."""
        if not self._replayed:
            return await self._stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        some, self._replayed = self._replayed[:max_bytes], b"" if max_bytes is None else self._replayed[max_bytes:]
        return some

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream's own."""
        await self._stream.send_all(data)

    def send_now(self, data: bytes | memoryview) -> int:
        """Send what the kernel takes at once; how many bytes that were. Nobody else may be sending.

        Raises `trio.BrokenResourceError`, and `trio.ClosedResourceError` when it is closed.
        """
        sock = self._stream.socket
        if sock.fileno() < 0:
            raise trio.ClosedResourceError
        try:
            # Trio's sockets do not block, but their `send` goes through the scheduler whether it has to wait or not.
            return os.write(sock.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream's own."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


class Hangups:
    """Cancels handlers whose clients have closed their sockets.

    Reading cannot tell: a client that only shut down its writing half (`nc -N`) looks the same and still wants its
    answer. The kernel can: it reports EPOLLHUP when a Unix peer has closed, or a TCP peer has reset. (A TCP peer that
    closes in good order is found out when the answer is sent.) So a second epoll, which asks for nothing but that, is
    watched by one task. It receives nothing: pipelined requests stay where they are.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._scopes: dict[int, trio.CancelScope] = {}

    async def notice_forever(self) -> None:
        """Cancel what `handle` runs, as its clients hang up."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, _ in self._epoll.poll(0):
                self._scopes[fd].cancel()

    async def handle(self, handle: Callable[[A], Awaitable[T]], given: A, fd: int) -> T | None:
        """What `handle` makes of what it is given; None when the client on `fd` hung up first."""
        with trio.CancelScope() as scope:
            self._epoll.register(fd, select.EPOLLONESHOT)  # once: it would be reported again until the handler is gone
            self._scopes[fd] = scope
            try:
                return await handle(given)
            finally:
                self._epoll.unregister(fd)
                del self._scopes[fd]
        return None


def _bind(sock: socket.socket, path: Path) -> None:
    before = os.umask(0o177)
    try:
        sock.bind(os.fspath(path))
    finally:
        os.umask(before)


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"{path} exists and is no socket; remove it or choose another path")
        if is_alive(path):
            raise StartError(f"another process listens on {path}")
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StartError(f"cannot take over {path}: {_reason(exc)}") from exc


def waiting_at(listener: trio.SocketListener) -> Iterator[trio.SocketStream]:
    """Those who have connected and were not accepted yet."""
    # Of a descriptor of our own: Trio's socket accepts only by waiting.
    with socket.socket(fileno=os.dup(listener.socket.fileno())) as copy:
        copy.setblocking(False)
        with contextlib.suppress(OSError):  # there are no more, or no descriptors for them
            while True:
                accepted, _ = copy.accept()
                yield trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def is_alive(path: Path) -> bool:
    """Whether somebody listens on the socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # its backlog is full: busy, but there
    return True


def _listener(sock: socket.socket) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
