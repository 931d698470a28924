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
