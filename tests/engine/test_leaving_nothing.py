"""A task that has ended leaves nothing behind in memory that only the collector of circles finds."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from creche.engine.live import LiveTask
from tests.engine.conftest import Lasting

if TYPE_CHECKING:
    from tests.engine.conftest import Engine


def count() -> int:
    """The tasks that are in memory, those of other tests among them."""
    return sum(isinstance(found, LiveTask) for found in gc.get_objects())


async def test_no_circle_outlives_a_task(engine: Engine, autojump_clock: object) -> None:
    """It is gone with its last name, so memory does not grow between two runs of the collector."""
    await engine.start(engine.algorithm(Lasting(20)))
    for number in range(5):
        await engine.submit(f"t{number}")
        await engine.result(f"t{number}")
    gc.collect()
    before = count()
    gc.disable()
    try:
        for number in range(5, 15):
            await engine.submit(f"t{number}")
            await engine.result(f"t{number}")
        left = count() - before
    finally:
        gc.enable()
    assert left <= 1, "the last one may still be on somebody's stack"
