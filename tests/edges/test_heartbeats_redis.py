"""Heartbeats in a real Valkey: what monitors see, and what happens while it is away."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

import pytest
import redis
import trio

from creche.edges.heartbeats_redis import RedisHeartbeats
from creche.engine.pulse import Pulse
from creche.errors import HeartbeatsUnreachable

NOW = 1_790_000_000.75


class Valkey(Protocol):
    """The fixture of conftest.py, as far as it is used here."""

    path: Path
    port: int
    url: str
    client: redis.Redis

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def signal(self, number: signal.Signals) -> None: ...


class Daemon:
    """Beats as the pulse would."""

    def __init__(self, heartbeats: RedisHeartbeats) -> None:
        self.heartbeats = heartbeats

    async def beat(
        self,
        alive: Sequence[str] = (),
        ended: Sequence[str] = (),
        active: dict[str, int] | None = None,
        now: float = NOW,
    ) -> None:
        with trio.fail_after(10):
            await self.heartbeats.beat(alive=alive, ended=ended, active=active or {}, now=now)

    async def misses_a_beat(self) -> str:
        """Beat, expect that it cannot be done, and return the message."""
        with pytest.raises(HeartbeatsUnreachable) as caught:
            await self.beat(["t1"])
        return str(caught.value)


@asynccontextmanager
async def beating(url: str, *, prefix: str = "creche", name: str = "", timeout_s: float = 1.0) -> AsyncIterator[Daemon]:
    heartbeats = RedisHeartbeats(url, prefix=prefix, name=name, timeout_s=timeout_s)
    yield Daemon(heartbeats)
    await heartbeats.aclose()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(fact: Callable[[], bool]) -> None:
    while not fact():  # noqa: ASYNC110 - Valkey rings no bell
        await trio.sleep(0.02)


@asynccontextmanager
async def served_by(handler: Callable[[trio.SocketStream], Awaitable[object]]) -> AsyncIterator[int]:
    """The port of a server that is no Redis."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


# -- what monitors see ---------------------------------------------------------------------------------


async def test_a_live_task_has_the_time_of_its_last_beat(valkey: Valkey) -> None:
    """The value is Unix seconds as an integer, and moves with every beat."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(["t1", "t2"])
        assert valkey.client.mget("creche:heartbeat:t1", "creche:heartbeat:t2") == ["1790000000"] * 2
        await daemon.beat(["t1", "t2"], now=NOW + 2)
        assert valkey.client.mget("creche:heartbeat:t1", "creche:heartbeat:t2") == ["1790000002"] * 2


async def test_a_heartbeat_expires_after_a_day(valkey: Valkey) -> None:
    """Whatever becomes of the daemon, a key is gone 24 hours after its last beat."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(["t1"])
        assert 86_390 <= valkey.client.ttl("creche:heartbeat:t1") <= 86_400


async def test_an_ended_task_has_no_heartbeat(valkey: Valkey) -> None:
    """The key goes with the task; those of others stay."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(["t1", "t2"])
        await daemon.beat(["t2"], ended=["t1"])
        assert valkey.client.keys("creche:heartbeat:*") == ["creche:heartbeat:t2"]


async def test_live_tasks_are_counted_by_algorithm(valkey: Valkey) -> None:
    """The gauge of an algorithm is its number of live tasks, and the set names the algorithms that have one."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(active={"draw": 2, "a b:c": 1})
        assert valkey.client.mget("creche:active:draw", "creche:active:a b:c") == ["2", "1"]
        assert valkey.client.smembers("creche:active") == {"draw", "a b:c"}


