"""How fast the SQLite store writes: `PYTHONPATH=daemon python bench/store.py [FOLDER]`.

Accepts and then settles tasks in batches of several sizes, as the journal does under little and much load; each is one
commit with an fsync. FOLDER decides which disk is measured.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import msgspec

from creche.core.task import Job, Succeeded, begin_job, settle
from creche.edges.store_sqlite import SqliteStore
from creche.engine.ports import Accept, Settle, Write
from creche.testing import make_task

CONTENT = msgspec.Raw(b'{"prompt": "' + b"x" * 500 + b'"}')
RESULT = Succeeded(msgspec.Raw(b'{"url": "' + b"x" * 200 + b'"}'))


def timed(store: SqliteStore, writes: list[Write], batch: int) -> list[float]:
    """Seconds that each commit took."""
    took = []
    for start in range(0, len(writes), batch):
        begin = time.perf_counter()
        store.commit(writes[start : start + batch])
        took.append(time.perf_counter() - begin)
    return took


def show(what: str, batch: int, took: list[float], processor_s: float) -> None:
    """One line of the table."""
    writes = batch * len(took)
    median, late = sorted(took)[len(took) // 2], sorted(took)[len(took) * 99 // 100]
    print(
        f"{what:<8} {batch:>6} {writes / sum(took):>10,.0f} {processor_s / writes * 1e6:>10.1f}"
        f" {median * 1e3:>10.2f} {late * 1e3:>10.2f}"
    )


def main(folder: Path) -> None:
    """Measure in a new file in `folder`, which is removed."""
    print(f"{'write':<8} {'batch':>6} {'writes/s':>10} {'CPU us':>10} {'p50 ms':>10} {'p99 ms':>10}")
    for batch, count in ((1, 3_000), (100, 30_000), (1_000, 100_000)):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            store = SqliteStore(Path(place) / "creche.db", max_inline=256 << 10)
            store.open()
            tasks = [
                make_task(
                    f"task-{n:016}", key=f"key-{n}", user=f"user-{n % 100}", labels={"env": "prod"}, input=CONTENT
                )
                for n in range(count)
            ]
            accepts: list[Write] = [Accept(task) for task in tasks]
            settles: list[Write] = [Settle(settle(begin_job(task, Job("job-1"), 2.0), RESULT, 3.0)) for task in tasks]
            for what, writes in (("accept", accepts), ("settle", settles)):
                before = time.process_time()
                took = timed(store, writes, batch)
                show(what, batch, took, time.process_time() - before)
            store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()))
