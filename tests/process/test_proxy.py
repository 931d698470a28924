"""A daemon whose provider is reached by a proxy, and a reload that changes the way."""

from __future__ import annotations

import base64
import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from tests.edges.transports.peers import Peer, relay, serve

if TYPE_CHECKING:
    from tests.process.running import Daemon, Simulator, StartDaemon

FAR = """
[algorithms.far]
recipe = "simulator"
base = "{url}"
poll_every = "200ms"
proxy = "{proxy}"
"""
QUICK = {"simulate": {"queue": "0s", "run": "0s"}}


class Proxy:
    """A proxy in a thread of its own, which keeps the heads of the requests that open its connections."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0
        self._started: queue.Queue[trio.lowlevel.TrioToken] = queue.Queue()
        self._stopped = trio.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """For as long as this lasts."""
        thread = threading.Thread(target=trio.run, args=(self._run,))
        thread.start()
        token = self._started.get(timeout=20)
        yield
        token.run_sync_soon(self._stopped.set)
        thread.join()

    async def _run(self) -> None:
        async with serve(self._handle) as self.port:
            self._started.put(trio.lowlevel.current_trio_token())
            await self._stopped.wait()

    async def _handle(self, peer: Peer) -> None:
        head = await peer.head()
        if head is not None:
            self.heads.append(head)
            peer._data = head + b"\r\n\r\n" + peer._data
            await relay(peer)


def finish(daemon: Daemon) -> None:
    """One task from its submit to its outcome."""
    task = daemon.client.submit("far", input=QUICK)
    assert daemon.client.wait(task["id"], 20)["status"] == "succeeded"


def test_a_reload_changes_the_way(start_daemon: StartDaemon, simulator: Simulator) -> None:
    """By the proxy, with its password; by the environment's; by none. No password is logged."""
    proxy = Proxy()
    with proxy.running():
        url = f"http://127.0.0.1:{proxy.port}"
        own = FAR.format(url=simulator.url, proxy=f"http://me:${{env:PW}}@127.0.0.1:{proxy.port}")
        daemon = start_daemon(own, environ={"PW": "ge%3Aheim", "HTTP_PROXY": url, "NO_PROXY": "other.test"})
        finish(daemon)
        credentials = b"Proxy-Authorization: Basic " + base64.b64encode(b"me:ge:heim")
        assert proxy.heads
        assert all(credentials in head for head in proxy.heads)

        proxy.heads.clear()
        text = daemon.config.read_text("utf-8").replace(own, FAR.format(url=simulator.url, proxy="environment"))
        daemon.config.write_text(text, "utf-8")
        daemon.reload()
        finish(daemon)
        assert proxy.heads
        assert not any(b"Proxy-Authorization" in head for head in proxy.heads)

        proxy.heads.clear()
        daemon.config.write_text(text.replace('proxy = "environment"', 'proxy = ""'), "utf-8")
        daemon.reload()
        finish(daemon)
        assert proxy.heads == []
        assert "heim" not in daemon.log.read_text("utf-8")


def test_a_changed_default_is_followed_without_a_restart(start_daemon: StartDaemon, simulator: Simulator) -> None:
    """What algorithms take from [upstream] comes into force with them, and no restart is asked for."""
    proxy = Proxy()
    with proxy.running():
        far = FAR.format(url=simulator.url, proxy="").replace('proxy = ""\n', "")
        daemon = start_daemon(far)
        finish(daemon)
        default = f'\n[upstream]\nproxy = "http://127.0.0.1:{proxy.port}"\n'
        daemon.config.write_text(daemon.config.read_text("utf-8") + default, "utf-8")
        daemon.reload()
        finish(daemon)
        assert proxy.heads
        assert not [line for line in daemon.logged("warning") if "restart" in line]
