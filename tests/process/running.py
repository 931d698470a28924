"""The real command with real sockets: daemons, a simulated provider and listeners, each process ended by its id.

A daemon's log is checked at its end: nothing at ERROR that was not claimed, no traceback, no warning of Python's (an
unclosed socket, for example).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import trio
from trio_websocket import CloseReason, ConnectionClosed, HandshakeError, wrap_client_stream

import creche
from creche.client import Client

T = TypeVar("T")
Json = dict[str, Any]

SOURCES = Path(creche.__file__).parent.parent
ENVIRON = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES), "PYTHONWARNINGS": "default"}
COMMAND = (sys.executable, "-m", "creche")

START_S = 20.0
"""How long a process may take to be ready, on a busy machine."""

PATIENCE_S = 15.0
"""How long a test waits for what must happen soon."""

MAX_MESSAGE_BYTES = 64 << 20
"""More than a result can have; the library's own limit of one megabyte would cut a listener off."""

CONFIG = """\
[socket]
path = "creche.sock"

[tcp]
port = 0
{tcp}
[store]
path = "creche.db"

[log]
format = "json"
"""
ALGORITHM = """
[algorithms.{name}]
recipe = "{recipe}"
base = "{base}"
poll_every = "200ms"
"""


def eventually(check: Callable[[], T | None], within_s: float = PATIENCE_S) -> T:
    """What `check` returns as soon as that is true; fails the test when it takes too long."""
    until = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < until, f"not within {within_s:g} s; last seen: {found!r}"
        time.sleep(0.02)
    return found


class Reply(NamedTuple):
    """An answer over HTTP; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        return json.loads(self.body)


class _Connection(http.client.HTTPConnection):
    """A connection of the standard library over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("creche", timeout=40)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(40)
        self.sock.connect(str(self._path))


