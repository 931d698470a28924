"""A Celery application with three tasks. Runs in the environment of requirements-flower.txt, not in ours."""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import os
import time

from celery import Celery  # type: ignore[import-not-found]  # not in our environment

app = Celery("celery_app", broker=os.environ["UPSTREAM_REDIS"], backend=os.environ["UPSTREAM_REDIS"])
app.conf.task_track_started = True
app.conf.broker_connection_retry_on_startup = True


@app.task
def add(x: int, y: int) -> int:
    """A quick success."""
    return x + y


@app.task
def slow(seconds: float) -> str:
    """A success that takes its time."""
    time.sleep(seconds)
    return "done"


@app.task
def fail(message: str) -> None:
    """A failure."""
    raise ValueError(message)
