"""What the composition root does about the store beside the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from creche.config import load
from creche.engine.journal import Journal
from creche.engine.ports import Accept
from creche.service_store import tidy_forever
from creche.testing import MemoryStore, make_task

T = TypeVar("T")


async def in_place(function: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return function()


async def test_files_of_tasks_that_are_gone_are_removed(tmp_path: Path) -> None:
    """In a fleet retention may be another node's work; each node removes what it has saved itself."""
    store = MemoryStore()
    store.commit([Accept(make_task("kept"))])
    assets = tmp_path / "creche.db.assets"
    for name in ("kept", "gone"):
        (assets / name).mkdir(parents=True)
        (assets / name / "1.png").write_bytes(b"png")
    section = msgspec.structs.replace(load(None, {}).store, path=tmp_path / "creche.db")
    journal = Journal(store, run_write=in_place, run_read=in_place)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tidy_forever, section, journal)
        with trio.fail_after(5):
            while (assets / "gone").exists():  # noqa: ASYNC110 - a folder rings no bell
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert [path.name for path in assets.iterdir()] == ["kept"]
