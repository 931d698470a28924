"""The composition root: the whole program, its start and its stop, on one page.

Start, each step ready before the next: store, journal, timetable, supervisor (which puts back what is unfinished),
pulse, front. Stop: the front accepts no more; children are cancelled where they stand and their tasks stay in the
store; listeners get what is in the feed, then 1001; the journal writes what it has; the store closes. Nothing waits for
a provider, but for creates that are on the wire, and for those only a few seconds.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio
from loguru import logger

from creche import __version__
from creche.config import Config, load
from creche.core.fleet import Member
from creche.edges import logs
from creche.edges.systemd import Notifier, take_sockets, watchdog_s
from creche.engine.clock import Clock
from creche.engine.feed import Feed, Updates
from creche.engine.fleet import Fleet
from creche.engine.journal import Journal
from creche.engine.lag import LoopLag
from creche.engine.lease import UNLIMITED, Lease
from creche.engine.live import Tools
from creche.engine.others import OtherNodes
from creche.engine.ports import Heartbeats
from creche.engine.pulse import Pulse
from creche.engine.supervisor import Supervisor
from creche.engine.timetable import Timetable
from creche.errors import StartError
from creche.service_faces import make_faces
from creche.service_figures import Engine
from creche.service_outside import Outside
from creche.service_parts import address_of, algorithms_of, flatten
from creche.service_store import apply_retention
from creche.service_telling import make_outbox, make_traces
from creche.service_view import View
from creche.service_watchdog import tell_of_start

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

FLUSH_S = 5.0
"""How long a stop waits for listeners to take what is in the feed, and for answers that are being written."""


def run(path: Path | None) -> int:
    """Run the daemon until SIGTERM or SIGINT; the exit code. Raises `ConfigError`, `StartError`."""
    config = load(path, os.environ)
    logs.configure(level=config.log.level, format=config.log.format)
    notifier = Notifier(os.environ.pop("NOTIFY_SOCKET", None))
    faults: list[Exception] = []
    try:
        limit_s = watchdog_s(os.environ)
        trio.run(_serve_until_signalled, config, notifier, limit_s, Outside(take_sockets(os.environ)))
    except* StartError as group:
        faults += flatten(group)
    if faults:
        raise faults[0]
    return 0


async def _serve_until_signalled(config: Config, notifier: Notifier, limit_s: float | None, outside: Outside) -> None:
    stop = trio.Event()
    for number in SIGNALS:
        # What holds again once the receiver is closed: the kernel drops what comes during a stop, which is bounded
        # anyway. To receive and ignore it would not do: in a flood Python's handlers nest until they break.
        signal.signal(number, signal.SIG_IGN)
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(*SIGNALS) as received:
            async with trio.open_nursery() as starting:
                starting.start_soon(tell_of_start, notifier)
                starting.start_soon(_give_up_start, received, notifier, nursery.cancel_scope)
                view: View = await nursery.start(serve, config, stop, outside)
                starting.cancel_scope.cancel()
            # What is alive now stays: the collector need not walk through it again and again (design §10).
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
            notifier.ready(view.summary())
            async with trio.open_nursery() as living:
                living.start_soon(view.tell_of_life, notifier, limit_s)
                async for received_number in received:
                    if received_number != signal.SIGHUP:
                        break
                    notifier.reloading()
                    view.reload()
                    notifier.ready(view.summary())
                notifier.stopping()
                stop.set()
                living.cancel_scope.cancel()


async def _give_up_start(signals: AsyncIterator[int], notifier: Notifier, start: trio.CancelScope) -> None:
    """A stop that comes before all is up ends the start; the configuration has just been read, so SIGHUP is no news."""
    async for number in signals:
        if number != signal.SIGHUP:
            notifier.stopping()
            start.cancel()


async def serve(
    config: Config,
    stop: trio.Event,
    outside: Outside,
    *,
    task_status: trio.TaskStatus[View] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the daemon until `stop` is set; ready, with its `View`, when the last listener is up. Raises `StartError`."""
    clock = Clock(wall=outside.wall, uptime=outside.uptime)
    lease = Lease(outside.uptime) if config.store.url is not None else UNLIMITED
    upstreams = outside.make_upstreams(config, timetable := Timetable(), lease.holds)
    node = secrets.token_hex(6)
    heartbeats = outside.make_heartbeats(config.heartbeats, "" if lease is UNLIMITED else node)
    async with outside.open_store(config.store) as opened, trio.open_nursery() as ground:
        journal = Journal(opened.store, run_write=opened.write, run_read=opened.read)
        floor, head = await journal.read(lambda store: store.feed_bounds())
        lag = LoopLag()
        pulse = Pulse(heartbeats, wall=clock.now, lease=lease)
        tools = Tools(
            journal=journal,
            pulse=pulse,
            timetable=timetable,
            updates=Updates(),
            clock=clock,
            dice=outside.dice,
            lease=lease,
            messages=(outbox := make_outbox(config, outside, journal, upstreams)),
            traces=(traces := make_traces(config, upstreams, node=node, host=outside.host())),
        )
        feed = Feed(journal, identity=opened.store.identity, floor=floor, head=head, shared=opened.fleet is not None)
        others = OtherNodes(opened.fleet) if opened.fleet is not None else None
        supervisor = Supervisor(
            tools, feed, algorithms_of(config, upstreams), max_tasks=config.max_tasks, others=others
        )
        about = Member(id=node, host=outside.host(), version=__version__, capacity=config.max_tasks)
        fleet = Fleet(others, supervisor=supervisor, feed=feed, tools=tools, about=about) if others else None
        engine = Engine(node, journal, tools, feed, supervisor, lag, fleet, outbox)
        view, stream, front = make_faces(config, outside, engine, upstreams)

        journal_ended = await _begin(ground, journal.run)
        await ground.start(tools.timetable.run)
        minding_ended = await _begin(ground, supervisor.run)
        await ground.start(pulse.run)
        if fleet is not None:
            await ground.start(fleet.run)
        await ground.start(lag.run)
        ground.start_soon(stream.run)
        ground.start_soon(outbox.run)
        ground.start_soon(traces.run)
        ground.start_soon(apply_retention, config.store, journal, feed, clock.now)
        async with outside.open_listeners(config) as listeners:
            front_ended = await _begin(ground, front.serve, listeners)
            view.addresses = [address_of(listener) for listener in listeners]
            logger.info("creche {} is up on {}", __version__, ", ".join(view.addresses))
            if not config.algorithms:
                logger.warning("no algorithms are configured: nothing can be submitted")
            task_status.started(view)

            await stop.wait()
            logger.info("stopping: {}", view.summary())
            await front.last_requests()
            supervisor.stop()
            outbox.stop()
            await upstreams.aclose()  # creates that wait for a connection are not sent any more
            await minding_ended.wait()
            await _flush(journal, feed, front_ended)
        journal.close()
        await journal_ended.wait()
        await _say_goodbye(fleet, pulse, heartbeats)
        ground.cancel_scope.cancel()
    logger.info("stopped; what is unfinished is minded again at the next start")


async def _flush(journal: Journal, feed: Feed, front_ended: trio.Event) -> None:
    with trio.move_on_after(FLUSH_S):
        await journal.flush()
    feed.close()
    with trio.move_on_after(FLUSH_S):
        await front_ended.wait()


async def _say_goodbye(fleet: Fleet | None, pulse: Pulse, heartbeats: Heartbeats | None) -> None:
    if fleet is not None:
        with trio.move_on_after(FLUSH_S):
            await fleet.leave()
    await pulse.beat()  # the ended ones must not look alive until the next start
    if heartbeats is not None:
        await heartbeats.aclose()


async def _begin(nursery: trio.Nursery, run: Callable[..., Awaitable[None]], *args: object) -> trio.Event:
    """Start a service, ready when this returns; the event tells its end."""
    ended = trio.Event()

    async def run_and_tell(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await run(*args, task_status=task_status)
        finally:
            ended.set()

    await nursery.start(run_and_tell, name=getattr(run, "__qualname__", None))
    return ended
