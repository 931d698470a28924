"""A store that cannot be written for a while: refused is what cannot be kept, and nothing that was accepted is lost."""

from __future__ import annotations

import contextlib
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.process.running import Daemon, Listener, Simulator, StartDaemon

Full = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon()


@pytest.fixture
def full(daemon: Daemon) -> Full:
    """As long as the block lasts, the store's log cannot grow: as on a full disk. Afterwards look at `daemon.claim`."""

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        wal = daemon.store.with_name("creche.db-wal")
        size_bytes = wal.stat().st_size
        assert size_bytes > 4 * daemon.log.stat().st_size, "the log file must not meet the limit first"
        unlimited = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (size_bytes, unlimited[1]))
        try:
            yield
        finally:
            if daemon.running:
                resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, unlimited)

    return full


def code(daemon: Daemon, method: str, target: str, body: object = None) -> tuple[int, str]:
    """The status and the code of a refusal, or "" for what is none."""
    reply = daemon.call(method, target, body)
    is_problem = reply.headers["content-type"] == "application/problem+json"
    return reply.status, reply.json["code"] if is_problem else ""


def ends_in_memory(daemon: Daemon) -> list[str]:
    """The unfinished tasks whose jobs are known to have ended."""
    tasks = daemon.client.tasks(status=["processing"])
    return [task["id"] for task in tasks if task["job"].get("status") == "succeeded"]


def fill(daemon: Daemon, eventually: Callable[..., Any]) -> None:
    """Submit until the fault is noticed: the log's last blocks may still have room."""
    task = {"algorithm": "sim", "input": {"simulate": {"queue": "0s", "run": "0s"}, "prompt": "x" * 10_000}}
    eventually(lambda: code(daemon, "POST", "/v1/tasks", task) == (503, "store_unavailable"))


def test_a_full_disk(daemon: Daemon, full: Full, eventually: Callable[..., Any], simulator: Simulator) -> None:
    """Submits are refused and make no job, readiness is red; what runs settles once as soon as there is room again."""
    start = daemon.submit_many(50, run_s=2.0)
    assert code(daemon, "GET", "/readyz") == (200, "")
    eventually(lambda: len(list(daemon.client.tasks(status=["processing"]))) == 50)
    with full():
        fill(daemon, eventually)
        assert code(daemon, "GET", "/readyz") == (503, "store_unavailable")
        status = daemon.client.status()
        assert (status["ready"], status["faults"][0].partition(":")[0]) == (False, "store")
        assert code(daemon, "GET", "/healthz") == (200, ""), "it lives, and need not be restarted"
        refused = {"algorithm": "sim", "input": {"simulate": {"tag": f"{start}-refused"}}, "key": "again"}
        assert code(daemon, "POST", "/v1/tasks", refused) == (503, "store_unavailable")
        assert daemon.call("POST", "/v1/tasks", refused).headers["retry-after"] == "1"
        eventually(lambda: len(ends_in_memory(daemon)) == 50)
        daemon.claim("the store cannot be written")
    eventually(lambda: code(daemon, "GET", "/readyz") == (200, ""))
    eventually(lambda: daemon.client.status()["unfinished"] == 0)
    outcomes = daemon.outcomes()
    assert len({task["id"] for task in outcomes}) == len(outcomes) >= 50
    assert simulator.jobs_by_tag(f"{start}-refused") == {}
    assert code(daemon, "POST", "/v1/tasks", refused) == (202, "")
    assert daemon.client.status()["faults"] == []


def test_a_stop_with_a_full_disk(daemon: Daemon, full: Full, eventually: Callable[..., Any]) -> None:
    """It stops in time all the same; after the next start the outcomes come that could not be written."""
    daemon.submit_many(20, run_s=0.3)
    with full():
        fill(daemon, eventually)
        daemon.terminate()
        assert daemon.wait(12) == 0
        daemon.claim("the store cannot be written")
        daemon.claim("could not be saved")
    daemon.start()
    eventually(lambda: daemon.client.status()["unfinished"] == 0)
    assert len(daemon.outcomes()) >= 20


def test_killed_with_a_full_disk(
    daemon: Daemon, full: Full, eventually: Callable[..., Any], simulator: Simulator
) -> None:
    """SIGKILL in the midst of it costs nothing either."""
    start = daemon.submit_many(20, run_s=0.3)
    with full():
        fill(daemon, eventually)
        daemon.claim("the store cannot be written")
        daemon.kill()
    daemon.start()
    eventually(lambda: daemon.client.status()["unfinished"] == 0)
    assert len(daemon.outcomes()) >= 20
    assert set(simulator.jobs_by_tag(start).values()) == {1}


# -- backups -------------------------------------------------------------------------------------------


def test_a_backup_is_put_back(
    start_daemon: StartDaemon, eventually: Callable[..., Any], simulator: Simulator, listen: Callable[..., Listener]
) -> None:
    """Made while tasks run and wait: each comes to one end, no job is made twice, and listeners are told to look."""
    daemon = start_daemon("in_flight = 10\n")
    start = daemon.submit_many(40, run_s=1.5)
    large = daemon.client.submit("sim", input={"prompt": "x" * 300_000, "simulate": {"queue": "0s", "run": "0s"}})
    eventually(lambda: daemon.client.status()["unfinished"] < 35)
    backup = daemon.folder / "backup.db"
    assert daemon.run("backup", "--config", str(daemon.config), str(backup)).returncode == 0
    assert daemon.run("check", "--store", str(backup)).returncode == 0
    eventually(lambda: daemon.client.status()["unfinished"] == 0)
    before = {task["id"]: task["status"] for task in daemon.outcomes()}
    with listen(daemon.tcp_url) as listener:
        cursor = listener.cursor
    daemon.stop()
    for file in daemon.folder.glob("creche.db*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    for name in ("backup.db", "backup.db.results"):
        if (daemon.folder / name).exists():
            (daemon.folder / name).rename(daemon.folder / name.replace("backup", "creche"))
    daemon.start()
    eventually(lambda: daemon.client.status()["unfinished"] == 0)
    assert {task["id"]: task["status"] for task in daemon.outcomes()} == before
    assert daemon.client.result(large["id"]) == "x" * 300_000
    assert simulator.jobs_by_tag(start) == {f"{start}-{number}": 1 for number in range(40)}
    assert daemon.client.results(cursor)["resync"]
    assert any("this store is the backup of" in line for line in daemon.logged("warning"))
