"""The front's sockets: what is taken over, what is refused, and what is left behind."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from creche.edges.front_listening import MAX_UNIX_PATH_BYTES, Replay, adopt, open_tcp, open_unix, peer_of, remove_unix
from creche.errors import StartError


@pytest.fixture
def path(short_tmp: Path) -> Path:
    return short_tmp / "creche.sock"


@pytest.fixture
async def listener(path: Path) -> AsyncIterator[trio.SocketListener]:
    async with open_unix(path) as listener:
        yield listener


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def owner_of(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def inode_of(path: Path) -> int:
    return path.stat().st_ino


def leave_stale(path: Path) -> None:
    """Leave a socket file as a killed process does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(path))


async def test_a_fresh_path_is_listened_on_with_its_mode(path: Path) -> None:
    """The socket file has the mode that was asked for, whatever the umask, and the umask is as before."""
    umask = os.umask(0o022)
    try:
        listener = open_unix(path, mode=0o666)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)
    async with listener:
        assert mode_of(path) == 0o666
        async with await trio.open_unix_socket(path), await listener.accept():
            pass


async def test_the_default_mode_shuts_others_out(path: Path, listener: trio.SocketListener) -> None:
    """Without a mode, owner and group may connect, others may not."""
    assert mode_of(path) == 0o660


async def test_owner_and_group_are_set_by_name(path: Path) -> None:
    """The names of the own user and group are looked up and accepted."""
    owner, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    async with open_unix(path, owner=owner, group=group):
        assert owner_of(path) == (os.getuid(), os.getgid())


@pytest.mark.parametrize("names", [{"owner": "no-such-user"}, {"group": "no-such-group"}])
def test_unknown_names_are_refused_and_leave_nothing(path: Path, names: dict[str, str]) -> None:
    """A user or group that does not exist is named, and no socket file stays."""
    with pytest.raises(StartError, match="no-such"):
        open_unix(path, owner=names.get("owner"), group=names.get("group"))
    assert not path.exists()


async def test_a_stale_socket_is_taken_over(path: Path) -> None:
    """What a killed process left behind does not stop the next start."""
    leave_stale(path)
    async with open_unix(path) as listener, await trio.open_unix_socket(path), await listener.accept():
        pass


async def test_a_live_socket_is_left_alone(path: Path, listener: trio.SocketListener) -> None:
    """A second daemon is refused, and the first goes on listening."""
    inode = inode_of(path)
    with pytest.raises(StartError, match="another process listens on"):
        open_unix(path)
    assert inode_of(path) == inode
    async with await trio.open_unix_socket(path):
        pass


def test_a_busy_socket_counts_as_alive(path: Path) -> None:
    """A daemon whose backlog is full is there."""
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(os.fspath(path))
        busy.listen(0)
        waiting.connect(os.fspath(path))
        with pytest.raises(StartError, match="another process listens on"):
            open_unix(path)


def test_another_kind_of_file_is_never_removed(path: Path) -> None:
    """A file that is no socket stays, with what is in it."""
    path.write_text("precious")
    with pytest.raises(StartError, match="is no socket"):
        open_unix(path)
    assert path.read_text() == "precious"


def test_a_symbolic_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    """Even one that leads to a stale socket is no socket."""
    leave_stale(tmp_path / "other.sock")
    path.symlink_to(tmp_path / "other.sock")
    with pytest.raises(StartError, match="is no socket"):
        open_unix(path)


