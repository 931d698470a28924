"""Those who use the daemon while it is being ill-treated: they send again what was not answered, and resume."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import trio
from trio_websocket import ConnectionClosed, HandshakeError, wrap_client_stream

from creche.client import ApiError, Client, ClientError
from creche.client_trio import AsyncClient
from tests.chaos.recipes import RECIPES
from tests.process.running import MAX_MESSAGE_BYTES, Daemon, Json, Simulator

BATCH = 8
HANDSHAKE_S = 3.0


@dataclass
class Order:
    """One task as its client knows it. `key` is also the job's prompt, and so its result, and its tag."""

    key: str
    algorithm: str
    script: Json
    id: str | None = None
    ids: set[str] = field(default_factory=set)
    """All ids that were answered for the key: one, if all is well."""
    cancelled: bool = False
    """Whether a cancel was answered, or may have been taken though no answer came."""
    decisions: list[str] = field(default_factory=list)
    """What a person decided about it while it was unknown, or may have decided."""


class Clients:
    """All orders of a campaign."""

    def __init__(self, daemon: Daemon, simulator: Simulator, chance: random.Random, name: str) -> None:
        self._daemon = daemon
        self._client: Client = daemon.client
        self._simulator = simulator
        self._chance = chance
        self._name = name
        self.orders: dict[str, Order] = {}
        self.accepted: dict[str, Order] = {}
        """By the task's id."""
        self.ended: set[str] = set()
        """Ids of tasks that were seen to have ended by the checks."""

    @property
    def pending(self) -> list[Order]:
        """What has not been answered yet."""
        return [order for order in self.orders.values() if order.id is None]

    @property
    def endless(self) -> list[Order]:
        """Tasks whose jobs end by a cancel only."""
        return [
            order
            for task_id, order in self.accepted.items()
            if task_id not in self.ended and order.script.get("end") == "never" and not order.cancelled
        ]

    def order(self, count: int) -> None:
        """Think of new tasks."""
        for _ in range(count):
            key = f"{self._name}-{len(self.orders)}"
            self.orders[key] = Order(key, self._chance.choice(list(RECIPES)), self._script(key))

    def _script(self, key: str) -> Json:
        chance = self._chance
        script: Json = {"queue": "0s", "run": f"{1500 * chance.random() ** 2:.0f}ms", "tag": key}
        kind = chance.random()
        if kind < 0.1:
            script["end"] = "failed"
        elif kind < 0.15:
            script["end"] = "never"
        elif kind < 0.2:
            script["create_errors"] = [-1]
        elif kind < 0.25:
            script["errors"] = {"poll": [500, 0], "result": [0, 503]}
        return script

    def work(self) -> None:
        """One round: send some of what is pending, cancel something, decide something. Ends early with the daemon."""
        with contextlib.suppress(ClientError):
            self.submit(BATCH)
            if self._chance.random() < 0.3:
                for order in self.endless[:4]:
                    self.cancel(order)
            if self._chance.random() < 0.2:
                self.resolve()

    def submit(self, most: int) -> None:
        """Send orders that have no answer, in one batch. Raises ClientError."""
        batch = self.pending[:most]
        tasks = [
            {"algorithm": order.algorithm, "key": order.key, "input": {"prompt": order.key, "simulate": order.script}}
            for order in batch
        ]
        for order, answer in zip(batch, self._client.submit_many(tasks), strict=False):
            if isinstance(answer, ApiError):
                if answer.status != 503:
                    raise AssertionError(f"{order.key}: refused: {answer}")
                continue
            order.id = str(answer["id"])
            order.ids.add(order.id)
            self.accepted[order.id] = order

    def submit_again(self, order: Order) -> None:
        """Send an order that was answered once more: the same task must come back. Raises ClientError."""
        body = {"prompt": order.key, "simulate": order.script}
        order.ids.add(str(self._client.submit(order.algorithm, key=order.key, input=body)["id"]))

    def cancel(self, order: Order) -> None:
        """Ask for a cancel. Raises ClientError, but not for a task that is beyond it."""
        assert order.id is not None
        try:
            self._client.cancel(order.id)
        except ApiError as exc:
            if exc.code == "wrong_status":  # unknown, or it has ended: dropped, say
                return
            raise
        order.cancelled = True

    def resolve(self) -> None:
        """Decide about some unknown tasks. Raises ClientError."""
        for task in self._client.tasks(status=["unknown"]):
            order = self.orders[str(task["key"])]
            decision = self._chance.choice(["attach", "create", "drop"])
            job = None
            if decision == "attach":
                try:
                    job = self._simulator.create(queue="0s", run="0s", output=order.key)
                except OSError:  # the provider is away
                    continue
            order.decisions.append(decision)
            with contextlib.suppress(ApiError):  # it was decided by a request whose answer was lost
                self._client.resolve(str(task["id"]), decision, job)


class Ears:
    """Two listeners that resume by their cursors: one of the stream, one that asks for results. In a thread."""

    def __init__(self, socket_path: Path) -> None:
        self._socket = socket_path
        self.stream: list[Json] = []
        self.follower: list[Json] = []
        self.faults: list[str] = []
        self._begun = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._begun.set()
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._follow)

    async def _listen(self) -> None:
        cursor = "oldest"
        while True:
            try:
                stream = await trio.open_unix_socket(str(self._socket))
                async with stream, trio.open_nursery() as nursery:
                    # The library waits for ever for a daemon that is killed in the middle of the handshake.
                    with trio.fail_after(HANDSHAKE_S):
                        connection = await wrap_client_stream(
                            nursery, stream, "creche", f"/v1/stream?since={cursor}", max_message_size=MAX_MESSAGE_BYTES
                        )
                    while True:
                        message = json.loads(await connection.get_message())
                        if message["type"] == "result":
                            self.stream.append(message["task"])
                        elif message["type"] != "hello":
                            self.faults.append(f"the stream said {message}")
                        cursor = message["cursor"]
            except* (OSError, ConnectionClosed, HandshakeError, trio.BrokenResourceError, trio.TooSlowError):
                pass
            await trio.sleep(0.05)

    async def _follow(self) -> None:
        client = AsyncClient(self._socket, reconnect_s=0)
        cursor = "oldest"
        while True:
            try:
                page = await client.results(cursor, wait_s=10)
            except ClientError:
                await trio.sleep(0.05)
                continue
            self.follower += page["results"]
            cursor = page["cursor"]
            if page["resync"]:
                self.faults.append("the results said that some are missing")
