"""SIGTERM: quick, told to everybody, and no task is worse off."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from tests.process.running import Listener, StartDaemon

LONG = {"simulate": {"queue": "0s", "run": "2s"}}


def test_a_stop_is_clean_and_quick(start_daemon: StartDaemon, listen: Callable[..., Listener]) -> None:
    """Exit code 0 at once, the socket's file is gone, listeners are told to go away, with code 1001."""
    daemon = start_daemon()
    with listen(daemon.tcp_url) as listener:
        daemon.submit_many(5)
        daemon.client.submit("sim", input=LONG)
        listener.hears(5)
        began = time.monotonic()
        daemon.terminate()
        assert daemon.wait(10) == 0
        assert listener.ended.wait(5)
    assert time.monotonic() - began < 5
    assert listener.closed is not None
    assert listener.closed.code == 1001
    assert not daemon.socket.exists()


def test_ctrl_c_is_a_stop(start_daemon: StartDaemon) -> None:
    """SIGINT stops it in the same way."""
    daemon = start_daemon()
    daemon.signal(signal.SIGINT)
    assert daemon.wait(10) == 0
    assert not daemon.socket.exists()


def test_signals_during_a_stop_change_nothing(start_daemon: StartDaemon, eventually: Callable[..., Any]) -> None:
    """Neither impatience nor a late SIGHUP makes a failure of a stop, up to the last moment of the process."""
    signals = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    daemon = start_daemon()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(daemon.socket))
        client.sendall(b"GET /")  # the stop waits for the rest
        daemon.client.status()
        daemon.terminate()
        eventually(lambda: any(message.startswith("stopping") for message in daemon.logged("info")))
        for number in signals:
            daemon.signal(number)
        assert daemon.process.poll() is None
    while daemon.process.poll() is None:
        for number in signals:
            daemon.signal(number)
    assert daemon.wait(10) == 0
    assert not any("reloaded" in message for message in daemon.logged("info"))


def test_listeners_get_all_that_was_published(start_daemon: StartDaemon, listen: Callable[..., Listener]) -> None:
    """In the midst of a stream of outcomes, whatever is in the feed at the stop has reached the listener."""
    daemon = start_daemon()
    with listen(daemon.tcp_url) as listener:
        daemon.submit_many(300, run_s=0.5, spread_s=3)
        listener.hears(50)
        daemon.stop()
        stopped_at = time.time()
        assert listener.ended.wait(5)
    assert len(listener.ids) < 300
    daemon.start()
    missed = [
        task
        for task in daemon.outcomes(listener.cursor)
        if datetime.fromisoformat(task["settled_at"]).timestamp() < stopped_at
    ]
    assert missed == []


def test_unfinished_tasks_keep_their_deadline(start_daemon: StartDaemon) -> None:
    """A task goes on after a restart with the job and the deadline that it had."""
    daemon = start_daemon()
    task_id = daemon.client.submit("sim", input=LONG, deadline="1m")["id"]
    before = daemon.client.get(task_id)
    while "job" not in before:
        before = daemon.client.get(task_id, 0.05)
    daemon.stop()
    daemon.start()
    after = daemon.client.get(task_id)
    assert (after["deadline_at"], after["job"]["id"]) == (before["deadline_at"], before["job"]["id"])
    ended = daemon.client.wait(task_id, 10)
    assert (ended["status"], ended["deadline_at"]) == ("succeeded", before["deadline_at"])


def test_a_deadline_that_passed_meanwhile_ends_the_task(
    start_daemon: StartDaemon, eventually: Callable[..., Any]
) -> None:
    """Time goes on while the daemon is away: the task is timed out at the next start, after one last look."""
    daemon = start_daemon()
    late = daemon.client.submit("sim", input={"simulate": {"run": "1h"}}, deadline="1s")["id"]
    done = daemon.client.submit("sim", input={"simulate": {"queue": "0s", "run": "500ms"}}, deadline="1s")["id"]
    eventually(lambda: all("job" in daemon.client.get(task_id) for task_id in (late, done)))
    end = max(datetime.fromisoformat(daemon.client.get(task_id)["deadline_at"]).timestamp() for task_id in (late, done))
    daemon.kill()
    eventually(lambda: time.time() > end)
    daemon.start()
    task = daemon.client.wait(late, 10)
    assert (task["status"], task["reason"]) == ("timed_out", "deadline")
    assert daemon.client.wait(done, 10)["status"] == "succeeded"


def test_waiting_clients_do_not_hold_up_a_stop(start_daemon: StartDaemon, eventually: Callable[..., Any]) -> None:
    """A stop lets go of those who wait for a task at once; they go on waiting for the next start, and hear the end."""
    daemon = start_daemon()
    task_id = daemon.client.submit("sim", input=LONG)["id"]
    ended: list[subprocess.CompletedProcess[str]] = []
    waiting = threading.Thread(target=lambda: ended.append(daemon.run("wait", task_id)))
    process = psutil.Process(daemon.process.pid)

    def sockets() -> int:
        return [socket.laddr for socket in process.net_connections("unix")].count(str(daemon.socket))

    # The listening socket; then, besides it, the connection of the one who waits, which is not that of the submit.
    eventually(lambda: sockets() == 1)
    waiting.start()
    eventually(lambda: sockets() == 2)
    began = time.monotonic()
    daemon.terminate()
    assert daemon.wait(10) == 0
    took_s = time.monotonic() - began
    daemon.start()
    waiting.join(30)
    assert took_s < 3
    assert [(ran.returncode, "succeeded" in ran.stdout) for ran in ended] == [(0, True)]
