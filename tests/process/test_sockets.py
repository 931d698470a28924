"""Who may have the socket and the store; sockets and news shared with a service manager."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.process.running import Daemon, StartDaemon

QUICK = {"simulate": {"queue": "0s", "run": "0s"}}

# As systemd does between fork and exec: the socket becomes number 3, and the variables name this very process.
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="creche.socket")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.fixture(scope="module")
def first(start_shared_daemon: StartDaemon) -> Daemon:
    """A daemon that others want to displace."""
    return start_shared_daemon()


def works(daemon: Daemon) -> bool:
    """Whether a task comes to its end."""
    task = daemon.client.submit("sim", input=QUICK)
    return bool(daemon.client.wait(task["id"], 10)["status"] == "succeeded")


def start_second(daemon: Daemon, *, socket_name: str, store_name: str) -> subprocess.CompletedProcess[str]:
    """A second daemon with its own place in the first one's folder, but for what has the first one's name."""
    config = daemon.folder / "second.toml"
    text = (
        daemon.config.read_text().replace('"creche.sock"', f'"{socket_name}"').replace('"creche.db"', f'"{store_name}"')
    )
    config.write_text(text, encoding="utf-8")
    return daemon.run("serve", "--config", str(config))


def test_one_daemon_per_store(first: Daemon) -> None:
    """A second daemon on the same store ends with code 1 and says who has it; the first goes on."""
    ran = start_second(first, socket_name="second.sock", store_name="creche.db")
    assert ran.returncode == 1
    assert f"in use by another daemon (process {first.process.pid})" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert works(first)


def test_one_daemon_per_socket(first: Daemon) -> None:
    """A second daemon on the same socket likewise, and the socket stays the first one's."""
    ran = start_second(first, socket_name="creche.sock", store_name="second.db")
    assert ran.returncode == 1
    assert f"another process listens on {first.socket}" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert works(first)


def test_one_daemon_per_port(first: Daemon) -> None:
    """A TCP port that is taken ends the start, and leaves no socket file behind."""
    port = first.tcp_url.rpartition(":")[2]
    config = first.folder / "second.toml"
    text = first.config.read_text().replace("creche.", "second.").replace("port = 0", f"port = {port}")
    config.write_text(text, encoding="utf-8")
    ran = first.run("serve", "--config", str(config))
    assert ran.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in ran.stderr
    assert not (first.folder / "second.sock").exists()


def test_no_store_no_start(first: Daemon) -> None:
    """A file that is no store is not touched."""
    (first.folder / "second.db").write_text("precious\n" * 1000, encoding="utf-8")
    ran = start_second(first, socket_name="second.sock", store_name="second.db")
    assert ran.returncode == 1
    assert "is not a store of creche" in ran.stderr
    assert (first.folder / "second.db").read_text(encoding="utf-8") == "precious\n" * 1000


def test_stale_socket_is_replaced(start_daemon: StartDaemon) -> None:
    """What a killed daemon left of its socket keeps nobody out."""
    daemon = start_daemon()
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert works(daemon)


def test_socket_mode(start_daemon: StartDaemon) -> None:
    """By default the socket is for its owner and group."""
    assert start_daemon().socket.stat().st_mode & 0o777 == 0o660


@pytest.fixture
def inherited(short_tmp: Path) -> Iterator[socket.socket]:
    """A socket that listens already, as systemd would have made it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp / "systemd.sock"))
        listener.listen(64)
        yield listener


def test_inherited_socket(start_daemon: StartDaemon, inherited: socket.socket) -> None:
    """A socket that was handed over takes the place of the configured one, and outlives the daemon: clients queue."""
    path = Path(inherited.getsockname())
    fd = inherited.fileno()
    command = [sys.executable, "-c", AS_SYSTEMD, str(fd), "-m", "creche"]
    daemon = start_daemon(command=command, pass_fds=[fd], socket_path=path)
    assert works(daemon)
    assert not (daemon.folder / "creche.sock").exists()
    assert daemon.client.status()["listening"][0] == str(path)
    daemon.stop()
    assert path.is_socket()
    with socket.socket(socket.AF_UNIX) as early:
        early.settimeout(20)
        early.connect(str(path))
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: creche\r\n\r\n")
        daemon.start()
        assert early.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_service_manager_is_told(start_daemon: StartDaemon, short_tmp: Path, eventually: Callable[..., Any]) -> None:
    """READY=1 when everything is up, RELOADING=1 and READY=1 around a reload, STOPPING=1 when the stop begins."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_tmp / "notify.sock"))
        manager.settimeout(10)
        daemon = start_daemon(environ={"NOTIFY_SOCKET": str(short_tmp / "notify.sock")})
        assert manager.recv(4096).startswith(b"EXTEND_TIMEOUT_USEC=60000000\nSTATUS=starting")
        assert manager.recv(4096).startswith(b"READY=1\nSTATUS=tasks: 0")
        assert manager.recv(4096).startswith(b"WATCHDOG=1\nSTATUS=tasks: 0")
        daemon.reload()
        assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(4096).startswith(b"READY=1\n")
        daemon.stop()
        assert manager.recv(4096).startswith(b"STOPPING=1\n")


def test_not_ready_before_recovery(start_daemon: StartDaemon, short_tmp: Path) -> None:
    """At READY=1 what is unfinished is minded again, and the socket answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_tmp / "notify.sock"))
        manager.settimeout(10)
        daemon = start_daemon(environ={"NOTIFY_SOCKET": str(short_tmp / "notify.sock")})
        daemon.submit_many(500, run_s=3600)
        daemon.kill()
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while manager.recv(4096):
                pass
        manager.settimeout(10)
        daemon.start()
        assert manager.recv(4096).startswith(b"EXTEND_TIMEOUT_USEC=")
        assert manager.recv(4096).startswith(b"READY=1\nSTATUS=tasks: 500")