def test_a_datagram_socket_is_not_taken_over(path: Path) -> None:
    """A socket of another type belongs to something else."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(os.fspath(path))
        with pytest.raises(StartError, match="cannot take over"):
            open_unix(path)
    assert path.exists()


async def test_the_longest_path_works_and_one_byte_more_is_refused(short_tmp: Path) -> None:
    """The limit of the system is met exactly, in bytes."""
    room = MAX_UNIX_PATH_BYTES - len(os.fsencode(short_tmp)) - len("/")
    async with open_unix(short_tmp / ("x" * room)):
        pass
    with pytest.raises(StartError, match="longer than 107 bytes"):
        open_unix(short_tmp / ("x" * (room + 1)))
    umlauts = short_tmp / ("ü" * (room // 2 + 1))
    with pytest.raises(StartError, match="longer than 107 bytes"):
        open_unix(umlauts)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The message names the path and the reason."""
    with pytest.raises(StartError, match=r"cannot listen on .*nowhere/creche\.sock: No such file or directory"):
        open_unix(tmp_path / "nowhere" / "creche.sock")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A parent that is no folder is a start error too."""
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="Not a directory"):
        open_unix(tmp_path / "file" / "creche.sock")


def test_a_folder_that_takes_no_socket_is_refused() -> None:
    """Where no file may be made (here: /proc, which refuses root as well), the start is refused."""
    with pytest.raises(StartError, match=r"cannot listen on /proc/creche\.sock"):
        open_unix(Path("/proc/creche.sock"))


def test_our_socket_is_removed_at_the_end(path: Path) -> None:
    """A clean stop leaves no file."""
    leave_stale(path)
    remove_unix(path, inode_of(path))
    assert not path.exists()


def test_the_socket_of_a_successor_stays(path: Path) -> None:
    """A file that another process has put in our place is not ours to remove."""
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(os.fspath(path))
        inode = inode_of(path)
        path.unlink()
        leave_stale(path)
        remove_unix(path, inode)
    assert path.exists()


def test_a_socket_that_is_gone_is_no_error(path: Path) -> None:
    """Somebody else has tidied up."""
    remove_unix(path, 1)


async def test_tcp_listens_and_a_taken_port_is_refused() -> None:
    """The second one on a port gets a start error which names it."""
    (listener,) = await open_tcp("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            await open_tcp("127.0.0.1", port)


async def test_an_address_that_is_not_ours_is_refused() -> None:
    """So is a host which this machine does not have (TEST-NET-1)."""
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1"):
        await open_tcp("192.0.2.1", 0)


async def test_a_listening_socket_is_adopted(path: Path) -> None:
    """A socket that somebody else opened serves, and does not leak into child processes."""
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(os.fspath(path))
    opened.listen()
    opened.set_inheritable(True)
    async with adopt(opened.detach()) as listener:
        assert not os.get_inheritable(listener.socket.fileno())
        async with await trio.open_unix_socket(path), await listener.accept() as stream:
            assert peer_of(stream.socket).address == str(path)


def test_what_does_not_listen_is_not_adopted(tmp_path: Path) -> None:
    """A file, a socket without a backlog, a datagram socket and a closed number are start errors."""
    with pytest.raises(StartError, match="is no socket"):
        adopt(os.open(tmp_path, os.O_RDONLY))
    with pytest.raises(StartError, match="no listening stream socket"):
        adopt(socket.socket(socket.AF_UNIX).detach())
    with pytest.raises(StartError, match="no listening stream socket"):
        adopt(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())
    with pytest.raises(StartError, match="is no socket"):
        adopt(9999)


async def test_the_kernel_names_the_unix_peer(path: Path, listener: trio.SocketListener) -> None:
    """Process, user and group of the client, and the listener's path."""
    async with await trio.open_unix_socket(path), await listener.accept() as stream:
        peer = peer_of(stream.socket)
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())
    assert (peer.local, peer.address) == (True, str(path))


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_a_tcp_peer_is_its_address(host: str, shown: str) -> None:
    """Host and port, the host in brackets where it has colons; no process."""
    (listener,) = await open_tcp(host, 0)
    async with listener, await trio.open_tcp_stream(host, listener.socket.getsockname()[1]) as client:
        async with await listener.accept() as stream:
            peer = peer_of(stream.socket)
        assert peer.address == f"{shown}:{client.socket.getsockname()[1]}"
    assert (peer.local, peer.pid) == (False, None)


async def test_what_the_kernel_takes_at_once_is_sent_now(path: Path, listener: trio.SocketListener) -> None:
    """All of it, a part, nothing; then the peer is gone, then we are."""
    async with await trio.open_unix_socket(path) as client:
        server = await listener.accept()
        connection = Replay(server, b"first")
        assert connection.send_now(b"whole") == 5
        large = bytes(64 << 20)
        sent = connection.send_now(large)
        assert 0 < sent < len(large)
        while connection.send_now(large):
            pass
        assert await client.receive_some(5) == b"whole"
        assert await connection.receive_some() == b"first"
    with pytest.raises(trio.BrokenResourceError):
        connection.send_now(b"x")
    await connection.aclose()
    with pytest.raises(trio.ClosedResourceError):
        connection.send_now(b"x")
