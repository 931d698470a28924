"""Heartbeats in a real Valkey: addresses, passwords, TLS, rights."""

from __future__ import annotations

import re
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import pytest
import redis
import trio
import trustme

from creche.edges.heartbeats_redis import RedisHeartbeats
from creche.errors import HeartbeatsUnreachable

NOW = 1_790_000_000.75


class Valkey(Protocol):
    """The fixture of conftest.py, as far as it is used here."""

    path: Path
    port: int
    url: str
    client: redis.Redis


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
async def beating(url: str, *, prefix: str = "creche", timeout_s: float = 1.0) -> AsyncIterator[Daemon]:
    heartbeats = RedisHeartbeats(url, prefix=prefix, timeout_s=timeout_s)
    yield Daemon(heartbeats)
    await heartbeats.aclose()


@asynccontextmanager
async def served_by(handler: Callable[[trio.SocketStream], Awaitable[object]]) -> AsyncIterator[int]:
    """The port of a server that is no Redis."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_unix_socket_and_a_database_can_be_named(valkey: Valkey) -> None:
    """The same keys arrive over either socket, in the database of the URL."""
    async with beating(f"unix://{valkey.path}?db=3") as local, beating(f"{valkey.url}/4") as remote:
        await local.beat(["t1"])
        await remote.beat(["t2"])
    with redis.Redis(port=valkey.port, db=3) as third, redis.Redis(port=valkey.port, db=4) as fourth:
        assert third.keys() == [b"creche:heartbeat:t1"]
        assert fourth.keys() == [b"creche:heartbeat:t2"]


async def test_user_and_password_come_from_the_url(valkey: Valkey) -> None:
    """Percent-encoded, so that they may hold any character."""
    valkey.client.acl_setuser("minder", enabled=True, passwords=["+p@ss/w:rd"], keys=["*"], commands=["+@all"])
    login = f"minder:{quote('p@ss/w:rd', safe='')}"
    async with beating(f"redis://{login}@127.0.0.1:{valkey.port}") as daemon:
        await daemon.beat(["t1"])
    async with beating(f"unix://{login}@{valkey.path}") as daemon:
        await daemon.beat(["t2"])
    assert valkey.client.dbsize() == 2


async def test_a_wrong_password_is_reported_without_it(valkey: Valkey) -> None:
    """Neither the message nor the traceback nor the repr shows what was tried."""
    valkey.client.config_set("requirepass", "right")
    async with beating(f"redis://:s3cret@127.0.0.1:{valkey.port}") as daemon:
        with pytest.raises(HeartbeatsUnreachable, match="invalid username-password pair") as caught:
            await daemon.beat(["t1"])
        shown = (
            "".join(traceback.format_exception(caught.value)) + repr(daemon.heartbeats) + repr(vars(daemon.heartbeats))
        )
    assert "s3cret" not in shown


async def test_a_server_that_repeats_the_password_does_not_get_it_into_the_log() -> None:
    """Without an AUTH command, a server answers with the arguments that it did not expect."""

    async def repeat(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"-ERR unknown command 'AUTH', with args beginning with: 's3cret'\r\n")

    async with served_by(repeat) as port, beating(f"redis://:s3cret@127.0.0.1:{port}") as daemon:
        with pytest.raises(HeartbeatsUnreachable, match=r"args beginning with: '\*\*\*'") as caught:
            await daemon.beat(["t1"])
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


async def test_tls_is_spoken_and_checked(valkey: Valkey, tmp_path: Path) -> None:
    """`rediss://` trusts the authority that the URL names, and nobody whom no authority vouches for."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def copy(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
        async for chunk in source:
            await sink.send_all(chunk)

    async def unwrap(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            async with await trio.open_unix_socket(str(valkey.path)) as plain, trio.open_nursery() as nursery:
                nursery.start_soon(copy, plain, secure)
                await copy(secure, plain)
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:
            pass  # the client did not trust us

    async with served_by(unwrap) as port:
        url = f"rediss://127.0.0.1:{port}"
        async with beating(f"{url}?ssl_ca_certs={tmp_path}/ca.pem") as trusting, beating(url) as strict:
            await trusting.beat(["t1"])
            await trusting.beat(["t1"])
            assert valkey.client.get("creche:heartbeat:t1") == "1790000000"
            assert "certificate verify failed" in await strict.misses_a_beat()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "begins with redis://"),
        ("http://:s3cret@host", "begins with redis://"),
        ("s3cret", "begins with redis://"),
        ("redis://", "names no host"),
        ("redis:///0", "names no host"),
        ("redis://:s3cret@", "names no host"),
        ("redis://:s3cret/x@host:6379", "cannot be read"),
        ("redis://:s3cret@host:none", "cannot be read"),
        ("redis://:s3cret@host:70000", "cannot be read"),
        ("redis://[::1", "cannot be read"),
        (f"redis://{'a' * 70}.example", "cannot be read"),
        ("redis://host/s3cret", "must be a number"),
        ("redis://host/1/2", "must be a number"),
        ("redis://host/-1", "must be a number"),
        ("redis://host?db=s3cret", "option that is not known"),
        ("redis://host?ssl_ca_certs=ca.pem", "option that is not known"),
        ("rediss://host?ssl_cert_reqs=none", "option that is not known"),
        ("redis://:s3#cret@host", "cannot be read|not known|no host"),
        ("unix://run/redis.sock", "absolute path"),
        ("unix://", "absolute path"),
        ("unix:///run/redis.sock?db=x", "must be a number"),
    ],
)
def test_a_bad_url_is_refused_without_showing_it(url: str, complaint: str) -> None:
    """At construction, with a sentence that says what is expected, and none of what might be a password."""
    with pytest.raises(ValueError, match=complaint) as caught:
        RedisHeartbeats(url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


async def test_the_rights_named_in_the_docs_are_enough(valkey: Valkey) -> None:
    """The daemon can do its work as the user of docs/how-to/watch-heartbeats.md, and that user can do little else."""
    page = await trio.Path(__file__).parents[2].joinpath("docs/how-to/watch-heartbeats.md").read_text()
    [rights] = re.findall(r"^ACL SETUSER creche on >PASSWORD (.+)$", page, re.MULTILINE)
    valkey.client.execute_command("ACL", "SETUSER", "creche", "on", ">pw", *rights.split())  # type: ignore[no-untyped-call]
    async with beating(f"redis://creche:pw@127.0.0.1:{valkey.port}/1") as daemon:
        await daemon.beat(["t1"], active={"draw": 1})
        await daemon.beat(["t2"], ended=["t1"])
    with redis.Redis(port=valkey.port, username="creche", password="pw") as user:
        for forbidden in (lambda: user.set("other", 1), user.flushall):
            with pytest.raises(redis.exceptions.NoPermissionError):
                forbidden()
