"""The real daemon, as a process, and servers that others wrote: from the submit on its socket to the outcome."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent

POINTS = {"points": [[0, 1], [1, 0], [0.2, 0.9], [0.9, 0.1]], "labels": [1, 0, 1, 0]}

COMMON = """
[socket]
path = "{folder}/creche.sock"
[tcp]
enabled = false
[store]
path = "{folder}/creche.db"
"""
TRAIN = """
[algorithms.train]
recipe = "bentoml"
base = "{url}"
params = {{ path = "/train" }}
poll_every = "100ms"
"""
CELERY = """
[algorithms.{name}]
recipe = "flower"
base = "{url}"
params = {{ name = "celery_app.{name}" }}
poll_every = "100ms"
"""


class OverUnixSocket(http.client.HTTPConnection):
    """HTTP to the daemon's socket, without our own client."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=40)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(40)
        self.sock.connect(str(self._path))


class Daemon:
    """A `creche serve` that runs, seen from its socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """One request: the answer's status and JSON."""
        with contextlib.closing(OverUnixSocket(self._path)) as connection:
            data = None if body is None else json.dumps(body)
            connection.request(method, target, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            raw = answer.read()
        return answer.status, json.loads(raw) if raw else None

    def ready(self) -> bool:
        try:
            with contextlib.closing(OverUnixSocket(self._path)) as connection:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
        except OSError:
            return False

    def submit(self, algorithm: str, **task: object) -> str:
        """The id of a task that the daemon has taken."""
        status, answer = self.call("POST", "/v1/tasks", {"algorithm": algorithm, **task})
        assert status == 202, answer
        task_id: str = answer["id"]
        return task_id

    def show(self, task_id: str, wait: str = "") -> Any:  # noqa: ANN401 - any JSON
        """The task; with `wait` at its end, or after that time."""
        status, answer = self.call("GET", f"/v1/tasks/{task_id}{wait and '?wait=' + wait}")
        assert status == 200, answer
        return answer

    def wait(self, task_id: str) -> Any:  # noqa: ANN401 - any JSON
        """The task when it is over."""
        return self.show(task_id, wait="30s")

    def wait_for_job(self, task_id: str) -> str:
        """The provider's id, as soon as the task runs there."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            task = self.show(task_id)
            if "job" in task and task["status"] == "processing":
                job: str = task["job"]["id"]
                return job
            time.sleep(0.05)
        raise AssertionError(f"no job after 20 s: {task}")


@contextlib.contextmanager
def serving(folder: Path, algorithms: str) -> Iterator[Daemon]:
    """A daemon with this configuration, from its readiness until the block ends; then it must stop cleanly."""
    config, log = folder / "config.toml", folder / "log"
    config.write_text(COMMON.format(folder=folder) + algorithms, encoding="utf-8")
    daemon = Daemon(folder / "creche.sock")
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "creche", "serve", "--config", str(config)],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "daemon")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 20
        while not daemon.ready():
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < end, log.read_text(errors="replace")
            time.sleep(0.05)
        yield daemon
        process.terminate()
        assert process.wait(15) == 0, log.read_text(errors="replace")
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def trainer(short_tmp: Path, bentoml_url: str) -> Iterator[Daemon]:
    with serving(short_tmp, TRAIN.format(url=bentoml_url)) as daemon:
        yield daemon


@pytest.fixture
def celery(short_tmp: Path, flower_url: str) -> Iterator[Daemon]:
    names = ("add", "slow", "fail")
    with serving(short_tmp, "".join(CELERY.format(url=flower_url, name=name) for name in names)) as daemon:
        yield daemon


def test_bentoml_success(trainer: Daemon) -> None:
    """A submitted task comes back with the trained model."""
    task = trainer.wait(trainer.submit("train", input=POINTS | {"seconds": 0.5}))
    assert (task["status"], task["result"]["accuracy"], task["progress"]) == ("succeeded", 1.0, 1.0)


def test_bentoml_failure(trainer: Daemon) -> None:
    """A job that fails ends its task with the reason and the server's message."""
    task = trainer.wait(trainer.submit("train", input={"points": "none"}))
    assert (task["status"], task["reason"]) == ("failed", "provider")
    assert task["message"] == "HTTP 400: 2 validation error for Input"


def test_bentoml_cancel(trainer: Daemon) -> None:
    """A cancel that the server refuses, though it then says "canceled" for a while, ends as the work really ended."""
    task_id = trainer.submit("train", input=POINTS | {"seconds": 2})
    trainer.wait_for_job(task_id)
    status, answer = trainer.call("POST", f"/v1/tasks/{task_id}/cancel")
    assert status in {200, 202}, answer
    task = trainer.wait(task_id)
    assert (task["status"], task["cancel_reason"]) == ("succeeded", "client")
    assert task["result"]["accuracy"] == 1.0


def test_bentoml_unknown_id(trainer: Daemon) -> None:
    """A job that the server does not know is lost, at once."""
    task = trainer.wait(trainer.submit("train", job="no-such-id"))
    assert (task["status"], task["reason"]) == ("failed", "job_lost")


def test_bentoml_restart(short_tmp: Path, bentoml_url: str) -> None:
    """A daemon that stops leaves the job alone; the next one brings its result, of the same job."""
    algorithms = TRAIN.format(url=bentoml_url)
    with serving(short_tmp, algorithms) as daemon:
        task_id = daemon.submit("train", input=POINTS | {"seconds": 2})
        job = daemon.wait_for_job(task_id)
    with serving(short_tmp, algorithms) as daemon:
        task = daemon.wait(task_id)
    assert (task["status"], task["job"]["id"]) == ("succeeded", job)
    assert task["result"]["accuracy"] == 1.0


def test_flower_success(celery: Daemon) -> None:
    """Quick tasks, over before their create is answered, all come back with their own value."""
    tasks = [celery.submit("add", input={"args": [number, 1]}) for number in range(50)]
    assert [celery.wait(task)["result"] for task in tasks] == list(range(1, 51))


def test_flower_failure(celery: Daemon) -> None:
    """A task that raises ends with the exception."""
    task = celery.wait(celery.submit("fail", input={"args": ["no luck"]}))
    assert (task["status"], task["reason"], task["message"]) == ("failed", "provider", "ValueError('no luck')")


def test_flower_cancel(celery: Daemon) -> None:
    """A cancel kills the running task."""
    task_id = celery.submit("slow", input={"args": [60]})
    celery.wait_for_job(task_id)
    celery.call("POST", f"/v1/tasks/{task_id}/cancel")
    task = celery.wait(task_id)
    assert (task["status"], task["reason"]) == ("cancelled", "client")


def test_flower_unknown_id(celery: Daemon) -> None:
    """Flower says that an unknown id is waiting, so the deadline ends such a task."""
    task = celery.wait(celery.submit("add", job="no-such-id", deadline="2s"))
    assert (task["status"], task["reason"]) == ("timed_out", "deadline")


def test_flower_wrong_arguments(celery: Daemon) -> None:
    """A create of which nobody can tell whether it made a job waits for a person."""
    task = celery.wait(celery.submit("add", input={"args": [1]}))
    assert task["status"] == "unknown"
    assert "HTTP 500" in task["note"]
