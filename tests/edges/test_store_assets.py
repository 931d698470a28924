"""The folders with the files of results: each lives as long as its task."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from creche.core.task import Job, Succeeded, begin_job, settle
from creche.edges.store_results import asset_folder
from creche.engine.ports import Accept, Settle, Write
from creche.errors import StartError
from creche.testing import make_task
from tests.edges.stores import opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store of a test is."""
    return tmp_path / "creche.db"


def with_files(path: Path, task_ids: Iterable[str]) -> Path:
    """Give tasks a file each, as one who saves them does."""
    for task_id in task_ids:
        folder = asset_folder(path) / task_id
        folder.mkdir(parents=True)
        (folder / "000.png").write_bytes(b"x")
    return asset_folder(path)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def settled(task_id: str, at: float) -> list[Write]:
    return [
        Accept(make_task(task_id)),
        Settle(settle(begin_job(make_task(task_id), Job("j"), 1.0), Succeeded(), at)),
    ]


def test_files_go_with_their_task(path: Path) -> None:
    """When retention removes it; those of others stay, whether these have ended or not."""
    with opened(path) as store:
        store.commit([*settled("old", 2.0), *settled("new", 9.0), Accept(make_task("running"))])
        folder = with_files(path, ("old", "new", "running"))
        assert store.prune(settled_before=5.0, keep=100, limit=10) == 1
        assert names(folder) == {"new", "running"}
        assert (folder / "new" / "000.png").read_bytes() == b"x"


def test_a_start_removes_the_files_of_tasks_that_are_gone(path: Path) -> None:
    """The end of the process cut off their removal."""
    with opened(path) as store:
        store.commit([*settled("ended", 2.0), Accept(make_task("running"))])
    folder = with_files(path, ("ended", "running", "gone"))
    with opened(path):
        assert names(folder) == {"ended", "running"}


def test_what_is_no_folder_of_a_task_stays(path: Path) -> None:
    """Somebody else has put it there, and may want it."""
    with opened(path) as store:
        store.commit([Accept(make_task("running"))])
    folder = with_files(path, ("running",))
    (folder / "README").write_text("mine", encoding="utf-8")
    with opened(path):
        assert names(folder) == {"running", "README"}


def test_a_store_without_files_makes_no_folder(path: Path) -> None:
    """Neither at its start nor when it forgets."""
    with opened(path) as store:
        store.commit(settled("old", 2.0))
        assert store.prune(settled_before=5.0, keep=100, limit=10) == 1
    with opened(path):
        assert not asset_folder(path).exists()


def test_the_files_of_another_store_are_not_removed(path: Path) -> None:
    """A new store beside them is refused: most likely its predecessor was moved away without them."""
    folder = with_files(path, ("precious",))
    with pytest.raises(StartError, match=r"creche\.db\.assets has the results of another"), opened(path):
        pass
    assert (folder / "precious" / "000.png").exists()
