"""The network of a simulated world: it delays, loses and repeats; what has left goes on without whoever sent it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx2
import trio

from creche.core.exchange import Answer, Call, Prepared, Unanswered
from creche.edges.upstream_routes import Sends, Settings
from creche.engine.supervisor import ON_WIRE_GRACE_S
from tests.simulation.provider import Job, Provider
from tests.simulation.story import Story, Violation


class Fate(NamedTuple):
    """What befalls one exchange. `there_s` and `back_s` are how long each way takes; `late_s` comes on top of `there_s`
    for a request that is delivered when its sender has long given up.
    """

    refused: bool
    lost: bool
    late_s: float
    there_s: float
    twice: bool
    spoilt: Exception | None
    back_s: float


class Network:
    """Between the daemons of a world and its providers. `trouble` is the probability of each kind of fault."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        chance: random.Random,
        nursery: trio.Nursery,
        story: Story,
    ) -> None:
        self.trouble = 0.0
        self.on_sent: Callable[[Call], None] = lambda _: None
        self._providers = providers
        self._chance = chance
        self._nursery = nursery
        self._story = story

    def fate(self, call: Call) -> Fate:
        """Drawn when the request is sent."""
        chance, trouble = self._chance, self.trouble

        def happens(times: float = 1.0) -> bool:
            return trouble > 0 and chance.random() < trouble * times

        errors = (httpx2.ReadError("reset"), httpx2.RemoteProtocolError("truncated"), httpx2.ReadTimeout("no answer"))
        return Fate(
            refused=happens(),
            lost=happens(0.5),
            # Less than what `appears_within` of the lists allows for.
            late_s=chance.uniform(1, 20) if happens(0.5) else 0.0,
            there_s=chance.uniform(0.01, 1.0),
            # A create is sent twice only by us; what nobody can tell from the first is no fault of the network's.
            twice=happens(0.5) and call.method == "GET",
            spoilt=chance.choice(errors) if happens(2) else None,
            back_s=chance.uniform(0.01, 1.0),
        )

    def send(self, call: Call, fate: Fate, took: Callable[[Answer | Exception, Job | None], None]) -> None:
        """Let a request go; `took` is called with what comes back, if anything does."""
        self._nursery.start_soon(self._deliver, call, fate, took)

    def arrived(self, job: Job, *, wanted: bool, stopped_at: float) -> None:
        """An answer with a job's result has come to a daemon that lives; `wanted`: it still waits for it."""
        kind = self._providers[job.id.partition("-")[0] if "-" in job.id else "ident"].kind
        if wanted:
            job.arrived_at.append(trio.current_time())
        elif (kind.once or kind.fetch == "once") and trio.current_time() < stopped_at + ON_WIRE_GRACE_S:
            self._story.accuse(Violation("what is given out once is not cut off", job.id, job.task))

    async def _deliver(self, call: Call, fate: Fate, took: Callable[[Answer | Exception, Job | None], None]) -> None:
        await trio.sleep(fate.there_s + fate.late_s)
        if fate.lost:
            return
        provider = self._provider_of(call)
        answer, job = provider.handle(call)
        if fate.twice and not (provider.kind.once or provider.kind.fetch == "once"):
            answer, job = provider.handle(call)
        await trio.sleep(fate.back_s)
        took(fate.spoilt or answer, None if fate.spoilt else job)

    def _provider_of(self, call: Call) -> Provider:
        host = urlsplit(call.url).hostname or ""
        if host == "cdn.sim":
            return self._providers["ident"]
        return self._providers[host.removesuffix(".sim")]


class Wire:
    """What one daemon sends through: `Transports` and `Sends`, until `die`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.stopped_at = math.inf
        self.may_create: Callable[[], bool] = lambda: True
        self._closed = False
        self._dead = False
        self._waiting: set[trio.Event] = set()

    def get(self, proxy: str | None, *, http2: bool) -> Sends:  # noqa: ARG002 - one way for all
        """The same for all settings."""
        return self

    def saver(self, _proxy: str | None) -> None:
        """As `Transports.saver`: no files are saved here."""

    def keep_only(self, used: Iterable[Settings]) -> None:
        """Nothing to close."""

    async def aclose(self) -> None:
        """Nothing more is sent."""
        self._closed = True
        await trio.lowlevel.checkpoint()

    def die(self) -> None:
        """The daemon is gone: nothing reaches it, and nothing more comes from it."""
        self._dead = True
        for event in self._waiting:
            event.set()

    async def send(self, call: Call, *, timeout_s: float) -> Answer:
        """One exchange."""
        if self._dead:
            await trio.lowlevel.checkpoint()
            raise httpx2.ConnectError("nobody sends any more")
        fate = self._network.fate(call)
        if call.fresh and not self.may_create():
            raise httpx2.ConnectError("cut off from its fleet")
        self._network.on_sent(call)
        if self._closed or fate.refused:
            await trio.sleep(fate.there_s)
            raise httpx2.ConnectError("refused")
        came, ends = trio.Event(), []

        def took(end: Answer | Exception, job: Job | None) -> None:
            if self._dead:
                return
            if job is not None:
                self._network.arrived(job, wanted=came in self._waiting, stopped_at=self.stopped_at)
            ends.append(end)
            came.set()

        self._waiting.add(came)
        try:
            self._network.send(call, fate, took)
            with trio.move_on_after(timeout_s):
                await came.wait()
        finally:
            self._waiting.discard(came)
        if not ends:
            raise httpx2.ReadTimeout("no answer in time")
        if isinstance(ends[0], Exception):
            raise ends[0]
        return ends[0]

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        """As a transport does."""
        return Prepared(partial(self.send, call, timeout_s=timeout_s), partial(self._begin, call))

    def _begin(
        self, call: Call, done: Callable[[Answer | Exception], None], step_s: float
    ) -> Callable[[], None] | None:
        fate = self._network.fate(call)
        if self._closed or self._dead or fate.refused or fate.lost:
            return None
        listening = [True]

        def took(end: Answer | Exception, _: Job | None) -> None:
            if listening and not self._dead:
                listening.clear()
                done(Unanswered() if isinstance(end, httpx2.ReadError) else end)

        self._network.send(call, fate._replace(back_s=fate.back_s + step_s), took)
        return listening.clear
