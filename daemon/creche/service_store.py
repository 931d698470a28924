"""The store that the configuration names, open, with the threads that run it, and retention."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple, TypeVar

import trio
from loguru import logger

from creche.config import StoreSection
from creche.core.redis_url import read_redis_url
from creche.edges.store_results import ResultFiles
from creche.edges.store_sqlite import SqliteStore
from creche.engine.feed import Feed
from creche.engine.journal import Journal, RunSync
from creche.engine.others import Link
from creche.engine.ports import Store
from creche.errors import StoreUnavailable
from creche.service_parts import make_folder

T = TypeVar("T")

PRUNE_EVERY_S = 60.0
TIDY_EVERY_S = 3600.0
TIDY_STEP = 100


class Thread:
    """A thread for what may block, one function at a time."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function there. It cannot be cut short; cancellation waits for it."""
        return await trio.to_thread.run_sync(function, limiter=self._limiter)


class OpenStore(NamedTuple):
    """A store that is open, and what runs its functions: those that write, and those that read."""

    store: Store
    write: RunSync
    read: RunSync
    fleet: Link | None = None


@asynccontextmanager
async def open_store(section: StoreSection, wall: Callable[[], float]) -> AsyncIterator[OpenStore]:
    """The store, closed at the end whatever happens. `wall` gives Unix seconds. Raises `StartError`."""
    opened = _make_sqlite(section) if section.url is None else _make_redis(section, wall)
    make_folder(section.path.parent, 0o700)  # for files of results, if for nothing else
    await opened.write(opened.store.open)
    try:
        yield opened
    finally:
        with trio.CancelScope(shield=True):  # as long as SQLite's last checkpoint takes
            await opened.write(opened.store.close)


async def apply_retention(section: StoreSection, journal: Journal, feed: Feed, wall: Callable[[], float]) -> None:
    """Remove what need not be kept any longer, until cancelled. `wall` gives Unix seconds."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prune_forever, section, journal, feed, wall)
        if section.url is not None:
            nursery.start_soon(tidy_forever, section, journal)


async def prune_forever(section: StoreSection, journal: Journal, feed: Feed, wall: Callable[[], float]) -> None:
    """Apply retention every minute, in steps that hold up no commit for long. `wall` gives Unix seconds."""
    while True:
        try:
            pruned = True
            while pruned:
                pruned = bool(await journal.prune(settled_before=wall() - section.keep_s, keep=section.keep_count))
                # Also when nothing went: other nodes of a fleet prune, too.
                floor, _ = await journal.read(lambda store: store.feed_bounds())
                feed.forget_up_to(floor)
        except StoreUnavailable as exc:
            logger.debug("retention waits for the store: {}", exc)
        await trio.sleep(PRUNE_EVERY_S)


async def tidy_forever(section: StoreSection, journal: Journal) -> None:
    """In a fleet: remove the files of results, as far as this node has saved them, of tasks that are gone."""
    files = Thread().run
    folder = ResultFiles(section.path)
    while True:
        with suppress(StoreUnavailable, OSError):
            names = await files(folder.asset_names)
            for first in range(0, len(names), TIDY_STEP):
                some = names[first : first + TIDY_STEP]
                gone = await journal.read(lambda store, some=some: [name for name in some if store.get(name) is None])  # type: ignore[misc]
                await files(partial(folder.remove_assets, gone))
        await trio.sleep(TIDY_EVERY_S)


def _make_sqlite(section: StoreSection) -> OpenStore:
    store = SqliteStore(section.path, max_inline=section.max_inline_bytes)
    return OpenStore(store, Thread().run, Thread().run)


def _make_redis(section: StoreSection, wall: Callable[[], float]) -> OpenStore:
    # Imported here: who keeps the store in SQLite need not load a Redis client.
    from creche.edges.store_redis import RedisStore  # noqa: PLC0415
    from creche.edges.store_redis_member import RedisMembership  # noqa: PLC0415
    from creche.edges.store_redis_server import RedisServer  # noqa: PLC0415

    assert section.url is not None, "as the caller has seen"  # noqa: S101
    server = RedisServer(
        read_redis_url(section.url.reveal()),  # the configuration has read it before
        prefix=section.prefix,
        durable=section.durable == "always",
        replicas=section.replicas,
    )
    store = RedisStore(server, max_inline=section.max_inline_bytes, wall=wall)
    fleet = Link(RedisMembership(server), Thread().run, Thread().run)
    return OpenStore(store, Thread().run, Thread().run, fleet)
