"""The goroutine program as an asyncio script with httpx: a task each, a heartbeat task beside it, one shared client.

    asyncio_httpx.py URL TASKS REDIS_SOCKET

Written as its users write it, with the limits raised that stop it at once otherwise. `httpx2` where it is installed and
asked for (HTTPX=httpx2), else `httpx`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
import time

import redis.asyncio as redis

httpx = importlib.import_module(os.environ.get("HTTPX", "httpx"))

DEADLINE_S = 3600
POLL_EVERY_S = 3.0
BEAT_EVERY_S = 2.0
MAX_FAILURES = 5


async def beat_forever(store: redis.Redis, job: str) -> None:
    """Say every 2 s that the task is minded."""
    while True:
        await store.set(f"creche:heartbeat:{job}", int(time.time()), ex=86_400)
        await asyncio.sleep(BEAT_EVERY_S)


async def mind(client, store: redis.Redis, url: str, job: str) -> None:  # noqa: ANN001 - httpx or httpx2
    """Poll until the job ends."""
    beating = asyncio.create_task(beat_forever(store, job))
    failures = 0
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    response = await client.get(f"{url}/v1/jobs/{job}")
                    response.raise_for_status()
                    if response.json()["status"] != "running":
                        return
                    failures = 0
                except httpx.HTTPError as exc:
                    failures += 1
                    if failures == MAX_FAILURES:
                        print(f"{job}: given up: {exc!r}", file=sys.stderr)
                        return
                await asyncio.sleep(POLL_EVERY_S)
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating


async def main(url: str, tasks: int, redis_socket: str) -> None:
    """Start the tasks over the first interval, then mind them."""
    pool = redis.BlockingConnectionPool(
        connection_class=redis.UnixDomainSocketConnection, path=redis_socket, max_connections=50, timeout=None
    )
    store = redis.Redis(connection_pool=pool)
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000, keepalive_expiry=60)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client, asyncio.TaskGroup() as group:
        for number in range(tasks):
            group.create_task(mind(client, store, url, f"job-{number}"))
            await asyncio.sleep(POLL_EVERY_S / tasks)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
