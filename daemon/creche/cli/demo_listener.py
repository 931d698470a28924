"""A WebSocket listener: what a dashboard, or your own program, does with the stream."""

from __future__ import annotations

import json

import trio
from trio_websocket import open_websocket_url

from creche.client import Json


async def listen(
    url: str, *, task_status: trio.TaskStatus[trio.MemoryReceiveChannel[Json]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Pass the stream's messages on; ready, with the channel, when `hello` has come, so that nothing is missed."""
    sender, receiver = trio.open_memory_channel[Json](0)
    async with open_websocket_url(url) as connection, sender:
        hello = json.loads(await connection.get_message())
        assert hello["type"] == "hello", "the stream's first message"  # noqa: S101
        task_status.started(receiver)
        while True:
            await sender.send(json.loads(await connection.get_message()))