class Simulator:
    """`creche simulate`. One process serves all tests; counts begin anew, and the world is normal, for each of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.world()
        self._before = self._ask("GET", "/v1/stats")

    def world(self, **world: object) -> None:
        """What befalls requests from now on; what is not named is normal."""
        self._ask("PUT", "/v1/world", world)

    def stats(self) -> dict[str, int]:
        """What was counted since the test began."""
        return {
            name: count - self._before[name] for name, count in self._ask("GET", "/v1/stats").items() if name != "jobs"
        }

    def jobs_by_tag(self, start: str) -> dict[str, int]:
        """How many jobs were made for each tag that begins like this."""
        tags: dict[str, int] = self._ask("GET", "/v1/stats?tags=1")
        return {tag: count for tag, count in tags.items() if tag.startswith(start)}

    def create(self, **script: object) -> str:
        """Make a job as somebody else would; its id."""
        job: str = self._ask("POST", "/v1/jobs", {"simulate": script})["id"]
        return job

    def _ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - any JSON
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read())


class Listener:
    """A WebSocket listener in a thread of its own, which keeps what it hears. Use it with `with`."""

    def __init__(self, tcp_url: str, *, since: str | None = None, query: str = "") -> None:
        start = "" if since is None else f"since={quote(since)}&"
        self._host = tcp_url.removeprefix("http://")
        self._resource = f"/v1/stream?{start}{query}"
        self._started: queue.Queue[trio.lowlevel.TrioToken] = queue.Queue()
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=trio.run, args=(self._listen,))
        self.messages: list[Json] = []
        self.closed: CloseReason | None = None
        self.ended = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self.messages or self.ended.is_set())
        assert self.messages, "the connection was refused"
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._started.get(timeout=PATIENCE_S).run_sync_soon(self._scope.cancel)
        self._thread.join()

    @property
    def cursor(self) -> str:
        """Where it stands: resumes behind all that it has heard."""
        return str(self.messages[-1]["cursor"])

    @property
    def tasks(self) -> list[Json]:
        """The tasks whose outcomes it has heard, in order."""
        return [message["task"] for message in list(self.messages) if message["type"] == "result"]

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [task["id"] for task in self.tasks]

    def hears(self, count: int, within_s: float = PATIENCE_S) -> list[str]:
        """Wait until it has heard so many outcomes; the ids of all."""
        return eventually(lambda: self.ids if len(self.ids) >= count else None, within_s)

    async def _listen(self) -> None:
        self._started.put(trio.lowlevel.current_trio_token())
        with self._scope:
            try:
                await self._converse()
            except* ConnectionClosed as group:
                (end,) = _leaves(group)
                assert isinstance(end, ConnectionClosed)
                self.closed = end.reason
            except* (HandshakeError, OSError):
                pass
        self.ended.set()

    async def _converse(self) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", int(self._host.partition(":")[2]))
        async with stream, trio.open_nursery() as nursery:
            connection = await wrap_client_stream(
                nursery, stream, self._host, self._resource, max_message_size=MAX_MESSAGE_BYTES
            )
            while True:
                self.messages.append(json.loads(await connection.get_message()))


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


class Daemon:
    """`creche serve`, started again as often as a test wants to, always in the same folder."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        command: Sequence[str],
        environ: Mapping[str, str],
        pass_fds: Sequence[int],
        socket_path: Path,
    ) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.config.write_text(config, encoding="utf-8")
        self.socket = socket_path
        self.store = folder / "creche.db"
        self.client = Client(self.socket, reconnect_s=0)
        self.log = folder / "log"
        self._command = (*command, "serve", "--config", str(self.config))
        self._environ = {**ENVIRON, **environ}
        self._pass_fds = pass_fds
        self._claimed: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the store that is there; ready when this returns."""
        self.launch()
        eventually(lambda: self.ready or not self.running, START_S)
        assert self.running, self.log.read_text()

    def launch(self) -> None:
        """Start it, and do not wait until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command,
                cwd="/",
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._pass_fds,
            )

    @property
    def ready(self) -> bool:
        """Whether it says so."""
        try:
            return self.call("GET", "/readyz").status == 200
        except OSError:
            return False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        assert self._process is not None, "start comes first"
        return self._process

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def tcp_url(self) -> str:
        """Where it listens on TCP, other at each start."""
        return next(str(address) for address in self.client.status()["listening"] if address.startswith("http"))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """As the kernel does when memory is short, or a person in despair."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Ask it to stop, as systemd does."""
        self.process.terminate()

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """Its exit code; the test fails when it takes longer."""
        return self.process.wait(within_s)

    def stop(self) -> None:
        """Stop it in good order, and see to it that it was."""
        self.terminate()
        assert self.wait() == 0

    def reload(self) -> None:
        """Have it read its configuration again; returns when it has said what came of that."""

        def readings() -> int:
            return sum(line["message"].startswith(("reloaded", "not reloaded")) for line in self._lines())

        before = readings()
        self.signal(signal.SIGHUP)
        eventually(lambda: readings() > before)

    def call(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        tcp: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request without our own client; `body` goes as it is when it is bytes, else as JSON."""
        host = self.tcp_url.removeprefix("http://") if tcp else ""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(host, timeout=40) if tcp else _Connection(self.socket)
        with contextlib.closing(connection):
            connection.request(method, target, data, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def submit_many(self, count: int, *, algorithm: str = "sim", run_s: float = 0.0, spread_s: float = 0.0) -> str:
        """Submit tasks in one batch and return START: job number N is tagged `START-N`.

        The jobs run for `run_s` up to `run_s + spread_s`, in steps.
        """
        start = f"{self.folder.name}-{time.monotonic_ns()}"
        scripts = [
            {"queue": "0s", "run": f"{1000 * (run_s + spread_s * number / count):.0f}ms", "tag": f"{start}-{number}"}
            for number in range(count)
        ]
        answers = self.client.submit_many({"algorithm": algorithm, "input": {"simulate": script}} for script in scripts)
        assert all(isinstance(answer, dict) for answer in answers)
        return start

    def outcomes(self, since: str = "oldest") -> list[Json]:
        """Every outcome in the feed behind a cursor."""
        tasks: list[Json] = []
        while (page := self.client.results(since))["results"]:
            tasks += page["results"]
            since = page["cursor"]
        return tasks

    def begin(self, *args: str) -> subprocess.Popen[str]:
        """Start one command line, about this daemon."""
        pipe = subprocess.PIPE
        environ = {**self._environ, "CRECHE_SOCKET": str(self.socket)}
        return subprocess.Popen([*COMMAND, *args], env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True)  # noqa: S603 - our own command

    def run(self, *args: str, stdin: str = "", within_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run one command line, about this daemon, to its end."""
        with self.begin(*args) as process:
            try:
                out, err = process.communicate(stdin, within_s)
            finally:
                process.kill()
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def logged(self, level: str) -> list[str]:
        """The messages of a level so far."""
        return [line["message"] for line in self._lines() if line["level"] == level]

    def expect(self, text: str) -> None:
        """Messages at ERROR with this text may come."""
        self._claimed.append(text)

    def claim(self, text: str) -> None:
        """Messages at ERROR with this text are what the test is about. One must come soon."""
        self.expect(text)
        eventually(lambda: any(text in message for message in self.logged("error")))

    def end(self) -> None:
        """Kill it if it lives, and look at what it logged."""
        if self.running:
            self.kill()
        self.check_log()

    def check_log(self) -> None:
        """No traceback, no warning of Python's, and of errors only those that were claimed."""
        lines = self._lines()
        strange = [line for line in lines if "traceback" in line or line["message"].startswith("py.warnings")]
        assert strange == [], strange
        errors = [message for message in self.logged("error") if not any(text in message for text in self._claimed)]
        assert errors == [], errors

    def _lines(self) -> list[Json]:
        # The last line may be half written.
        whole = self.log.read_text(encoding="utf-8").rpartition("\n")[0]
        return [_parsed(line) for line in whole.splitlines()]


def _parsed(line: str) -> Json:
    try:
        parsed: Json = json.loads(line)
    except ValueError:
        return {"level": "error", "message": line}
    return parsed


StartDaemon = Callable[..., Daemon]


@contextlib.contextmanager
def daemons(simulator_url: str) -> Iterator[StartDaemon]:
    with contextlib.ExitStack() as ends:

        def start(
            extra: str = "",
            *,
            tcp: str = "",
            command: Sequence[str] = COMMAND,
            environ: Mapping[str, str] | None = None,
            pass_fds: Sequence[int] = (),
            files: Mapping[str, str] | None = None,
            socket_path: Path | None = None,
        ) -> Daemon:
            folder = Path(tempfile.mkdtemp(prefix="creche-", dir="/tmp"))
            ends.callback(shutil.rmtree, folder)
            for name, text in (files or {}).items():
                (folder / name).write_text(text, encoding="utf-8")
            sim = ALGORITHM.format(name="sim", recipe="simulator", base=simulator_url)
            config = CONFIG.format(tcp=tcp) + sim + extra
            daemon = Daemon(
                folder,
                config,
                command=command,
                environ=environ or {},
                pass_fds=pass_fds,
                socket_path=socket_path or folder / "creche.sock",
            )
            ends.callback(daemon.end)
            daemon.start()
            return daemon

        yield start


@contextlib.contextmanager
def simulator_url() -> Iterator[str]:
    """`creche simulate`, while the block lasts."""
    command = [*COMMAND, "simulate", "--port", "0"]
    with subprocess.Popen(command, env=ENVIRON, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
