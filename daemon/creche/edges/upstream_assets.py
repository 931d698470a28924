"""Saves files from providers: as they come, to the disk, whole or not at all.

They are asked for by httpcore2, httpx2's engine, without redirects. Which hosts may be asked is the call's to say.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Protocol, TypeVar

import httpcore2
import httpx2
import trio

from creche.core.assets import Asset, file_name
from creche.core.exchange import Call
from creche.edges.upstream_addresses import LOOKUPS, Addresses
from creche.edges.upstream_httpx_core import ProxyServer
from creche.edges.upstream_request import locate
from creche.edges.upstream_words import unreachable
from creche.errors import AnswerError, Outage

T = TypeVar("T")

FindProxy = Callable[[str, str, int], str | None]
"""The proxy to a scheme, host and port."""

WRITE_BYTES = 1 << 20
"""Handed to the disk at once."""

SILENCE_S = 60.0
"""For how long nothing may come."""

FILE_S = 3600.0
"""How long a file may take in all: a slow drip ends here."""

_PASSES = {408, 425, 429, 500, 502, 503, 504}
_OK = 200


class RunSync(Protocol):
    """Runs a function in a thread of the disk's."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


class AssetFiles:
    """Saves below `folder`, each task's files in a folder with its id, none larger than `max_bytes`.

    `run` does what waits for the disk; `make_context` is called once, when TLS is first needed. `find_proxy` gives the
    URL of the proxy to a host, which then looks up the name, or None.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        run: RunSync,
        make_context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        find_proxy: FindProxy = lambda _scheme, _host, _port: None,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._run = run
        self._make_context = make_context
        self._find_proxy = find_proxy
        self._context: ssl.SSLContext | None = None
        self._lookups = trio.CapacityLimiter(LOOKUPS)

    async def save(self, task_id: str, number: int, call: Call) -> Asset:
        """Ask for a file and save it; one that was saved before is not asked for again.

        Raises `Outage` where another attempt may help, `AnswerError` where not. Cancelled: nothing half-done stays.
        """
        folder = self._folder / task_id
        there = await self._run(lambda: _find(folder, number))
        if there is not None:
            size, digest = await self._run(lambda: _measure(there))
            return Asset(url=call.url, path=str(there), bytes=size, sha256=digest)
        try:
            locate(call.url)
            with trio.fail_after(FILE_S):
                return await self._download(folder, number, call)
        except trio.TooSlowError:
            raise AnswerError(f"the file is not there after {FILE_S:g} s") from None
        except httpcore2.TimeoutException as exc:
            raise Outage(f"the provider is silent: {type(exc).__name__}") from exc
        except (httpcore2.NetworkError, httpcore2.ProxyError) as exc:
            raise Outage(str(exc) or "the connection broke") from exc
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as exc:
            raise AnswerError(f"not HTTP: {exc}") from exc
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as exc:
            raise AnswerError(str(exc)) from exc
        except OSError as exc:
            raise Outage(f"cannot be written: {exc.strerror}") from exc

    async def _download(self, folder: Path, number: int, call: Call) -> Asset:
        headers = [*call.headers, ("Accept-Encoding", "identity")]
        extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), SILENCE_S)}
        async with (
            self._pool(call) as pool,
            pool.stream(call.method, call.url, headers=headers, extensions=extensions) as response,
        ):
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            self._check(response.status, found)
            media_type = found.get("content-type", "application/octet-stream")
            path = folder / file_name(number, call.url, media_type)
            part = _Part(path)
            await self._run(part.open)
            try:
                await self._receive(response, part)
                await self._run(part.finish)
            finally:
                with trio.CancelScope(shield=True):  # as long as the disk takes to forget a file
                    await self._run(part.close)
        return Asset(
            url=call.url, path=str(path), media_type=media_type, bytes=part.bytes, sha256=part.digest.hexdigest()
        )

    async def _receive(self, response: httpcore2.Response, part: _Part) -> None:
        waiting = bytearray()
        async with aclosing(response.aiter_stream()) as pieces:
            async for piece in pieces:
                waiting += piece
                if part.bytes + len(waiting) > self._max_bytes:
                    raise AnswerError(f"the file has more than {self._max_bytes} bytes")
                if len(waiting) >= WRITE_BYTES:
                    data, waiting = bytes(waiting), bytearray()
                    await self._run(lambda data=data: part.write(data))  # type: ignore[misc]
        await self._run(lambda: part.write(bytes(waiting)))

    def _check(self, status: int, headers: dict[str, str]) -> None:
        if status in _PASSES:
            raise Outage(f"HTTP {status}")
        if status != _OK:
            redirect = " (redirects are not followed)" if 300 <= status < 400 else ""  # noqa: PLR2004
            raise AnswerError(f"HTTP {status}{redirect}")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise AnswerError(f"the file has {length} bytes, and at most {self._max_bytes} are saved")

    def _pool(self, call: Call) -> httpcore2.AsyncConnectionPool:
        if self._context is None and call.url.startswith("https:"):
            self._context = self._make_context()
        place, _ = locate(call.url)
        proxy = self._find_proxy(place.scheme, place.host, place.port)
        if proxy is not None:
            server = ProxyServer(proxy)
            return httpcore2.AsyncHTTPProxy(server.url, proxy_auth=server.auth, ssl_context=self._context)
        backend = _Dialer(self._lookups, public_only=call.public_only)
        return httpcore2.AsyncConnectionPool(ssl_context=self._context, network_backend=backend)


class _Dialer(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses of a name, only to public ones where the call says so."""

    def __init__(self, lookups: trio.CapacityLimiter, *, public_only: bool) -> None:
        self._lookups = lookups
        self._public_only = public_only
        self._trio = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectError("no address")
        try:
            addresses = await Addresses(host, port, self._lookups, public_only=self._public_only).get()
        except OSError as exc:
            raise httpcore2.ConnectError(f"cannot connect: {unreachable(exc)}") from exc
        for _, where in addresses:
            try:
                return await self._trio.connect_tcp(str(where[0]), port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _Part:
    """A file that is being written, under another name until it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}")
        self._fd: int | None = None
        self.bytes = 0
        self.digest = hashlib.sha256()

    def open(self) -> None:
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)

    def write(self, data: bytes) -> None:
        assert self._fd is not None, "it is open"  # noqa: S101
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.digest.update(data)
        self.bytes += len(data)

    def finish(self) -> None:
        """On disk, under its own name, when this returns."""
        assert self._fd is not None, "it is open"  # noqa: S101
        os.fsync(self._fd)
        self._part.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Leave nothing half-written."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        with suppress(FileNotFoundError):
            self._part.unlink()


def _find(folder: Path, number: int) -> Path | None:
    return next(iter(folder.glob(f"{number:03}*")), None)


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()
