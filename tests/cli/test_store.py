"""`creche backup` and `creche check --store`, on files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Run

FIXTURE = Path(__file__).parent.parent / "data" / "store-v2.db"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration, and the store that it names."""
    shutil.copyfile(FIXTURE, tmp_path / "creche.db")
    path = tmp_path / "config.toml"
    path.write_text('[store]\npath = "creche.db"\n')
    return path


def test_a_backup_says_what_is_in_it(creche: Run, config: Path) -> None:
    """Of the store that the configuration names, or of another one."""
    to = config.with_name("backup.db")
    ran = creche("backup", "--config", str(config), str(to))
    assert (ran.code, ran.out) == (0, f"{to}: 4 tasks, 2 of them unfinished, 0 results in files\n")
    again = config.with_name("again.db")
    ran = creche("backup", "--store", str(to), str(again), "--json")
    assert ran.values == [{"path": str(again), "tasks": 4, "unfinished": 2, "files": 0}]


def test_a_backup_overwrites_nothing(creche: Run, config: Path) -> None:
    """It fails, and says why."""
    ran = creche("backup", "--config", str(config), str(config))
    assert ran.code == 1
    assert "exists; a backup needs a new name" in ran.err


def test_a_sound_store_is_told(creche: Run, config: Path) -> None:
    """Of the configuration, or named."""
    path = config.with_name("creche.db")
    expected = f"{path}: 4 tasks, 2 of them unfinished, 0 results in files; no problem\n"
    ran = creche("check", "--config", str(config), "--store")
    assert (ran.code, ran.out) == (0, expected)
    assert creche("check", "--store", str(path)).out == expected
    found = {"path": str(path), "tasks": 4, "unfinished": 2, "files": 0, "problems": []}
    assert creche("check", "--store", str(path), "--json").values == [found]


def test_a_damaged_store_is_told(creche: Run, config: Path) -> None:
    """Each problem, and a way out; where nothing can be read, that."""
    path = config.with_name("creche.db")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"status":"succeeded"', b'"status":"succe#ded"'))
    ran = creche("check", "--store", str(path))
    assert ran.code == 1
    assert ran.out.endswith("DAMAGED\n")
    assert "task succeeded: its record cannot be read" in ran.err
    assert "restore a backup" in ran.err
    path.write_bytes(whole[:5000] + b"\xaa" * 20_000 + whole[25_000:])
    ran = creche("check", "--store", str(path))
    assert (ran.code, ran.out) == (1, "")
    assert "is damaged" in ran.err


def test_no_store_is_told(creche: Run, tmp_path: Path) -> None:
    """It is named."""
    ran = creche("check", "--store", str(tmp_path / "missing.db"))
    assert (ran.code, ran.out) == (1, "")
    assert "there is no store at" in ran.err
