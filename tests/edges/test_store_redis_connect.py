"""The way to a fleet's server, over real ones: single ones, with Sentinels, and a cluster; and which are refused.

What a failover does to tasks is in tests/process/test_fleet.py.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from redis.exceptions import MovedError, RedisError

from creche.core import task as tasks
from creche.core.redis_url import read_redis_url
from creche.core.task import Cancelled, Job
from creche.edges.store_redis_connect import Primary, check_server, in_words
from creche.engine.ports import Accept, Accepted, Places, Query, Settle
from creche.errors import StartError, StoreUnavailable
from creche.testing import make_task
from tests.edges.stores import Node, member
from tests.redis_servers import AOF, WHEEL, Sentinel, Server, cluster, sentinels, wait_until

KEY = "{t}:meta"
ROOT = Path(__file__).parent.parent.parent


def find(url: str, timeout_s: float = 5.0) -> Primary:
    return Primary(read_redis_url(url), KEY, timeout_s=timeout_s)


def checked(server: Server, *, url: str = "", durable: bool = False, replicas: int = 0) -> str:
    """What is said against a server; empty when nothing is."""
    address = read_redis_url(url or server.url)
    primary = Primary(address, KEY)
    try:
        check_server(primary.client(), address, durable=durable, replicas=replicas)
    except StartError as exc:
        return str(exc)
    finally:
        primary.close()
    return ""


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """A port where every connection gets one answer, whatever it asks; for what no server here would say."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if not connection.recv(4096):
                        return
                    connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield port
        finally:
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


