"""systemd's two protocols: telling it how we are (sd_notify(3)), and taking sockets from it (sd_listen_fds(3)).

Both are silent where systemd is not: everything works the same from a shell.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

FIRST_FD = 3


class Notifier:
    """Sends states to the service manager. `address` is $NOTIFY_SOCKET; None or empty: nobody is told."""

    def __init__(self, address: str | None) -> None:
        # A leading @ stands for a name in the abstract namespace.
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    def starting(self, more_s: float, status: str) -> None:
        """Not ready yet: the start may take so much longer, from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(more_s * 1e6)}\nSTATUS={status}")

    def alive(self, status: str) -> None:
        """All is as it should be: the watchdog need not bite."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def ready(self, status: str) -> None:
        """Everything is up."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The configuration is read again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The stop has begun."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.connect(self._address)
                sender.sendall(message.encode())
        except OSError:
            # A manager that went away must not take the tasks with it.
            return


def watchdog_s(environ: MutableMapping[str, str]) -> float | None:
    """How often at least systemd wants to hear that we are alive (sd_watchdog_enabled(3)); None: it does not ask. The
    variables are removed.
    """
    usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
    return int(usec) / 1e6 if usec.isdecimal() and int(usec) and pid == str(os.getpid()) else None


def take_sockets(environ: MutableMapping[str, str]) -> list[int]:
    """The file descriptors of the sockets that systemd opened for us. The variables are removed: children get none."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    fds = list(range(FIRST_FD, FIRST_FD + int(count)))
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds
