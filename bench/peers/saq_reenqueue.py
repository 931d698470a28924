"""SAQ, as it is used for waiting on other people's jobs: a job that polls once and enqueues itself for 3 s later.

    saq_reenqueue.py URL TASKS REDIS_SOCKET

Sends the jobs, then becomes a worker. No heartbeats of its own: what is waiting lies in Redis.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import httpx
import redis.asyncio as redis
from saq import Worker
from saq.queue.redis import RedisQueue

POLL_EVERY_S = 3

URL, TASKS, REDIS_SOCKET = sys.argv[1], int(sys.argv[2]), sys.argv[3]


async def mind(context: dict[str, Any], *, job: str) -> None:
    """One poll."""
    response = await context["client"].get(f"{URL}/v1/jobs/{job}")
    response.raise_for_status()
    if response.json()["status"] == "running":
        await context["worker"].queue.enqueue("mind", job=job, scheduled=time.time() + POLL_EVERY_S)


async def start(context: dict[str, Any]) -> None:
    """One client for all jobs."""
    context["client"] = httpx.AsyncClient(timeout=30)


async def main() -> None:
    """Send, then work."""
    queue = RedisQueue(redis.Redis(unix_socket_path=REDIS_SOCKET, db=2))
    await queue.connect()
    for number in range(TASKS):
        await queue.enqueue("mind", job=f"job-{number}", scheduled=time.time() + POLL_EVERY_S * number / TASKS)
    await Worker(queue, functions=[mind], startup=start, concurrency=100).start()


if __name__ == "__main__":
    asyncio.run(main())
