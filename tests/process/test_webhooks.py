"""Webhooks of the real daemon to a real receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.process.receiver import OTHER, SECRET, Receiver
from tests.process.running import eventually

if TYPE_CHECKING:
    from tests.process.running import Daemon, StartDaemon

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
    daemon.start()
    listed = daemon.client.webhooks()
    assert (listed["pending"], listed["deliveries"][0]["id"]) == (1, "t1.books")
    receiver.status = 200
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
    assert [(row["id"], row["endpoint"], row["attempts"] > 0) for row in rows] == [("t1.books", "books", True)]
    assert receiver.ids == []
    daemon.config.write_text(daemon.config.read_text().replace("private = false", "private = true"))
    daemon.reload()
    daemon.run("webhooks", "retry", "t1.books")  # unless it was due just now
    assert receiver.hears(1) == ["t1"]


def test_events_go_to_collectors(start_daemon: StartDaemon, receiver: Receiver) -> None:
    """Of each task that its job was made, and that it has ended, beside the webhook; a kill loses none."""
    collector = f"""
[analytics.any]
url = "http://127.0.0.1:{receiver.port}/events"

[analytics.sensors]
url = "http://127.0.0.1:{receiver.port}/sa"
format = "sensors"
"""
    daemon = start_daemon(CONFIG.format(port=receiver.port, private="true") + collector, environ=ENVIRON)
    submit(daemon, "t1", user="u")
    assert receiver.hears(1) == ["t1"]
    daemon.kill()
    daemon.start()
    eventually(lambda: daemon.client.webhooks()["pending"] == 0, within_s=30)
    bodies = [(path, body) for path, _, body in receiver.requests]
    events = {event["id"] for path, body in bodies if path == "/events" for event in json.loads(body)}
    assert events == {"t1.created", "t1.settled"}
    assert all(body.startswith(b"data_list=") for path, body in bodies if path == "/sa")
    assert "/sa" in dict(bodies)


def test_no_callback_without_a_secret(start_daemon: StartDaemon) -> None:
    """It could not be told from a forgery."""
    task = {"algorithm": "sim", "input": {}, "callback": "http://127.0.0.1/"}
    reply = start_daemon().call("POST", "/v1/tasks", task)
    assert (reply.status, reply.json["errors"][0]["pointer"]) == (400, "/callback")


def test_a_trace_of_each_task_reaches_the_collector(start_daemon: StartDaemon, receiver: Receiver) -> None:
    """As JSON, with what lets the daemon in."""
    extra = f'[traces]\nurl = "http://127.0.0.1:{receiver.port}/traces"\nsecret = "${{env:SECRET}}"\n'
    daemon = start_daemon(extra, environ=ENVIRON)
    submit(daemon, "t1", traceparent=f"00-{32 * 'a'}-{16 * 'b'}-01")
    eventually(lambda: receiver.traces)
    spans = receiver.traces[0]["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [span["name"] for span in spans][:3] == ["task sim", "accepted", "creating"]
    assert {span["traceId"] for span in spans} == {32 * "a"}
    assert spans[0]["parentSpanId"] == 16 * "b"
    assert SECRET not in daemon.log.read_text()
