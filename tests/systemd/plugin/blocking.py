"""A plug-in with the worst of faults: while a certain file is there, its poll blocks the loop. For the watchdog."""

from __future__ import annotations

import time
from pathlib import Path

from creche.plugin import Job, JobStatus, Plugin, PluginProvider, Reading, Settings, Task

SWITCH = Path("/run/creche-test/block")


class Blocking(PluginProvider):
    """Jobs that end at their second poll."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def create(self, task: Task) -> Reading:
        """As `Provider.create`."""
        return Reading(status=JobStatus.PROCESSING, job=f"job-{task.id}")

    async def poll(self, job: Job) -> Reading:
        """For longer than any watchdog waits."""
        if SWITCH.exists():  # noqa: ASYNC240 - as below
            time.sleep(600)  # noqa: ASYNC251 - that is the fault
        return Reading(status=JobStatus.SUCCEEDED, job=job.id)


PLUGIN = Plugin(title="blocks", make=Blocking, base="http://127.0.0.1:1", secret_required=False)
