"""One exchange with the daemon as bytes, and how a call can fail: no socket, no waiting."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from creche import __version__
from creche.errors import CrecheError

Json = dict[str, Any]

ANSWER_S = 30.0
"""How long the daemon may take to answer, beyond the wait that it was asked for."""

READ_BYTES = 64 << 10

_HEAD_BYTES = 64 << 10
_BUSY = 503


class ClientError(CrecheError):
    """Base of what a client raises. `passing`: the same request may succeed a little later."""

    passing = False


class Unreachable(ClientError):
    """No answer came: nobody listens at the socket, or the connection broke.

    `there` tells that somebody did listen: then the daemon may have done what was asked for.
    """

    code = "daemon_unreachable"

    def __init__(self, message: str, *, there: bool, passing: bool = True) -> None:
        super().__init__(message)
        self.there = there
        self.passing = passing


class ApiError(ClientError):
    """The daemon refused. `code` is stable; `pointer` leads to the offending part of the body, where there is one.

    `problem` is the whole refusal, as the API gives it.
    """

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.code = str(problem.get("code", "error"))  # type: ignore[misc]  # the daemon's word counts
        self.detail = str(problem.get("detail", ""))
        self.status = int(problem["status"])
        self.pointer: str | None = next((error.get("pointer") for error in problem.get("errors", [])), None)
        self.passing = self.status == _BUSY
        self.problem = dict(problem)
        super().__init__(f"{self.code}: {self.detail}" + (f" (at {self.pointer})" if self.pointer else ""))


class TooSlow(ClientError):
    """The task did not come to rest in the time given; `task` is how it stood last. The daemon goes on minding it."""

    code = "too_slow"

    def __init__(self, task: Json) -> None:
        super().__init__(f"the time is up, and task {task['id']} is {task['status']}; the daemon goes on minding it")
        self.task = task


@dataclass(frozen=True)
class Request:
    """One request; `limit_s` bounds the whole exchange."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = "application/json"
    limit_s: float = ANSWER_S


@dataclass(frozen=True)
class Reply:
    """One whole answer."""

    status: int
    body: bytes


class Exchange:
    """One HTTP/1.1 exchange on a connection of its own: send `sent`, then feed what comes until there is a reply.

    A connection per exchange costs little on a Unix socket; no request gets lost in a kept one that is being closed.
    """

    def __init__(self, request: Request) -> None:
        target = request.path + ("?" + urlencode(request.query) if request.query else "")
        head = f"{request.method} {target} HTTP/1.1\r\nHost: creche\r\nConnection: close\r\n"
        head += f"User-Agent: creche/{__version__}\r\n"
        if request.method != "GET":
            head += f"Content-Type: {request.content_type}\r\nContent-Length: {len(request.body)}\r\n"
        self.sent = head.encode("ascii") + b"\r\n" + request.body
        self._received = bytearray()
        self._status = 0
        self._body_bytes: int | None = None

    def feed(self, data: bytes) -> Reply | None:
        """Take received bytes, b"" for the end. The reply once it is whole, else None. Raises `Unreachable`."""
        self._received += data
        if self._body_bytes is None and (end := self._received.find(b"\r\n\r\n")) >= 0:
            self._read_head(bytes(self._received[:end]))
            del self._received[: end + 4]
        if self._body_bytes is not None and len(self._received) >= self._body_bytes:
            return Reply(self._status, bytes(self._received[: self._body_bytes]))
        if not data:
            raise Unreachable("the daemon closed the connection before its answer was whole", there=True)
        if self._body_bytes is None and len(self._received) > _HEAD_BYTES:
            raise foreign()
        return None

    def _read_head(self, head: bytes) -> None:
        status_line, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        version, _, rest = status_line.partition(" ")
        status, length = rest[:3], fields.get("content-length", "")
        if not (version.startswith("HTTP/1.") and status.isdecimal() and length.isdecimal()):
            raise foreign()
        self._status, self._body_bytes = int(status), int(length)


def foreign() -> Unreachable:
    """Something else than the daemon is at the other end."""
    return Unreachable("what answers at the socket is not the daemon's API", there=True, passing=False)


def not_connected(path: Path, exc: OSError) -> Unreachable:
    """Why a connection could not be made, in words that say what to do."""
    if exc.errno == errno.EAGAIN:
        return Unreachable(f"the daemon at {path} has no room for another connection", there=True)
    if isinstance(exc, PermissionError):
        message = f"no permission to use the daemon's socket {path}: your user must be in the group that owns it"
        return Unreachable(message, there=False, passing=False)
    if exc.errno in {errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED}:
        why = "nobody listens there" if exc.errno == errno.ECONNREFUSED else "there is no such socket"
        how = "start it (creche serve, or systemctl start creche) or name its socket (--socket, CRECHE_SOCKET)"
        return Unreachable(f"no daemon at {path}: {why}; {how}", there=False)
    return Unreachable(f"cannot connect to {path}: {exc.strerror or exc}", there=False, passing=False)


def broken(exc: Exception) -> Unreachable:
    """The connection broke in the middle of an exchange."""
    return Unreachable(f"the connection to the daemon broke: {exc}", there=True)


def silent(request: Request) -> Unreachable:
    """The daemon took the connection and did not answer in time."""
    return Unreachable(f"the daemon did not answer within {request.limit_s:g} s", there=True)
