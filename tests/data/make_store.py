"""Writes a store as this version makes it: `python tests/data/make_store.py store-v1.db`.

Run it once for each schema that is released, and keep the file: test_store_sqlite.py opens all of them for ever.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from creche.core.task import Failed, Job, Outcome, Status, Succeeded, Task, begin_create, begin_job, observe, settle
from creche.edges.store_sqlite import SqliteStore
from creche.engine.ports import Accept, Save, Settle

START = 1_700_000_000.0


def task(name: str, key: str, user: str | None, labels: dict[str, str]) -> Task:
    """A task with every field that a client can give."""
    return Task(
        id=name,
        algorithm="draw",
        input=msgspec.Raw('{"prompt": "ein Fuß"}'.encode()),
        key=key,
        user=user,
        labels=labels,
        priority=1,
        deadline_s=60.0,
        start_at=START,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        fingerprint=f"fingerprint-{name}",
        token=f"token-{name}",
        accepted_at=START + 1,
    )


def make(path: Path) -> None:
    """One task in each phase of life, and one that retention removed."""
    accepted = task("accepted", "k1", None, {})
    running = task("running", "k2", "eve", {"env": "test"})
    succeeded = task("succeeded", "k3", "eve", {"env": "prod"})
    failed = task("failed", "k4", None, {"env": "prod"})
    pruned = task("pruned", "k5", None, {"env": "prod"})
    job = Job("job-1", {"poll_url": "https://provider.example/jobs/1"}, START + 2)

    def ended(which: Task, outcome: Outcome, after_s: float) -> Settle:
        return Settle(settle(begin_job(begin_create(which, START + 1, ""), job, START + 2), outcome, START + after_s))

    store = SqliteStore(path, max_inline=100)
    store.open()
    store.commit([Accept(one) for one in (accepted, running, pruned, succeeded, failed)])
    store.commit([Save(observe(begin_job(running, job, START + 2), Status.PROCESSING, "RUNNING", 0.5))])
    store.commit(
        [
            ended(pruned, Succeeded(), 3),
            ended(succeeded, Succeeded(msgspec.Raw(b'{"url": "https://provider.example/1.png"}')), 4),
            ended(failed, Failed("provider", "NSFW"), 5),
        ]
    )
    store.prune(settled_before=START + 4, keep=100, limit=100)
    store.close()
    path.with_name(f"{path.name}.lock").unlink()


if __name__ == "__main__":
    make(Path(__file__).parent / sys.argv[1])
