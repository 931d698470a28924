"""AWS Batch as a provider of creche: `plugin = "aws-batch"`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import msgspec
from creche_aws_batch_sigv4 import Keys, signed

from creche.plugin import (
    Answer,
    AnswerError,
    Call,
    CreateRefused,
    CreateUncertain,
    CredentialsRefused,
    Job,
    JobNotFound,
    JobStatus,
    Outage,
    Parameter,
    Plugin,
    PluginProvider,
    ProviderError,
    Reading,
    Redaction,
    Settings,
    Task,
    Throttled,
    Way,
    error_of,
    retry_after_s,
)

STATUSES = {
    "SUBMITTED": JobStatus.WAITING,
    "PENDING": JobStatus.WAITING,
    "RUNNABLE": JobStatus.WAITING,
    "STARTING": JobStatus.WAITING,
    "RUNNING": JobStatus.PROCESSING,
    "SUCCEEDED": JobStatus.SUCCEEDED,
    "FAILED": JobStatus.FAILED,
}


class AwsBatch(PluginProvider):
    """One account, one region, one queue."""

    # The job's name has the create's token: after a lost answer it is looked for by that.
    way = Way(repeat="lookup", digest="aws-batch", within_s=86400.0, appears_within_s=30.0)
    batch = 100
    # A job that was terminated is FAILED.
    cancel_ends = frozenset({JobStatus.FAILED})

    def __init__(self, settings: Settings) -> None:
        secret = settings.secret or ""
        self._keys = Keys(*secret.split(":", 2)) if ":" in secret else Keys("", secret)
        self._settings = settings
        self._redaction = Redaction(secret, secret.split(":")[1:])
        self._base = settings.base or f"https://batch.{settings.params['region']}.amazonaws.com"
        # Who shares these asks for the same jobs; the access key is no secret.
        self.account = f"aws-batch {self._base} {self._keys.access}"

    async def create(self, task: Task) -> Reading:
        """As `Provider.create`."""
        own = {
            "jobName": _name_of(task),
            "jobQueue": self._settings.params["queue"],
            "jobDefinition": self._settings.params["definition"],
        }
        try:
            given = msgspec.json.decode(task.input or b"{}", type=dict[str, Any])
        except msgspec.ValidationError as exc:
            raise CreateRefused(f"the input must be an object: {exc}") from exc
        answer = await self._settings.http.create(self._call("submitjob", {**given, **own}, fresh=True))
        hint_s = retry_after_s(answer)
        if answer.status == 408 or answer.status >= 500:  # noqa: PLR2004 - it may have arrived
            raise CreateUncertain(self._complaint(answer), retry_after_s=hint_s)
        if not _is_good(answer):
            kind = error_of(answer.status)
            if kind in {CredentialsRefused, Throttled}:
                raise kind(self._complaint(answer), retry_after_s=hint_s)
            raise CreateRefused(self._complaint(answer), retry_after_s=hint_s)
        body = _json(answer)
        job = body.get("jobId") if isinstance(body, dict) else None
        if not isinstance(job, str) or not job:
            raise CreateUncertain(f"no jobId in the answer: {self._complaint(answer)}", answered=True)
        return Reading(status=JobStatus.WAITING, job=job)

    async def find(self, task: Task) -> Reading | None:
        """As `Provider.find`."""
        name = _name_of(task)
        wanted = {"jobQueue": self._settings.params["queue"], "filters": [{"name": "JOB_NAME", "values": [name]}]}
        jobs = [
            row["jobId"] for row in await self._rows("listjobs", wanted, "jobSummaryList") if row["jobName"] == name
        ]
        if len(jobs) > 1:
            raise AnswerError(f"several jobs are called {name}: {', '.join(jobs)}")
        return Reading(status=JobStatus.WAITING, job=jobs[0]) if jobs else None

    async def poll(self, job: Job) -> Reading:
        """As `Provider.poll_of`'s questions."""
        found = await self.poll_many([job])
        if job.id not in found:
            raise JobNotFound(f"no job {job.id}")
        return found[job.id]

    async def poll_many(self, jobs: Sequence[Job]) -> dict[str, Reading]:
        """As `Provider.poll_many`."""
        rows = await self._rows("describejobs", {"jobs": [job.id for job in jobs]}, "jobs")
        return dict(self._readings(rows))

    async def cancel(self, job: Job) -> bool:
        """As `Provider.cancel`. A job that is over is terminated without complaint."""
        await self._ask("terminatejob", {"jobId": job.id, "reason": "cancelled by creche"})
        return True

    def _readings(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, Reading]]:
        for row in rows:
            word, job = row.get("status"), row.get("jobId")
            if not isinstance(word, str) or not isinstance(job, str):
                continue
            status = STATUSES.get(word, JobStatus.PROCESSING)
            yield (
                job,
                Reading(
                    status=status,
                    provider_status=word[:100],
                    known=word in STATUSES,
                    result=msgspec.Raw(msgspec.json.encode(row))
                    if status is JobStatus.SUCCEEDED
                    else msgspec.Raw(b"null"),
                    message=str(row.get("statusReason", "")) if status is JobStatus.FAILED else "",
                ),
            )

    async def _rows(self, action: str, body: object, member: str) -> list[dict[str, Any]]:
        answer = await self._ask(action, body)
        document = _json(answer)
        rows = document.get(member) if isinstance(document, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise AnswerError(f"no {member} in the answer: {self._complaint(answer)}")
        return rows

    async def _ask(self, action: str, body: object) -> Answer:
        answer = await self._settings.http.ask(self._call(action, body))
        if not _is_good(answer):
            self._raise_for(answer)
        return answer

    def _raise_for(self, answer: Answer) -> NoReturn:
        kind: type[ProviderError] = Outage if answer.status == 500 else error_of(answer.status)  # noqa: PLR2004
        raise kind(self._complaint(answer), retry_after_s=retry_after_s(answer))

    def _call(self, action: str, body: object, *, fresh: bool = False) -> Call:
        url, data = f"{self._base}/v1/{action}", json.dumps(body).encode()
        headers = signed(
            self._keys,
            method="POST",
            url=url,
            body=data,
            now=self._settings.wall(),
            region=self._settings.params["region"],
            service="batch",
        )
        headers = (*headers, ("content-type", "application/json"), ("accept", "application/json"))
        return Call(method="POST", url=url, headers=headers, body=data, fresh=fresh)

    def _complaint(self, answer: Answer) -> str:
        return f"HTTP {answer.status}: {self._redaction.hide_in_bytes(answer.body, at_most=300)}"


def _name_of(task: Task) -> str:
    return f"creche-{task.token}"


def _is_good(answer: Answer) -> bool:
    return 200 <= answer.status < 300  # noqa: PLR2004


def _json(answer: Answer) -> Any:  # noqa: ANN401 - any JSON
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


PLUGIN = Plugin(
    title="AWS Batch",
    make=AwsBatch,
    params={
        "region": Parameter(about="the region: eu-central-1"),
        "queue": Parameter(about="the job queue's name or ARN"),
        "definition": Parameter(about="the job definition: name:revision, or its ARN"),
    },
)