async def test_an_algorithm_without_live_tasks_falls_to_zero(valkey: Valkey) -> None:
    """The daemon names only algorithms with live tasks; the others must not keep their last number."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(active={"draw": 2, "sing": 1})
        await daemon.beat(active={"sing": 1})
        assert valkey.client.mget("creche:active:draw", "creche:active:sing") == ["0", "1"]


async def test_numbers_of_a_crashed_daemon_do_not_stay(valkey: Valkey) -> None:
    """The first beat of the next daemon sets to 0 what its predecessor left behind."""
    async with beating(valkey.url) as crashed:
        await crashed.beat(active={"draw": 5})
    async with beating(valkey.url) as successor:
        await successor.beat()
        assert valkey.client.get("creche:active:draw") == "0"


async def test_the_numbers_of_a_fleet_are_sums(valkey: Valkey) -> None:
    """Each node tells of its own; one that crashed counts for half a minute more, one that stopped no longer."""
    async with (
        beating(valkey.url, name="a") as a,
        beating(valkey.url, name="b") as b,
        beating(valkey.url, name="c") as c,
    ):
        await a.beat(active={"draw": 2, "paint": 1}, now=100)
        await b.beat(active={"draw": 3}, now=103)
        await c.beat(active={"draw": 4}, now=103)
        await c.beat(now=105)
        assert valkey.client.mget("creche:active:draw", "creche:active:paint") == ["5", "1"]
        await b.beat(active={"draw": 3}, now=131)
        assert valkey.client.mget("creche:active:draw", "creche:active:paint") == ["3", "0"]
        assert valkey.client.smembers("creche:active") == {"draw"}


async def test_a_prefix_keeps_daemons_apart(valkey: Valkey) -> None:
    """Every key begins with the prefix, and nothing under another one is touched."""
    async with beating(valkey.url, prefix="a") as a, beating(valkey.url, prefix="b") as b:
        await a.beat(["t"], active={"draw": 1})
        await b.beat(ended=["t"])
        assert sorted(valkey.client.keys()) == ["a:active", "a:active:draw", "a:heartbeat:t", "a:nodes"]
        assert valkey.client.get("a:active:draw") == "1"


async def test_five_thousand_tasks_in_one_beat(valkey: Valkey) -> None:
    """More keys than one script call takes are all written, and all removed."""
    tasks = [f"task-{number:020d}" for number in range(5000)]
    async with beating(valkey.url) as daemon:
        await daemon.beat(tasks)
        assert valkey.client.dbsize() == 5000
        assert set(valkey.client.mget([f"creche:heartbeat:{task}" for task in tasks])) == {"1790000000"}
        await daemon.beat(ended=tasks)
        assert valkey.client.dbsize() == 0


async def test_beats_share_one_connection(valkey: Valkey) -> None:
    """A beat costs no connection."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(["t1"])
        before = valkey.client.info("stats")["total_connections_received"]
        for _ in range(5):
            await daemon.beat(["t1"])
        assert valkey.client.info("stats")["total_connections_received"] == before


async def test_closing_leaves_the_keys_and_no_connection(valkey: Valkey) -> None:
    """Keys of live tasks tell the truth after a stop: their time no longer moves. Closing twice is all right."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(["t1"])
        assert len(valkey.client.client_list(_type="normal")) == 2
        await daemon.heartbeats.aclose()
        with trio.fail_after(5):
            await until(lambda: len(valkey.client.client_list(_type="normal")) == 1)
        assert valkey.client.get("creche:heartbeat:t1") == "1790000000"


@pytest.mark.slow
async def test_a_pulse_keeps_a_task_beating_until_it_ends(valkey: Valkey) -> None:
    """On the real clock: a live task's time moves within every two seconds, and its key goes when it has ended."""

    def seen() -> str | None:
        return valkey.client.get("creche:heartbeat:t1")  # type: ignore[return-value]

    async def changes_from(value: str | None) -> str | None:
        await until(lambda: seen() != value)
        return seen()

    async with beating(valkey.url) as daemon:
        pulse = Pulse(daemon.heartbeats, wall=time.time)
        with trio.fail_after(10):
            async with trio.open_nursery() as engine:
                async with trio.open_nursery() as task:
                    task.start_soon(pulse.beat_while_alive, "t1", "draw")
                    await trio.testing.wait_all_tasks_blocked()
                    await engine.start(pulse.run)
                    first = await changes_from(None)
                    with trio.fail_after(2.5):
                        second = await changes_from(first)
                    task.cancel_scope.cancel()
                assert first is not None
                assert second is not None
                assert int(second) - int(first) in {2, 3}
                pulse.end("t1")
                with trio.fail_after(2.5):
                    assert await changes_from(second) is None
                assert valkey.client.get("creche:active:draw") == "0"
                engine.cancel_scope.cancel()


# -- while it is away ----------------------------------------------------------------------------------


async def test_nothing_is_connected_before_the_first_beat() -> None:
    """A daemon starts although its Redis is away; the beat says where it looked and why it failed."""
    async with served_by(trio.aclose_forcefully) as port:
        pass
    async with beating(f"redis://127.0.0.1:{port}") as daemon:
        message = await daemon.misses_a_beat()
    assert message.startswith(f"cannot reach 127.0.0.1:{port}: ")
    assert message.endswith("Connection refused")