def place(primary: Primary) -> tuple[str, int]:
    """Where it was found."""
    settings = primary.client().connection_pool.connection_kwargs
    return settings["host"], settings["port"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that keeps nothing."""
    with Server(tmp_path / "server") as running:
        yield running


# -- single ones -----------------------------------------------------------------------------------------


def test_a_socket_a_database_and_a_login(tmp_path: Path) -> None:
    """Named in the URL; a wrong password is not repeated."""
    path = tmp_path / "r.sock"
    with Server(tmp_path / "server", "--unixsocket", str(path), "--requirepass", "geheim"):
        primary = find(f"unix://:geheim@{path}?db=3")
        primary.client().set("x", 1)
        assert "db3" in primary.client().info("keyspace")
        assert primary.client().connection_pool.connection_kwargs["db"] == 3
        primary.close()
        wrong = read_redis_url(f"unix://:falsch@{path}")
        with pytest.raises(RedisError) as caught:
            Primary(wrong, KEY).client().ping()
        assert "falsch" not in in_words(caught.value, wrong)


def with_rights(server: Server, *more: str) -> str:
    """The URL for a user with the rights that the docs name."""
    text = (ROOT / "docs" / "how-to" / "run-a-fleet.md").read_text(encoding="utf-8")
    [rule] = re.findall(r"^ACL SETUSER creche on >PASSWORD (.+)$", text, re.MULTILINE)
    rights = (*rule.replace("{creche}", "{t}").split(), *more)
    server.client.execute_command("ACL", "SETUSER", "creche", "on", ">geheim", *rights)
    return server.url.replace("://", "://creche:geheim@")


def test_the_rights_named_in_the_docs_are_enough(server: Server) -> None:
    """For all that a node does: start, tasks, lists, leases, adoption, wishes, news, retention."""
    node = Node(with_rights(server), "A").open()
    task = make_task("t", key="k", labels={"n": "1"})
    assert node.store.commit([Accept(task)]) == [Accepted(task, new=True)]
    assert node.store.list_tasks(Query(labels={"n": "1"})).tasks == [task]
    assert node.membership.wish("t", b"wish")
    assert node.membership.renew(member("A"), []).wishes == {"t": b"wish"}
    node.membership.join(member("A-2"))
    [adopted] = node.membership.adopt(5)
    done = tasks.settle(tasks.begin_job(adopted, Job("j"), 2.0), Cancelled("client"), 9.0)
    [entry] = node.store.commit([Settle(done)])
    assert node.membership.news(0, Places(), changes=True, wait_s=0.01).entries == [entry]
    assert node.store.prune(settled_before=99.0, keep=0, limit=5) == 1
    node.membership.leave()
    node.store.close()


def test_a_password_that_a_server_repeats_is_in_no_traceback() -> None:
    """Nor in the line that is shown; a server that does not know AUTH answers with its arguments."""
    with answering(b"-ERR unknown command `AUTH`, with args beginning with: `geheim`\r\n") as port:
        node = Node(f"redis://:geheim@127.0.0.1:{port}", "A")
        with pytest.raises(StoreUnavailable) as caught:
            node.store.get("t")
    assert "`***`" in str(caught.value)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


async def test_a_server_behind_tls(server: Server, tmp_path: Path) -> None:
    """Its certificate is checked against the authority that the URL names."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def forward(outside: trio.abc.Stream) -> None:
        inside = await trio.open_tcp_stream("127.0.0.1", server.port)
        tls = trio.SSLStream(outside, context, server_side=True)

        async def pump(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
            async for data in one:
                await other.send_all(data)
            nursery.cancel_scope.cancel()

        try:
            async with tls, inside, trio.open_nursery() as nursery:
                nursery.start_soon(pump, tls, inside)
                nursery.start_soon(pump, inside, tls)
        except* (trio.BrokenResourceError, ssl.SSLError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, forward, 0)
        port = listeners[0].socket.getsockname()[1]

        def ask(options: str) -> object:
            primary = find(f"rediss://localhost:{port}{options}")
            try:
                return primary.client().ping()
            finally:
                primary.close()

        assert await trio.to_thread.run_sync(ask, f"?ssl_ca_certs={tmp_path / 'ca.pem'}") is True
        with pytest.raises(RedisError, match="certificate"):
            await trio.to_thread.run_sync(ask, "")
        nursery.cancel_scope.cancel()


def test_a_server_that_hangs_is_given_up(server: Server) -> None:
    """After the time that is set; when it goes on, it can be asked again."""
    primary = find(server.url, timeout_s=0.3)
    primary.client().ping()
    server.pause()
    with pytest.raises(RedisError):
        primary.client().ping()
    server.resume()
    primary.lost(primary.client())
    assert primary.client().ping()
    primary.close()


def test_whoever_loses_the_server_cuts_nobody_off(server: Server) -> None:
    """A command of another thread goes on, on the connection that it has; what was found since is not given up."""
    primary = find(server.url)
    used = primary.client()
    pipe = used.pipeline(transaction=False)
    pipe.xread({"bell": "$"}, block=0)
    news: list[Any] = []
    waiting = threading.Thread(target=lambda: news.extend(pipe.execute()))
    waiting.start()
    wait_until(lambda: server.client.info("clients")["blocked_clients"] == 1, "it waits")
    primary.lost(used)
    found = primary.client()
    assert found is not used
    primary.lost(used)
    assert primary.client() is found
    del used  # the pipeline outlives the client, as in a round trip of the store
    server.client.xadd("bell", {"t": "1"})
    waiting.join()
    assert [[name for name, _ in rows] for rows in news] == [[b"bell"]]
    primary.close()


class _Told:
    """A client for a server that is not here: only what INFO would say is known of it."""

    def __init__(self, **info: object) -> None:
        self.told = {"role": "master", "maxmemory_policy": "noeviction", "aof_enabled": 1, **info}

    def info(self) -> dict[str, object]:
        return self.told


@pytest.mark.parametrize(
    ("info", "complaint"),
    [
        ({"redis_version": "6.0.16"}, "needs 6.2 or newer, or Valkey"),
        ({"redis_version": "7.0.15"}, "needs 7.2, or Valkey"),
        ({"redis_version": "7.2.0"}, ""),
        ({"redis_version": "6.0.0", "valkey_version": "9.1.2"}, ""),
    ],
)
def test_a_server_that_is_too_old_is_refused(info: dict[str, str], complaint: str) -> None:
    """Every Valkey is new enough, whatever version of Redis it names for old clients."""
    client: Any = _Told(**info)
    try:
        check_server(client, read_redis_url("redis://h"), durable=True, replicas=0)
        said = ""
    except StartError as exc:
        said = str(exc)
    assert said.endswith(complaint)
    assert bool(said) == bool(complaint)


@pytest.mark.parametrize(
    ("options", "how", "complaint"),
    [
        (("--maxmemory-policy", "allkeys-lru"), {}, "maxmemory-policy noeviction"),
        ((), {"durable": True}, "needs appendonly yes"),
        ((), {"replicas": 1}, "has 0 replicas"),
        (AOF, {"durable": True}, ""),
        (("--cluster-enabled", "yes"), {}, "write redis\\+cluster://"),
        (("--replicaof", "127.0.0.1 1"), {}, "is a replica"),
    ],
)
def test_a_server_that_would_lose_tasks_is_refused(
    tmp_path: Path, options: tuple[str, ...], how: dict[str, bool], complaint: str
) -> None:
    """With what to do about it."""
    with Server(tmp_path / "server", *options, binary=WHEEL) as server:
        said = checked(server, durable=how.get("durable", False), replicas=int(how.get("replicas", 0)))
    if complaint:
        assert pytest.raises(StartError, match=complaint).matches(StartError(said))
    else:
        assert said == ""


def test_what_was_written_is_on_disk(tmp_path: Path) -> None:
    """`durable`: after a SIGKILL of the server all is there that was answered, though it syncs once a second."""
    everysec = ("--appendonly", "yes", "--appendfsync", "everysec")
    with Server(tmp_path / "server", *everysec, binary=WHEEL) as server:
        node = Node(with_rights(server, "+waitaof"), "A", durable=True).open()
        task = make_task("t")
        assert node.store.commit([Accept(task)]) == [Accepted(task, new=True)]
        server.kill()
        with pytest.raises(StoreUnavailable):
            node.store.get("t")
        server.start()
        with_rights(server, "+waitaof")  # which it has not written down
        assert node.store.get("t") == task
        node.store.close()


# -- several ---------------------------------------------------------------------------------------------


def test_sentinels_name_the_primary_and_its_successor(tmp_path: Path) -> None:
    """The primary is killed: whoever says that it is lost finds the promoted replica soon."""
    with sentinels(tmp_path) as (url, one, other):
        primary = find(url, timeout_s=1.0)
        assert place(primary)[1] == one.port
        primary.client().set(KEY, 1)
        one.kill()

        def can_write() -> bool:
            client = None
            try:
                client = primary.client()
                return bool(client.set(KEY, 2))
            except (RedisError, OSError):
                primary.lost(client)
                return False

        wait_until(can_write, "the promoted one is found")
        assert place(primary)[1] == other.port
        primary.close()


def test_sentinels_want_a_login_of_their_own(server: Server, tmp_path: Path) -> None:
    """Which the URL has; what is said of a wrong one is short, and without it."""
    with Sentinel(tmp_path / "sentinel", server) as sentinel:
        sentinel.client.execute_command("ACL", "SETUSER", "default", ">geheim", "resetpass", ">geheim")
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/it?sentinel_password="
        primary = find(url + "geheim")
        assert primary.client().ping()
        assert place(primary)[1] == server.port
        primary.close()
        wrong = read_redis_url(url + "falsch")
        with pytest.raises(RedisError) as caught:
            Primary(wrong, KEY).client()
        assert in_words(caught.value, wrong) == "No master found for 'it' : auth:AuthenticationError"


@pytest.mark.parametrize(
    ("told", "host"),
    [
        (b"$9\r\n127.0.0.2\r\n", "127.0.0.2"),
        (b"$0\r\n\r\n", "127.0.0.1"),
        (b"$-1\r\n", "127.0.0.1"),
        (b"$1\r\n?\r\n", "127.0.0.3"),
    ],
)
def test_a_node_of_a_cluster_without_a_name(told: bytes, host: str) -> None:
    """Is the one that was asked, or has an address beside, as `cluster-preferred-endpoint-type` has it; a node before
    it that is in no cluster any more is passed over.
    """
    ip = b"*2\r\n$2\r\nip\r\n$9\r\n127.0.0.3\r\n"
    slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n" + told + b":7001\r\n$2\r\nid\r\n" + ip
    with answering(b"-ERR This instance has cluster support disabled\r\n") as gone, answering(slots) as node:
        primary = find(f"redis+cluster://127.0.0.1:{gone},127.0.0.1:{node}")
        assert place(primary) == (host, 7001)
        primary.close()


def test_a_cluster_is_asked_where_the_keys_are(tmp_path: Path) -> None:
    """All of a store are in one slot, whichever node that is; a node that comes back is found again."""
    with cluster(tmp_path, *AOF) as (url, nodes):
        node = Node(url, "A").open()
        tasks = [make_task(f"t{number}", labels={"n": str(number)}) for number in range(20)]
        assert node.store.commit([Accept(task) for task in tasks]) == [Accepted(task, new=True) for task in tasks]
        assert node.store.unfinished() == tasks
        port = node.server.client.connection_pool.connection_kwargs["port"]
        [holder] = [one for one in nodes if one.port == port]
        other = next(one for one in nodes if one is not holder)
        with pytest.raises(MovedError):
            other.client.get(KEY)
        holder.kill()
        with pytest.raises(StoreUnavailable):
            node.store.get("t1")
        holder.start()

        def found_again() -> bool:
            try:
                return node.store.get("t1") == tasks[1]
            except StoreUnavailable:
                return False

        wait_until(found_again, "the cluster is whole again")
        node.store.close()


def test_a_cluster_and_a_single_server_are_told_apart(server: Server) -> None:
    """The URL says which it is."""
    cluster_url = server.url.replace("redis://", "redis+cluster://")
    with pytest.raises(RedisError):
        Primary(read_redis_url(cluster_url), KEY).client()


def test_jobs_survive_in_their_record(server: Server) -> None:
    """Whatever an answer had a recipe keep."""
    node = Node(server.url, "A").open()
    task = make_task("t", job=Job("j", {"url": "ä"}, 1.0))
    node.store.commit([Accept(task)])
    assert node.store.get("t") == task
    node.store.close()
