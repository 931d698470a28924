"""Celery, as it is used for waiting on other people's jobs: a task that polls once and calls `self.retry(countdown=3)`.

    celery_retry.py URL TASKS REDIS_SOCKET

Sends the tasks, then becomes a worker of 50 threads (the default, a process per core, carries fewer). No heartbeats:
what is waiting lies in the worker's memory and in the broker.
"""

from __future__ import annotations

import sys
import threading

import celery
import requests

POLL_EVERY_S = 3
MAX_POLLS = 1200

URL, TASKS, REDIS_SOCKET = sys.argv[1], int(sys.argv[2]), sys.argv[3]

app = celery.Celery("bench", broker=f"redis+socket://{REDIS_SOCKET}?virtual_host=1")
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True
local = threading.local()


@app.task(name="mind", bind=True, max_retries=MAX_POLLS)
def mind(self: celery.Task, job: str) -> None:
    """One poll."""
    if not hasattr(local, "session"):
        local.session = requests.Session()
    response = local.session.get(f"{URL}/v1/jobs/{job}", timeout=30)
    response.raise_for_status()
    if response.json()["status"] == "running":
        raise self.retry(countdown=POLL_EVERY_S)


if __name__ == "__main__":
    for number in range(TASKS):
        mind.apply_async((f"job-{number}",), countdown=POLL_EVERY_S * number / TASKS)
    app.worker_main(["worker", "--pool=threads", "--concurrency=50", "--loglevel=ERROR", "--without-mingle"])
