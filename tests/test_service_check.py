"""What is around a daemon: each thing that may be wrong is found, with what to do about it."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path

import pytest

from creche import service_check
from creche.config import load
from creche.edges.store_sqlite import SqliteStore
from creche.service_check import BUILT_AT, FEW_CLIENTS, Finding, look_around

NOW = BUILT_AT + 1.0
BASE = """
[socket]
path = "run/creche.sock"
[store]
path = "state/creche.db"
[tcp]
port = {port}
[algorithms.a]
recipe = "simulator"
"""


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def look(folder: Path, port: int, *, more: str = "", base: str = BASE, now: float = NOW) -> dict[str, Finding]:
    """What is found, by what it is about."""
    path = folder / "config.toml"
    path.write_text(base.format(port=port) + more)
    return {finding.what: finding for finding in look_around(load(path, {"HOME": str(folder)}), now)}


def state(finding: Finding) -> tuple[str, bool]:
    """How it is, and whether something can be done."""
    return finding.state, bool(finding.hint)


def test_all_may_be_well(short_tmp: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is a line for each thing, and nothing to do."""
    monkeypatch.setattr(service_check, "TIME_ERROR", None)  # this machine's clock is its own affair
    found = look(short_tmp, port)
    assert list(found) == ["algorithms", "configuration", "store", "socket", "tcp", "clock", "limits"]
    assert {state(finding) for finding in found.values()} == {("ok", False)}
    assert sorted(path.name for path in short_tmp.iterdir()) == ["config.toml"], "nothing was made"


def test_a_store_that_is_there_is_looked_at(short_tmp: Path, port: int) -> None:
    """Its size, who has it open; a file that is none of ours is wrong, and so is one of a newer version."""
    (short_tmp / "state").mkdir()
    path = short_tmp / "state/creche.db"
    store = SqliteStore(path, max_inline=1000)
    store.open()
    assert f"in use by process {os.getpid()}" in look(short_tmp, port)["store"].said
    store.close()
    found = look(short_tmp, port)
    assert (found["store"].state, found["disk"].state) == ("ok", "ok")
    assert found["store"].said.endswith(" MB")
    path.write_bytes(b"no database at all")
    assert state(look(short_tmp, port)["store"]) == ("wrong", True)


def test_a_disk_that_is_nearly_full(short_tmp: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told before it is full."""
    (short_tmp / "state").mkdir()
    monkeypatch.setattr(service_check, "LOW_DISK_BYTES", 1 << 60)
    assert state(look(short_tmp, port)["disk"]) == ("warn", True)


def test_folders_of_others(short_tmp: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the store nor the socket can be made there."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = look(short_tmp, port)
    assert state(found["socket"]) == state(found["store"]) == ("wrong", True)


def test_a_folder_that_may_not_be_entered(short_tmp: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told, too: nobody can see what is in it."""

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(service_check, "look", refuse)
    (short_tmp / "state").mkdir()
    assert state(look(short_tmp, port)["store"]) == ("wrong", True)


def test_what_listens_already(short_tmp: Path, port: int) -> None:
    """A socket in use is no mistake, and then the port's being taken is none either; a port alone is."""
    (short_tmp / "run").mkdir()
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.socket())
        tcp.bind(("127.0.0.1", port))
        tcp.listen()
        assert state(look(short_tmp, port)["tcp"]) == ("wrong", True)
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(short_tmp / "run/creche.sock"))
        unix.listen()
        found = look(short_tmp, port)
        assert "somebody listens" in found["socket"].said
        assert (found["socket"].state, found["tcp"].state) == ("ok", "ok")
    assert look(short_tmp, port)["socket"].said.endswith("can be made"), "what a dead process left is taken over"
    (short_tmp / "run/creche.sock").unlink()
    (short_tmp / "run/creche.sock").write_text("")
    assert state(look(short_tmp, port)["socket"]) == ("wrong", True)


def test_a_configuration_that_anybody_may_write(short_tmp: Path, port: int) -> None:
    """Whoever may write it spends money."""
    look(short_tmp, port)
    (short_tmp / "config.toml").chmod(0o666)
    assert state(look(short_tmp, port)["configuration"]) == ("warn", True)


def test_no_algorithms(short_tmp: Path, port: int) -> None:
    """A daemon of no use."""
    assert state(look(short_tmp, port, base=BASE.partition("[algorithms")[0])["algorithms"]) == ("warn", True)


def test_a_clock_that_is_wrong(short_tmp: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By years, or nobody knows by how much."""
    assert state(look(short_tmp, port, now=0.0)["clock"]) == ("wrong", True)
    monkeypatch.setattr(service_check, "TIME_ERROR", service_check._clock_state())
    assert state(look(short_tmp, port)["clock"]) == ("warn", True)


def test_few_descriptors(short_tmp: Path, port: int) -> None:
    """Are too few for that many connections."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_CLIENTS, limits[1]))
    try:
        found = look(short_tmp, port)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert state(found["limits"]) == ("warn", True)


def test_servers_that_are_away(short_tmp: Path, port: int) -> None:
    """A store is needed, heartbeats are not."""
    found = look(short_tmp, port, more='[heartbeats]\nurl = "redis://127.0.0.1:1"\n')
    assert state(found["heartbeats"]) == ("warn", True)
    fleet = BASE.replace('path = "state/creche.db"', 'path = "state"\nurl = "redis://127.0.0.1:1"')
    found = look(short_tmp, port, base=fleet)
    assert state(found["store"]) == ("wrong", True)
