"""The providers of a simulated world: they know the truth about every job, and answer as HTTP servers do."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from creche.core.exchange import Answer, Call
from tests.simulation.kinds import MAX_INLINE, SECRET, Kind

PAGE = 3
"""Jobs on a page of a list: few, so that searches need several."""

ENDS = ("done", "done", "done", "failed", "cancelled", "expired")


class Job:
    """A job as its provider knows it. `told` counts the answers that brought its result on the way."""

    def __init__(self, number: int, kind: Kind, body: dict[str, Any], job_id: str | None, now: float) -> None:
        self.id = job_id or f"{kind.name}-{number}"
        self.task: str = body["task"]
        self.token: str = body["tag"]
        self.made_at = now
        self.ends_at = now
        self.end = "done"
        self.told = 0
        self.arrived_at: list[float] = []
        """When answers with its result reached a daemon."""

    def word(self, now: float) -> str:
        """Its status."""
        if now >= self.ends_at:
            return self.end
        return "queued" if now < self.made_at + (self.ends_at - self.made_at) / 3 else "running"

    @property
    def result(self) -> dict[str, str]:
        """What it makes."""
        # Some are kept in files of their own.
        return {"of": self.id} | ({"more": "x" * MAX_INLINE} if sum(self.token.encode()) % 3 == 0 else {})


class Provider:
    """One provider. `trouble` is the probability of an error of its own; `now` gives the world's seconds."""

    def __init__(
        self, kind: Kind, chance: random.Random, now: Callable[[], float], note: Callable[[str, str | None], None]
    ) -> None:
        self.kind = kind
        self.jobs: dict[str, Job] = {}
        self.trouble = 0.0
        self.longest_s = 120.0
        self.away: list[tuple[float, float, int]] = []
        self.breaches: list[str] = []
        self.on_made: Callable[[], None] = lambda: None
        self._chance = chance
        self._now = now
        self._note = note

    def jobs_of(self, task_id: str) -> list[Job]:
        """Every job that was made for a task."""
        return [job for job in self.jobs.values() if job.task == task_id]

    def is_away(self) -> int:
        """The status that everything is answered with now, or 0."""
        now = self._now()
        return next((status for start, end, status in self.away if start <= now < end), 0)

    def handle(self, call: Call) -> tuple[Answer, Job | None]:  # noqa: PLR0911 - a table of requests
        """One request, served now; with it the job whose result the answer brings, if it brings one."""
        parts = urlsplit(call.url)
        shown = dict(call.headers).get("Authorization") == f"Bearer {SECRET}"
        if shown is not (parts.hostname == f"{self.kind.name}.sim"):
            self.breaches.append(f"{call.method} {call.url}: the credential went to the wrong place, or was left out")
        if status := self.is_away():
            return _answer(status, {"error": "away"}), None
        if self._chance.random() < self.trouble:
            status = self._chance.choice([500, 500, 429, 503, 401, 200])
            return (_answer(status, {"error": "trouble"}) if status != 200 else _text("<html>")), None
        path = parts.path.strip("/").split("/")
        body = msgspec.json.decode(call.body) if call.body else {}
        match call.method, path:
            case (("POST" | "PUT"), ["jobs", *name]) if len(name) < 2:
                return self._create(body, name[0] if name else None, dict(call.headers)), None
            case "GET", ["jobs"]:
                return self._list(parse_qs(parts.query)), None
            case "POST", ["many"]:
                return self._many(body["ids"]), None
            case "GET", ["jobs", job_id]:
                return self._poll(self.jobs.get(job_id))
            case "POST", ["jobs", job_id, "cancel"]:
                return self._cancel(self.jobs.get(job_id)), None
            case "GET", ["results", job_id]:
                return self._result(self.jobs.get(job_id))
        raise AssertionError(f"{call.method} {call.url}")

    def _create(self, body: dict[str, Any], name: str | None, headers: dict[str, str]) -> Answer:
        known = self.jobs.get(name) if name is not None else None
        if "Idempotency-Key" in headers:
            known = next((job for job in self.jobs.values() if job.token == headers["Idempotency-Key"]), None)
        if known is not None:
            return _answer(409 if name is not None else 200, self._whole(known))
        if self._chance.random() < self.trouble / 2:
            return _answer(422, {"error": "no such input"})
        now = self._now()
        job = Job(len(self.jobs), self.kind, body, name, now)
        length_s = self._chance.choice([0.0, self._chance.uniform(0, 20), self._chance.uniform(0, self.longest_s)])
        job.ends_at, job.end = now + length_s, self._chance.choice(ENDS)
        self.jobs[job.id] = job
        self._note(f"provider: made {job.id}, which will be {job.end} after {length_s:.0f} s", job.task)
        self.on_made()
        return _answer(201, self._whole(job))

    def _whole(self, job: Job) -> dict[str, Any]:
        """A job with its result, where that is not told once."""
        shown = self._show(job)
        if job.word(self._now()) == "done" and not self.kind.once:
            shown |= {"status": "done"} | (self._where(job) if self.kind.fetch else {"result": job.result})
        return shown

    def _where(self, job: Job) -> dict[str, str]:
        host = "cdn.sim" if self.kind.fetch == "again" else f"{self.kind.name}.sim"
        return {"result_url": f"https://{host}/results/{job.id}"}

    def _show(self, job: Job) -> dict[str, Any]:
        """A job without its result."""
        word = job.word(self._now())
        shown: dict[str, Any] = {"id": job.id, "status": word, "tag": job.token, "created": job.made_at}
        if word == "done":
            shown["status"] = "running"  # an end without its result would be taken for the whole
        if word == "failed":
            shown["error"] = "no luck"
        return shown

    def _list(self, query: dict[str, list[str]]) -> Answer:
        jobs = sorted(self.jobs.values(), key=lambda job: -job.made_at)
        # A job shows up some seconds after its create.
        jobs = [job for job in jobs if job.made_at <= self._now() - 5]
        names = [job.id for job in jobs]
        start = names.index(query["after"][0]) + 1 if "after" in query else 0
        page = jobs[start : start + PAGE]
        return _answer(200, {"jobs": [self._show(job) for job in page], "next": page[-1].id if page else None})

    def _many(self, ids: list[str]) -> Answer:
        found = [self.jobs[name] for name in ids if name in self.jobs and self._chance.random() > self.trouble]
        return _answer(200, {"jobs": [self._whole(job) for job in found]})

    def _poll(self, job: Job | None) -> tuple[Answer, Job | None]:
        now = self._now()
        if job is None or (now < job.made_at + 4 and self._chance.random() < self.trouble):
            return _answer(404, {"error": "no such job"}), None
        word = job.word(now)
        if now < job.ends_at:
            if self._chance.random() < self.trouble:
                word = self._chance.choice(["paused", "levitating"])
            headers = {"retry-after": "7"} if self._chance.random() < self.trouble else {}
            return _answer(200, {"id": job.id, "status": word}, headers), None
        if self.kind.once:
            if job.told:
                return _answer(404, {"error": "told already"}), None
            job.told += 1
        shown = {"id": job.id, "status": word, "error": "no luck"}
        if word != "done":
            return _answer(200, shown), job if self.kind.once else None
        if self.kind.fetch:
            return _answer(200, shown | self._where(job)), None
        return _answer(200, shown | {"result": job.result}), job

    def _result(self, job: Job | None) -> tuple[Answer, Job | None]:
        if job is None or (self.kind.fetch == "once" and job.told):
            return _answer(410, {"error": "given out already"}), None
        job.told += 1
        return _answer(200, job.result), job

    def _cancel(self, job: Job | None) -> Answer:
        if job is None:
            return _answer(404, {})
        if self._now() < job.ends_at:
            if self._chance.random() < self.trouble * 2:
                return _answer(400, {"error": "not now"})
            job.ends_at, job.end = self._now() + self._chance.uniform(0, 5), "cancelled"
        return _answer(200, {})


def _answer(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer:  # noqa: ANN401 - any JSON
    return Answer(status=status, headers=headers or {}, body=msgspec.json.encode(body))


def _text(body: str) -> Answer:
    return Answer(status=200, headers={"content-type": "text/html"}, body=body.encode())