async def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A Unix socket is shown by its path."""
    async with beating(f"unix://{tmp_path}/none.sock") as daemon:
        assert await daemon.misses_a_beat() == f"cannot reach {tmp_path}/none.sock: No such file or directory"


async def test_a_killed_server_is_noticed_and_found_again(valkey: Valkey) -> None:
    """The beat after the kill fails; the first beat after the restart succeeds and writes everything anew."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(["t1"], active={"draw": 1})
        valkey.kill()
        with trio.fail_after(2.5):
            await daemon.misses_a_beat()
            await daemon.misses_a_beat()
        valkey.start()
        await daemon.beat(["t1"], active={"draw": 1})
        assert valkey.client.mget("creche:heartbeat:t1", "creche:active:draw") == ["1790000000", "1"]


async def test_a_restart_between_two_beats_costs_one_beat_at_most(valkey: Valkey) -> None:
    """The connection died unnoticed: one beat finds that out, the next one connects."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(["t1"])
        valkey.kill()
        valkey.start()
        await daemon.misses_a_beat()
        await daemon.beat(["t1"])
        assert valkey.client.get("creche:heartbeat:t1") == "1790000000"


@pytest.mark.slow
async def test_a_stalled_server_costs_a_bounded_time(valkey: Valkey) -> None:
    """A stopped process keeps its connections and takes new ones, but answers nobody."""
    async with beating(valkey.url) as daemon:
        await daemon.beat(["t1"])
        valkey.signal(signal.SIGSTOP)
        for _ in ("on the old connection", "on a new one"):
            with trio.fail_after(2.5):
                await daemon.misses_a_beat()
        valkey.signal(signal.SIGCONT)
        await daemon.beat(["t1"], now=NOW + 4)
        assert valkey.client.get("creche:heartbeat:t1") == "1790000004"


async def test_a_beat_to_a_stalled_server_can_be_cancelled(valkey: Valkey) -> None:
    """A stop of the daemon does not wait for Redis: the thread ends with the connection that is cut."""
    async with beating(valkey.url, timeout_s=60.0) as daemon:
        await daemon.beat(["t1"])
        valkey.signal(signal.SIGSTOP)
        with trio.fail_after(5), trio.move_on_after(0.1) as scope:
            await daemon.beat(["t1"])
        assert scope.cancelled_caught
        valkey.signal(signal.SIGCONT)
        await daemon.beat(["t1"])


@pytest.mark.slow
async def test_a_server_that_dribbles_cannot_stretch_a_beat() -> None:
    """Each byte comes in time, the answer never does: the limit is for the whole beat."""

    async def dribble(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"+")
                await trio.sleep(0.2)

    async with served_by(dribble) as port, beating(f"redis://127.0.0.1:{port}", timeout_s=0.4) as daemon:
        with trio.fail_after(2):
            assert await daemon.misses_a_beat() == f"cannot reach 127.0.0.1:{port}: not done within 0.6 s"


async def test_a_name_that_does_not_resolve_in_time_is_bounded() -> None:
    """A resolver without an answer holds no beat: resolving is no business of the thread."""

    class Silent(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_args: object, **_options: object) -> NoReturn:
            await trio.sleep_forever()

        async def getnameinfo(self, *_args: object) -> NoReturn:
            await trio.sleep_forever()

    trio.socket.set_custom_hostname_resolver(Silent())
    async with beating("redis://redis.test", timeout_s=0.1) as daemon:
        assert await daemon.misses_a_beat() == "cannot reach redis.test:6379: not done within 0.15 s"


async def test_what_is_no_redis_is_unreachable() -> None:
    """A web server's answer is an error like any other."""

    async def web(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with served_by(web) as port, beating(f"redis://127.0.0.1:{port}") as daemon:
        assert f"cannot reach 127.0.0.1:{port}: Protocol" in await daemon.misses_a_beat()


async def test_a_server_that_refuses_writes_is_tried_again(valkey: Valkey) -> None:
    """An error answer (here: out of memory) fails the beat and leaves nothing behind that would disturb the next."""
    async with beating(valkey.url) as daemon:
        valkey.client.config_set("maxmemory", 1)
        assert "maxmemory" in await daemon.misses_a_beat()
        valkey.client.config_set("maxmemory", 0)
        await daemon.beat(["t1"])
        assert valkey.client.get("creche:heartbeat:t1") == "1790000000"


async def test_failed_beats_leave_no_sockets_open(valkey: Valkey) -> None:
    """Hours without Redis use up no file descriptors."""
    async with beating(valkey.url) as daemon:
        await daemon.beat()
        valkey.kill()
        await daemon.misses_a_beat()
        before = open_files()
        for _ in range(10):
            await daemon.misses_a_beat()
        assert open_files() == before
