"""The goroutine program as an asyncio script with aiohttp: a task each, a heartbeat task beside it, one shared session.

    asyncio_aiohttp.py URL TASKS REDIS_SOCKET

Written as its users write it, with the limit of connections raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

import aiohttp
import redis.asyncio as redis

DEADLINE_S = 3600
POLL_EVERY_S = 3.0
BEAT_EVERY_S = 2.0
MAX_FAILURES = 5


async def beat_forever(store: redis.Redis, job: str) -> None:
    """Say every 2 s that the task is minded."""
    while True:
        await store.set(f"creche:heartbeat:{job}", int(time.time()), ex=86_400)
        await asyncio.sleep(BEAT_EVERY_S)


async def mind(session: aiohttp.ClientSession, store: redis.Redis, url: str, job: str) -> None:
    """Poll until the job ends."""
    beating = asyncio.create_task(beat_forever(store, job))
    failures = 0
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    async with session.get(f"{url}/v1/jobs/{job}") as response:
                        response.raise_for_status()
                        if (await response.json())["status"] != "running":
                            return
                    failures = 0
                except (aiohttp.ClientError, TimeoutError) as exc:
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
    connector = aiohttp.TCPConnector(limit=1000, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as group,
    ):
        for number in range(tasks):
            group.create_task(mind(session, store, url, f"job-{number}"))
            await asyncio.sleep(POLL_EVERY_S / tasks)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
