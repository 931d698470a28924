"""One task's way through the real daemon: from curl on the Unix socket to the listener on TCP."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.process.running import Daemon, Listener, StartDaemon


@pytest.fixture(scope="module")
def daemon(start_shared_daemon: StartDaemon) -> Daemon:
    return start_shared_daemon()


def curl(daemon: Daemon, target: str, body: str) -> tuple[str, str]:
    """The head and the body of the answer to a POST by curl; where there is none, by the bytes that it sends."""
    out = run_curl(daemon, target, body) if shutil.which("curl") else speak_like_curl(daemon, target, body)
    head, _, rest = re.sub(r"HTTP/1\.1 100 .*\n\n", "", out).partition("\n\n")
    return head, rest


def run_curl(daemon: Daemon, target: str, body: str) -> str:
    command = [
        "curl",
        "-sS",
        "-i",
        "--unix-socket",
        str(daemon.socket),
        "--data-binary",
        "@-",
        f"http://creche{target}",
    ]
    ran = subprocess.run(command, input=body, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - curl is what users have
    return ran.stdout


def speak_like_curl(daemon: Daemon, target: str, body: str) -> str:
    content = body.encode()
    head = f"POST {target} HTTP/1.1\r\nHost: creche\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nConnection: close\r\n"
    head += f"Content-Length: {len(content)}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    large = len(content) > 1 << 20
    if large:
        head += "Expect: 100-continue\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(daemon.socket))
        connection.sendall(f"{head}\r\n".encode())
        received = connection.recv(65536) if large else b""
        connection.sendall(content)
        while some := connection.recv(65536):
            received += some
    return received.decode().replace("\r\n", "\n")


def test_curl_can_submit(daemon: Daemon) -> None:
    """A submit by curl is answered 202, with the task and where it is."""
    head, body = curl(daemon, "/v1/tasks", json.dumps({"algorithm": "sim", "input": {"simulate": {"run": "0s"}}}))
    task = json.loads(body)
    assert head.startswith("HTTP/1.1 202 ")
    assert f"Location: /v1/tasks/{task['id']}\n".lower() in head.lower() + "\n"
    assert daemon.client.wait(task["id"], 10)["status"] == "succeeded"


def test_curl_can_submit_megabytes(daemon: Daemon) -> None:
    """An input of two megabytes, for which curl asks to go on, is passed on whole and comes back whole."""
    content = {"prompt": "x" * (2 << 20), "simulate": {"queue": "0s", "run": "0s"}}
    head, body = curl(daemon, "/v1/tasks", json.dumps({"algorithm": "sim", "input": content}))
    assert head.startswith("HTTP/1.1 202 ")
    task_id = json.loads(body)["id"]
    daemon.client.wait(task_id, 10)
    assert daemon.client.result(task_id) == content["prompt"]


def test_listener_hears_each_outcome_once(daemon: Daemon, listen: Callable[..., Listener]) -> None:
    """A listener gets `hello`, then exactly one result for each task, in the order of the feed."""
    with listen(daemon.tcp_url) as listener:
        since = listener.cursor
        daemon.submit_many(50, spread_s=0.5)
        listener.hears(50)
        last = daemon.client.submit("sim", input={"simulate": {"queue": "0s", "run": "0s"}})["id"]
        heard = listener.hears(51)
        kinds = Counter(message["type"] for message in listener.messages)
    assert listener.messages[0]["type"] == "hello"
    assert kinds == {"hello": 1, "result": 51}
    assert heard == [task["id"] for task in daemon.outcomes(since)]
    assert (len(set(heard)), heard[-1]) == (51, last)


def test_listener_hears_only_what_it_asked_for(daemon: Daemon, listen: Callable[..., Listener]) -> None:
    """Filters hold; updates come where they were asked for."""
    quick = {"simulate": {"queue": "200ms", "run": "600ms"}}
    with listen(daemon.tcp_url, query="user=ada&label=team:blue&updates=1") as listener:
        for user, team in (("ada", "red"), ("bob", "blue"), ("ada", "blue")):
            wanted = daemon.client.submit("sim", input=quick, user=user, labels={"team": team})["id"]
        daemon.client.wait(wanted, 10)
        assert listener.hears(1) == [wanted]
        told = [message["task"] for message in listener.messages if message["type"] == "update"]
    assert {task["id"] for task in told} == {wanted}
    assert "processing" in {task["status"] for task in told}


def test_wait_returns_at_the_end(daemon: Daemon) -> None:
    """A GET that waits is answered when the task ends, not before and not long after."""
    task_id = daemon.client.submit("sim", input={"simulate": {"queue": "0s", "run": "1s"}})["id"]
    task = daemon.call("GET", f"/v1/tasks/{task_id}?wait=30s").json
    assert task["status"] == "succeeded"
    assert time.time() - datetime.fromisoformat(task["settled_at"]).timestamp() < 0.5


def test_wait_ends_with_its_time(daemon: Daemon) -> None:
    """A GET whose time runs out is answered with the task as it is."""
    task_id = daemon.client.submit("sim", input={"simulate": {"run": "1h"}})["id"]
    began = time.monotonic()
    task = daemon.call("GET", f"/v1/tasks/{task_id}?wait=200ms").json
    assert "settled_at" not in task
    assert 0.2 <= time.monotonic() - began < 2
    daemon.client.cancel(task_id)
    assert daemon.client.wait(task_id, 10)["status"] == "cancelled"


def test_a_large_result(start_daemon: StartDaemon, listen: Callable[..., Listener]) -> None:
    """It is told of, and fetched by itself; after a SIGKILL it is still there."""
    daemon = start_daemon()
    prompt = "x" * 600_000
    with listen(daemon.tcp_url) as listener:
        task = daemon.client.submit("sim", input={"prompt": prompt, "simulate": {"queue": "0s", "run": "0s"}})
        listener.hears(1)
    [heard] = listener.tasks
    assert heard["result_file"]["bytes"] == 600_002
    assert "result" not in heard
    assert daemon.client.result(task["id"]) == prompt
    assert daemon.call("GET", f"/v1/tasks/{task['id']}/result", tcp=True).json == prompt
    daemon.kill()
    daemon.start()
    assert daemon.client.result(task["id"]) == prompt
    assert json.loads(daemon.run("result", task["id"]).stdout) == prompt
