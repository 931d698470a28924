"""Runs a recipe over a transport: the `Provider` behind every algorithm that a recipe describes.

What a poll asks is written once; everything else when it is needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import msgspec
import trio

from creche.core.binding import Binding
from creche.core.exchange import Answer, Call, Prepared, Unanswered
from creche.core.lookup import Search
from creche.core.many import Many
from creche.core.reading import Reading
from creche.core.task import Job, Task
from creche.edges.http_asking import ERRORS, Asking, Transport, failure
from creche.engine.ports import Poll

MEMORY_BYTES = 4096
"""An answer to a poll that is larger is not kept to be compared with the next one."""


class HttpProvider:
    """One provider account behind a recipe. Each request takes `timeout_s` seconds at most, and a poll as much longer
    as the recipe has the provider hold it. `wall` gives Unix seconds: some credentials are made anew.
    """

    def __init__(
        self, binding: Binding, transport: Transport, *, timeout_s: float, wall: Callable[[], float] = time.time
    ) -> None:
        self._binding = binding
        self._wall = wall
        self._transport = transport
        self._timeout_s = timeout_s
        self._http = Asking(transport, lambda: binding.redaction, timeout_s=timeout_s)
        self._many = Many(binding) if binding.recipe.many is not None else None
        self.way = binding.way
        recipe = binding.recipe
        self.told_once = recipe.poll.once
        self.given_once = recipe.fetch is not None and recipe.fetch.once
        self.batch = self._many.step.max if self._many is not None else 1
        self.account = self._many.account if self._many is not None else ""
        self.cancel_deletes = recipe.cancel is not None and recipe.cancel.deletes
        self.cancel_ends = recipe.cancel.ends_as if recipe.cancel is not None else frozenset()

    async def create(self, task: Task) -> Reading:
        """As `Provider.create`."""
        call = self._fresh().create_call(task)
        return self._binding.read_create(await self._http.create(call), task)

    async def find(self, task: Task) -> Reading | None:
        """As `Provider.find`. As many pages are asked for as it takes."""
        search = Search(self._fresh(), task)
        while search.call is not None:
            search.take(await self._http.ask(search.call))
        return search.result()

    def poll_of(self, job: Job) -> Poll:
        """As `Provider.poll_of`."""
        return _HttpPoll(self._fresh, self._transport, job, self._timeout_s + self._binding.recipe.poll.wait_s)

    async def poll_many(self, jobs: Sequence[Job]) -> dict[str, Reading]:
        """As `Provider.poll_many`. Of a list as many pages are asked for as it takes to meet all the jobs."""
        assert self._many is not None, "`batch` says so"  # noqa: S101 - a defect of the caller
        self._fresh()
        inquiry = self._many.about(jobs)
        found: dict[str, Reading] = {}
        while inquiry.call is not None:
            found |= inquiry.take(await self._http.ask(inquiry.call))
        return found

    async def fetch(self, job: Job, reading: Reading) -> Reading:
        """As `Provider.fetch`. A job that names nothing to fetch has ended with what its last answer brought."""
        merged = Job(job.id, {**job.keep, **reading.keep}, job.since)
        call = self._fresh().fetch_call(merged)
        if call is None:
            return msgspec.structs.replace(reading, to_fetch=False)
        return self._binding.read_fetch(await self._http.ask(call), reading)

    def assets_of(self, job: Job, reading: Reading) -> list[Call]:
        """As `Provider.assets_of`."""
        merged = Job(job.id, {**job.keep, **reading.keep}, job.since)
        return self._fresh().asset_calls(merged, reading)

    async def cancel(self, job: Job) -> bool:
        """As `Provider.cancel`. A provider that has no cancel refuses."""
        call = self._fresh().cancel_call(job)
        if call is None:
            return False
        return self._binding.read_cancel(await self._http.ask(call))

    def _fresh(self) -> Binding:
        """The binding, with a credential that is good."""
        calls = self._binding.calls
        if calls.renew_at < math.inf and calls.renew_at <= (now := self._wall()):
            calls.renew(now)
        return self._binding


class _HttpPoll:
    """The standing question about one job: its request is written once, and an answer like the last is not read again.

    While a job waits or runs, most answers say just what the one before said.
    """

    __slots__ = (
        "_abandon",
        "_binding",
        "_done",
        "_end",
        "_fresh",
        "_gist",
        "_job",
        "_prepared",
        "_reading",
        "_renew_at",
        "_timeout_s",
        "_transport",
        "_url",
    )

    def __init__(self, fresh: Callable[[], Binding], transport: Transport, job: Job, timeout_s: float) -> None:
        self._fresh = fresh
        self._binding = fresh()
        self._renew_at = math.inf
        self._transport = transport
        self._job = job
        self._timeout_s = timeout_s
        self._url = ""
        self._prepared: Prepared | None = None
        self._gist: tuple[object, ...] | None = None
        self._reading: Reading | None = None
        self._abandon: Callable[[], None] | None = None
        self._done: Callable[[bool], None]
        self._end: Answer | Exception | None = None

    async def __call__(self) -> Reading:
        if self._abandon is not None:
            await self._arrival()
        end, self._end = self._end, None
        try:
            if end is None:
                end = await self._ready().send()
            elif isinstance(end, Exception):
                raise end
        except ERRORS as exc:
            raise failure(exc, self._url, self._binding.redaction) from exc
        return self._read(end)

    def repeat(self, done: Callable[[bool], None], *, step_s: float) -> bool:
        """As `Poll.repeat`. The first question, and those that need a new connection, are somebody's to wait for."""
        if self._prepared is None or self._reading is None:
            return False
        self._abandon = self._ready().begin(self._on_end, step_s)
        self._done = done
        return self._abandon is not None

    def abandon(self) -> None:
        """As `Poll.abandon`."""
        abandon, self._abandon = self._abandon, None
        if abandon is not None:
            abandon()

    def _on_end(self, end: Answer | Exception) -> None:
        self._abandon = None
        news = isinstance(end, Exception) or self._binding.gist(end) != self._gist
        # What was not answered is asked again by whoever comes for the news.
        self._end = end if news and not isinstance(end, Unanswered) else None
        self._done(news)

    async def _arrival(self) -> None:
        """Wait for the answer to a question that was asked for nobody; it is somebody's now, whatever it says."""
        came = trio.Event()
        self._gist = None
        self._done = lambda _: came.set()
        try:
            await came.wait()
        finally:
            self.abandon()

    def _read(self, answer: Answer) -> Reading:
        gist = self._binding.gist(answer)
        if self._reading is not None and gist is not None and gist == self._gist:
            return self._reading
        reading = self._binding.read_poll(answer)
        kept = gist is not None and reading.status.running and len(answer.body) <= MEMORY_BYTES
        self._gist, self._reading = (gist, reading) if kept else (None, None)
        return reading

    def _ready(self) -> Prepared:
        """The request, written anew where its credential has grown old."""
        prepared = self._prepared
        if prepared is None or (self._renew_at < math.inf and self._fresh().calls.renew_at != self._renew_at):
            call = self._fresh().poll_call(self._job)
            self._url, self._renew_at = call.url, self._binding.calls.renew_at
            prepared = self._prepared = self._transport.prepare(call, timeout_s=self._timeout_s)
        return prepared
