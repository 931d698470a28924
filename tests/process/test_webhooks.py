"""Webhooks of the real daemon to a real receiver, which checks signatures with the official library."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook

from tests.process.running import eventually

if TYPE_CHECKING:
    from tests.process.running import Daemon, StartDaemon

SECRET = "whsec_" + 12 * "bWFk"
OTHER = "whsec_" + 12 * "b2xk"
ENVIRON = {"SECRET": SECRET, "OTHER": OTHER}
CONFIG = """
[callbacks]
secret = "${{env:OTHER}}"
private = true

[webhooks.books]
url = "http://127.0.0.1:{port}/hook"
secret = "${{env:SECRET}}"
private = {private}
"""


class Receiver:
    """A user's server, on a thread. `status` is what it answers; `secrets` by path, with which it checks."""

    def __init__(self) -> None:
        self.status = 200
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.secrets = {"/hook": SECRET, "/callback": OTHER}
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                event = Webhook(receiver.secrets[self.path]).verify(body, dict(self.headers))
                receiver.ids.append(self.headers["webhook-id"])
                if receiver.status == 200:
                    receiver.events.append(event)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def end(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def hears(self, count: int) -> list[str]:
        """Wait for so many events; the ids of their tasks."""
        eventually(lambda: len(self.events) >= count)
        return [event["data"]["id"] for event in self.events]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on loopback."""
    receiver = Receiver()
    yield receiver
    receiver.end()


def begin(start_daemon: StartDaemon, receiver: Receiver, *, private: str = "true") -> Daemon:
    return start_daemon(CONFIG.format(port=receiver.port, private=private), environ=ENVIRON)


def submit(daemon: Daemon, task_id: str, **more: object) -> None:
    daemon.client.submit("sim", id=task_id, input={"simulate": {"queue": "0s", "run": "0s"}}, **more)


def test_outcomes_are_told_to_the_webhook_and_the_callback(start_daemon: StartDaemon, receiver: Receiver) -> None:
    """Each signed with its own secret; nothing is left to deliver."""
    daemon = begin(start_daemon, receiver)
    submit(daemon, "t1")
    submit(daemon, "t2", callback=f"http://127.0.0.1:{receiver.port}/callback")
    assert sorted(receiver.hears(3)) == ["t1", "t2", "t2"]
    assert sorted(receiver.ids) == ["t1.books", "t2.books", "t2.callback"]
    assert {event["type"] for event in receiver.events} == {"task.succeeded"}
    eventually(lambda: daemon.client.webhooks()["pending"] == 0)


def test_a_killed_daemon_tells_after_its_start(start_daemon: StartDaemon, receiver: Receiver) -> None:
    """The receiver was down; what was settled before a SIGKILL is told after it, and can be hurried."""
    receiver.status = 500
    daemon = begin(start_daemon, receiver)
    submit(daemon, "t1")
    eventually(lambda: "t1.books" in receiver.ids)
    daemon.kill()
    receiver.status = 200
    daemon.start()
    listed = daemon.client.webhooks()
    assert (listed["pending"], listed["deliveries"][0]["id"]) == (1, "t1.books")
    done = daemon.run("webhooks", "retry", "t1.books", "never")
    assert (done.returncode, "never" in done.stderr) == (3, True)
    assert receiver.hears(1) == ["t1"]


def test_what_waits_is_listed(start_daemon: StartDaemon, receiver: Receiver) -> None:
    """With why; a repaired configuration holds for messages that wait."""
    daemon = begin(start_daemon, receiver, private="false")
    submit(daemon, "t1")
    eventually(lambda: any(row.get("attempts") for row in daemon.client.webhooks()["deliveries"]))
    shown = daemon.run("webhooks", "list").stdout
    assert "t1.books" in shown
    assert "1 pending, 0 given up" in shown
    rows = [json.loads(line) for line in daemon.run("webhooks", "list", "--json").stdout.splitlines()]
    assert [(row["id"], row["endpoint"], row["attempts"]) for row in rows] == [("t1.books", "books", 1)]
    assert receiver.ids == []
    daemon.config.write_text(daemon.config.read_text().replace("private = false", "private = true"))
    daemon.reload()
    assert daemon.run("webhooks", "retry", "t1.books").returncode == 0
    assert receiver.hears(1) == ["t1"]


def test_no_callback_without_a_secret(start_daemon: StartDaemon) -> None:
    """It could not be told from a forgery."""
    task = {"algorithm": "sim", "input": {}, "callback": "http://127.0.0.1/"}
    reply = start_daemon().call("POST", "/v1/tasks", task)
    assert (reply.status, reply.json["errors"][0]["pointer"]) == (400, "/callback")
