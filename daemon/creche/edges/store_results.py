"""Results too large for a record: each a file of its own, in a folder beside the store's file.

A file has its task's name and is whole: it is written under another name, synced, and renamed. Its bytes are the
result's JSON.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

FOLDER_SUFFIX = ".results"
ASSETS_SUFFIX = ".assets"


def asset_folder(path: Path) -> Path:
    """Where the files of the results lie of the store `path`, each task's in a folder with its id."""
    return path.with_name(path.name + ASSETS_SUFFIX)


class ResultFiles:
    """The files beside the store's file `path`. Methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self.assets = asset_folder(path)
        self.folder = path.with_name(path.name + FOLDER_SUFFIX)

    def write(self, task_id: str, result: bytes) -> None:
        """Durable when this returns; one that is there is replaced."""
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700)
            _sync_folder(self.folder.parent)
        part = self.folder / f".{task_id}"  # no id begins with a dot
        part.touch(mode=0o600)
        with part.open("wb") as file:
            file.write(result)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / task_id)
        _sync_folder(self.folder)

    def read(self, task_id: str) -> bytes | None:
        """The result, None where there is no such file."""
        try:
            return (self.folder / task_id).read_bytes()
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Whose results there are."""
        return [name for name in _names(self.folder) if not name.startswith(".")]

    def asset_names(self) -> list[str]:
        """Whose files there are."""
        return _names(self.assets)

    def keep_only(self, task_ids: Iterable[str]) -> None:
        """Remove all others, and what a crash left half written."""
        wanted = frozenset(task_ids)
        self.remove(name for name in _names(self.folder) if name not in wanted)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that is not there is nothing."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def keep_assets_only(self, task_ids: Iterable[str]) -> None:
        """Remove the files of all other tasks."""
        self.remove_assets(frozenset(_names(self.assets)).difference(task_ids))

    def remove_assets(self, task_ids: Iterable[str]) -> None:
        """Remove the files of some tasks; where there are none it is nothing."""
        for task_id in task_ids:
            folder = self.assets / task_id
            if folder.is_dir():
                shutil.rmtree(folder)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
