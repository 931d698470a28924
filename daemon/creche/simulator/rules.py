"""What the simulated provider answers, without sockets and clocks.

Jobs that ended are dropped some time later; a heap of the times of their ends finds them.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import dropwhile, islice
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from creche.simulator.job import Job
from creche.simulator.script import DROP, LOSE_REPLY, Invalid, Script, read_json, read_script
from creche.simulator.world import World, read_world, show_world

KEEP_S = 3600.0
MAX_JOBS = 1_000_000
MAX_BATCH = 100
MAX_PAGE = 100

_JOBS = "/v1/jobs"
_BATCH = "/v1/jobs/batch"
_COUNTERS = {("GET", ""): "polls", ("GET", "result"): "results", ("POST", "cancel"): "cancels"}
"""The requests about one job, by method and last part of the path, and what they count as."""


class Reply(msgspec.Struct, frozen=True):
    """An answer: JSON, to be sent `delay_s` seconds later; `retry_after_s` becomes the header."""

    status: int
    body: bytes
    delay_s: float = 0.0
    retry_after_s: float | None = None


class Drop(msgspec.Struct, frozen=True):
    """No answer: the connection is closed, `delay_s` seconds later."""

    delay_s: float = 0.0


class Simulator:
    """The provider. `key` is what a bearer must show. Equal seeds, requests and times give equal answers.

    Jobs that ended are forgotten `keep_s` later, or earlier where there would be more than `max_jobs`; while so many
    have not ended, creates are answered 429. The counts of jobs by tag, and of creates whose scripts spoil them, are
    kept for good.
    """

    def __init__(
        self, *, key: str | None = None, seed: int = 0, keep_s: float = KEEP_S, max_jobs: int = MAX_JOBS
    ) -> None:
        self.world = World()
        self._authorization = None if key is None else f"Bearer {key}"
        self._dice = random.Random(seed)  # noqa: S311 - chance, not secrets
        self._keep_s = keep_s
        self._max_jobs = max_jobs
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[str, Job] = {}
        self._ends: list[tuple[float, str]] = []
        self._attempts: Counter[str | bytes] = Counter()
        self._tags: Counter[str] = Counter()
        self._counts = dict.fromkeys(
            ("requests", "creates", "created", "duplicates", "batches", "lists", *_COUNTERS.values()), 0
        )
        self._tokens = 0.0
        self._tokens_at = 0.0

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply | Drop:
        """Answer one request. `path` comes with its query, header names in lower case, `now` in Unix seconds."""
        target, _, query = path.partition("?")
        try:
            if target != _JOBS and not target.startswith(_JOBS + "/"):
                return self._beside_jobs(method, target, query, body, now)
            self._counts["requests"] += 1
            reply = self._refusal(headers, now)
            if reply is None and (method, target) == ("GET", _JOBS):
                reply = self._list(query, _base(headers), now)
            reply = reply or self._answer(method, target, headers, body, now)
        except Invalid as exc:
            return _error(exc.status, exc.code, str(exc))
        world = self.world
        if world.lose_replies and self._dice.random() < world.lose_replies:
            return Drop(reply.delay_s + world.latency_s)
        return msgspec.structs.replace(reply, delay_s=reply.delay_s + world.latency_s) if world.latency_s else reply

    # -- what befalls every request about jobs --

    def _refusal(self, headers: Mapping[str, str], now: float) -> Reply | Drop | None:
        world = self.world
        if now < world.outage_until:
            return Drop() if world.outage_status is None else _error(world.outage_status, "outage", "the world says so")
        if world.throttle_per_s is not None and not self._let_through(world.throttle_per_s, now):
            return _error(429, "throttled", "too many requests", hint_s=math.ceil(1 / world.throttle_per_s))
        wrong_key = self._authorization is not None and headers.get("authorization") != self._authorization
        if world.unauthorized or wrong_key:
            return _error(401, "unauthorized", "the key is missing or wrong")
        if world.errors and self._dice.random() < world.errors:
            return _error(500, "error", "the world says so")
        return None

    def _let_through(self, per_s: float, now: float) -> bool:
        """A bucket that holds one second's worth, and is full when the world changes."""
        self._tokens = min(max(1.0, per_s), self._tokens + max(0.0, now - self._tokens_at) * per_s)
        self._tokens_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    # -- jobs --

    def _answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply | Drop:
        job_id, _, action = target[len(_JOBS) + 1 :].partition("/")
        base = _base(headers)
        if not job_id and method == "POST":
            return self._create(headers, body, base, now)
        if target == _BATCH and method == "POST":
            return self._batch(body, base, now)
        counter = _COUNTERS.get((method, action))
        if not job_id or counter is None:
            return _no_such_request(method, target)
        self._counts[counter] += 1
        job = self._jobs.get(job_id)
        if job is None:
            return _error(404, "not_found", f'there is no job "{job_id[:100]}"')
        return _spoil(job, action or "poll") or self._about(job, action, base, now)

    def _about(self, job: Job, action: str, base: str, now: float) -> Reply:
        if action == "result":
            return _result(job, now)
        if action == "cancel":
            return self._cancel(job, base, now)
        return Reply(200, job.show(base, now), job.script.latency_s, job.script.retry_after_s)

    def _batch(self, body: bytes, base: str, now: float) -> Reply:
        """Many jobs' states. Missed are unknown jobs, and those whose script spoils the next poll: that meets it."""
        content = read_json(body)
        ids = content.get("ids") if isinstance(content, dict) else None
        if not isinstance(ids, list) or not all(isinstance(job_id, str) for job_id in ids) or len(ids) > MAX_BATCH:
            raise Invalid(f"ids: expected a list of at most {MAX_BATCH} texts")
        self._counts["batches"] += 1
        self._counts["polls"] += len(ids)
        jobs = [self._jobs[job_id] for job_id in ids if job_id in self._jobs]
        told = [job for job in jobs if _fault(job, "poll") is None]
        hints = [job.script.retry_after_s for job in told if job.script.retry_after_s is not None]
        shown = [msgspec.Raw(job.show(base, now)) for job in told]
        missed = sorted({*ids} - {job.id for job in told})
        return Reply(
            200,
            msgspec.json.encode({"jobs": shown, "missed": missed}),
            max((job.script.latency_s for job in told), default=0.0),
            max(hints, default=None),
        )

    def _list(self, query: str, base: str, now: float) -> Reply:
        """A page of the jobs that there are, the newest first: `limit` of them, behind the one that `after` names."""
        values = dict(parse_qsl(query))
        limit = values.get("limit", "20")
        if not limit.isdecimal() or not 1 <= int(limit) <= MAX_PAGE:
            raise Invalid(f"limit: expected a number from 1 to {MAX_PAGE}")
        self._counts["lists"] += 1
        jobs: Iterator[Job] = reversed(self._jobs.values())
        if "after" in values:
            jobs = dropwhile(lambda job: job.id != values["after"], jobs)
            next(jobs, None)
        page = list(islice(jobs, int(limit)))
        shown = [msgspec.Raw(job.show(base, now, with_links=True)) for job in page]
        return _json({"jobs": shown, "last": page[-1].id if page else None})

    def _create(self, headers: Mapping[str, str], body: bytes, base: str, now: float) -> Reply | Drop:
        self._counts["creates"] += 1
        content = read_json(body)
        script = read_script(content)
        key = headers.get("idempotency-key")
        # Creates that mean the same job share its faults: known by the tag, else the key, else the whole body.
        fault = self._create_fault(script, script.tag or key or body) if script.create_errors else 200
        if fault == DROP or _is_error(fault):
            return _faulty(fault, script)
        self._forget(now)
        job = self._by_key.get(key) if key is not None else None
        status = 201 if job is None else 200
        if job is None:
            if len(self._jobs) >= self._max_jobs:
                return _error(429, "too_many_jobs", f"{self._max_jobs} jobs have not ended", hint_s=1)
            job = self._make(script, content, key, now)
        else:
            self._counts["duplicates"] += 1
        if fault == LOSE_REPLY:
            return Drop(script.latency_s)
        return Reply(status, job.show(base, now, with_links=True), script.latency_s)

    def _create_fault(self, script: Script, who: str | bytes) -> int:
        attempt = self._attempts[who]
        self._attempts[who] += 1
        return script.create_errors[attempt] if attempt < len(script.create_errors) else 200

    def _make(self, script: Script, content: Any, key: str | None, now: float) -> Job:  # noqa: ANN401 - any JSON
        metadata = content.get("metadata") if isinstance(content, dict) else None
        output = script.output
        if output is msgspec.UNSET:
            output = content["prompt"] if isinstance(content, dict) and "prompt" in content else {"ok": True}
        self._counts["created"] += 1
        job = Job(
            # The time makes the ids of one run unknown to the next: as at a provider that lost its jobs.
            id=f"job-{int(now * 1000):x}-{self._counts['created']}",
            key=key,
            script=script,
            output=msgspec.json.encode(output),
            created_at=now,
            ends_at=now + script.length_s,
            metadata=None if metadata is None else msgspec.Raw(msgspec.json.encode(metadata)),
        )
        self._jobs[job.id] = job
        if key is not None:
            self._by_key[key] = job
        if script.tag is not None:
            self._tags[script.tag] += 1
        if job.ends_at < math.inf:
            heapq.heappush(self._ends, (job.ends_at, job.id))
        return job

    def _forget(self, now: float) -> None:
        """Drop the jobs whose time is over, and for want of room the one that ended first."""
        while self._ends:
            ended_at, job_id = self._ends[0]
            too_many = len(self._jobs) >= self._max_jobs
            if now < (ended_at if too_many else ended_at + self._keep_s):
                return
            heapq.heappop(self._ends)
            job = self._jobs.pop(job_id, None)  # a cancelled job is in the heap twice
            if job is not None and job.key is not None:
                del self._by_key[job.key]

    def _cancel(self, job: Job, base: str, now: float) -> Reply:
        delay_s = job.script.latency_s
        if now >= job.ends_at:
            return _error(409, "ended", f"the job is {job.state(now)[0]}", delay_s=delay_s)
        if job.script.refuse_cancel:
            return _error(422, "cancel_refused", "this job cannot be cancelled", delay_s=delay_s)
        job.cancelled, job.ends_at = True, now
        heapq.heappush(self._ends, (now, job.id))
        return Reply(200, job.show(base, now), delay_s)

    # -- beside the jobs --

    def _beside_jobs(self, method: str, target: str, query: str, body: bytes, now: float) -> Reply:
        match method, target:
            case "GET", "/healthz":
                return _json({"ok": True})
            case "GET", "/v1/world":
                return _json(show_world(self.world, now))
            case "PUT", "/v1/world":
                self.world = read_world(read_json(body), now)
                self._tokens, self._tokens_at = math.inf, now
                return _json(show_world(self.world, now))
            case "GET", "/v1/stats":
                if query == "tags=1":
                    return _json(self._tags)
                # This walks over all jobs, some 5 µs each: nothing to ask for every second of a large run.
                jobs = Counter(job.state(now)[0] for job in self._jobs.values())
                return _json({**self._counts, "jobs": jobs})
            case _:
                return _no_such_request(method, target)


