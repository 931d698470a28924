"""A daemon that says what a test tells it to say, on a real Unix socket; and the command line, run in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import pytest

from creche.cli.app import main


@dataclass(frozen=True)
class Got:
    """A request as it came."""

    method: str
    path: str
    query: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


Plain = tuple[int, object]
"""Status and body."""

Early = tuple[int, object, Literal["early"]]
"""The same, before the request's body is read."""

Act = Literal["lose", "hang", "garble"]
"""Close without an answer; never answer, and notice when the client goes; answer in another tongue."""

Answer = Plain | Early | Act | Callable[[Got], Plain]


@dataclass
class FakeDaemon:
    """Answers each (method, path) with what `on` said, one after the other; the last one is repeated."""

    path: Path
    requests: list[Got] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    hung_up: threading.Event = field(default_factory=threading.Event)
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self.answers[method, path] = list(answers)

    def next_answer(self, method: str, path: str) -> Answer:
        queue = self.answers.get((method, path))
        if not queue:
            return 404, {"status": 404, "code": "task_not_found", "detail": f"no {path}", "title": "Not Found"}
        return queue.pop(0) if len(queue) > 1 else queue[0]

    def saw(self, request: Got) -> None:
        self.requests.append(request)
        self.arrived.release()


class Server(ThreadingUnixStreamServer):
    daemon_threads = False
    request_queue_size = 64


def handler_for(daemon: FakeDaemon) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            self.close_connection = True
            url = urlsplit(self.path)
            answer = daemon.next_answer(self.command, url.path)
            if isinstance(answer, tuple) and len(answer) == 3:
                self.answer(answer[0], answer[1])
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            got = Got(self.command, url.path, parse_qsl(url.query), body)
            daemon.saw(got)
            if answer == "hang":
                self.rfile.read()
                daemon.hung_up.set()
            elif answer == "garble":
                self.wfile.write(b"220 mail.example ESMTP\r\n\r\n")
            elif answer != "lose":
                self.answer(*(answer(got) if callable(answer) else answer))

        do_GET = handle_any  # noqa: N815 - the base class finds it by this name
        do_POST = handle_any  # noqa: N815 - as above

        def answer(self, status: int, value: object) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    return Handler


@pytest.fixture
def daemon(short_tmp: Path) -> Iterator[FakeDaemon]:
    """A fake daemon that listens."""
    fake = FakeDaemon(short_tmp / "creche.sock")
    with Server(str(fake.path), handler_for(fake)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def values(self) -> list[Any]:
        """The JSON values of the output."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@pytest.fixture
def creche(capfd: pytest.CaptureFixture[str], daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line against the fake daemon."""
    monkeypatch.setenv("CRECHE_SOCKET", str(daemon.path))

    def run(*args: str) -> Ran:
        code = main(args)
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return run