def _spoil(job: Job, request: str) -> Reply | Drop | None:
    """The error that the script has for this request about the job, if it has one."""
    if not job.script.errors.get(request):
        return None
    fault = _fault(job, request)
    job.asked = {**job.asked, request: job.asked.get(request, 0) + 1}
    return None if fault is None else _faulty(fault, job.script)


def _fault(job: Job, request: str) -> int | None:
    """What the script has for the next request of this kind, if that is to fail."""
    faults, asked = job.script.errors.get(request, ()), job.asked.get(request, 0)
    fault = faults[asked] if asked < len(faults) else 200
    return fault if fault == DROP or _is_error(fault) else None


def _base(headers: Mapping[str, str]) -> str:
    """What the URLs in answers begin with."""
    return f"http://{headers['host']}" if "host" in headers else ""


def _is_error(status: int) -> bool:
    return status >= 400  # noqa: PLR2004 - the first error of HTTP


def _faulty(fault: int, script: Script) -> Reply | Drop:
    if fault == DROP:
        return Drop(script.latency_s)
    return _error(fault, "simulated", script.message, delay_s=script.latency_s, hint_s=script.retry_after_s)


def _result(job: Job, now: float) -> Reply:
    word, _ = job.state(now)
    if word != "succeeded":
        return _error(409, "no_result", f"the job is {word}", delay_s=job.script.latency_s)
    return Reply(200, job.output, job.script.latency_s)


def _json(value: Mapping[str, Any]) -> Reply:
    return Reply(200, msgspec.json.encode(value))


def _error(status: int, code: str, message: str, *, delay_s: float = 0.0, hint_s: float | None = None) -> Reply:
    return Reply(status, msgspec.json.encode({"error": {"code": code, "message": message}}), delay_s, hint_s)


def _no_such_request(method: str, target: str) -> Reply:
    return _error(404, "not_found", f"no such request: {method} {target[:100]}")
