"""A recipe bound to one algorithm's parameters: writes requests (`core.calls`), reads answers (`core.answers`).

Recipes can move single HTTP statuses from one kind of error to another. Nothing here sends anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from creche.core.answers import Answers
from creche.core.assets import urls_in
from creche.core.calls import Calls
from creche.core.classify import AWAY, CREDENTIALS, is_refusal
from creche.core.envelope import Verdict
from creche.core.exchange import Answer, Call
from creche.core.reading import (
    JobStatus,
    Reading,
    Redaction,
    as_json_text,
    check_body,
    check_length,
    decode_body,
    error_text,
    excerpt,
    found_at,
    json_lines,
    raw_at,
    retry_after_s,
)
from creche.core.recipe import Recipe
from creche.core.recipe_steps import CreateStep, FetchStep
from creche.core.task import Job, Task
from creche.core.template import MissingValue, fill_url
from creche.core.way import Way
from creche.errors import AnswerError, CreateRefused, CreateUncertain, CredentialsRefused, Throttled

EXISTS_BYTES = 4096
"""How much of a refusal is searched for the words that there is a job already."""

FILE_HEADERS = (("Accept", "*/*"), ("User-Agent", "creche"))

JOB_LIMIT = 2000
"""Characters of a job's id that are taken from a provider: it stands in every record and log line of its task."""


class Binding:
    """One recipe, one account. `params` hold every parameter of the recipe; `secret` is never shown."""

    def __init__(self, recipe: Recipe, *, base: str, params: Mapping[str, Any], secret: str | None) -> None:
        self.recipe = recipe
        self.calls = Calls(recipe, base=base, params=params, secret=secret)
        self._answers = Answers(recipe, self.calls)
        self.read_poll = self._answers.read_poll
        self.gist = self._answers.gist

    @property
    def redaction(self) -> Redaction:
        """For whatever is said about a request and its answer."""
        return self.calls.redaction

    # -- create --

    @property
    def way(self) -> Way:
        """How creates go. The secret is no part of it: a key that was renewed changes nothing."""
        create, lookup = self.recipe.create, self.recipe.lookup
        if create is None:
            return Way()
        form = (create.body, create.encoding)
        sent = (create.method, create.url, self.calls.headers_of(create), form, create.repeat, lookup)
        place = (self.calls.base, self.calls.params, sent)
        return Way(
            repeat=create.repeat,
            digest=hashlib.sha256(msgspec.json.encode(place, order="sorted")).hexdigest()[:16],
            within_s=create.repeat_within_s,
            appears_within_s=lookup.appears_within_s if lookup is not None else 0.0,
        )

    def create_call(self, task: Task) -> Call:
        """The request that makes the job. Raises `CreateRefused` when the recipe cannot create."""
        step = self.recipe.create
        if step is None:
            raise CreateRefused(f'recipe "{self.recipe.name}" only attaches to jobs that exist: submit "job"')
        try:
            call = self.calls.write(step, self.calls.names(task=task), task.input)
        except MissingValue as exc:
            raise CreateRefused(f'the create request needs a value for "{exc.args[0]}"') from exc
        except (msgspec.DecodeError, RecursionError) as exc:
            raise CreateRefused(f"the input cannot be taken apart: {exc}") from exc
        except AnswerError as exc:
            raise CreateRefused(str(exc)) from exc  # nothing was sent, and there is no doubt about that
        # A loss must not be mistaken for a stale kept-alive connection where nothing makes the create safe to repeat,
        # and where the transport would repeat it by itself: should that fail, the first may have arrived.
        fresh = step.repeat in {"none", "lookup"} or step.method == "GET"
        # The trace goes on at the provider (W3C Trace Context), unless the recipe has that header for something.
        names = {name.lower() for name, _ in call.headers}
        trace = (("traceparent", task.traceparent),) if task.traceparent and "traceparent" not in names else ()
        return msgspec.structs.replace(call, fresh=fresh, headers=(*call.headers, *trace)) if fresh or trace else call

    def read_create(self, answer: Answer, task: Task) -> Reading:
        """What the create's answer says: the job's id at least. Raises as `Provider.create`."""
        step = self.recipe.create
        assert step is not None, "create_call comes first"  # noqa: S101 - a defect of the caller
        hint_s = retry_after_s(answer)
        verdict = self._answers.verdict(answer)
        if step.repeat == "id" and _exists(step, answer):
            return Reading(status=JobStatus.WAITING, job=task.token)
        if verdict is Verdict.CREDENTIALS:
            raise CredentialsRefused(self._answers.complaint(answer), retry_after_s=hint_s)
        if answer.status in step.busy or verdict is Verdict.BUSY:
            raise Throttled(self._answers.complaint(answer), retry_after_s=hint_s)
        if answer.status in CREDENTIALS:
            raise CredentialsRefused(self._answers.complaint(answer), retry_after_s=hint_s)
        if answer.status == 408 or answer.status >= 500:  # noqa: PLR2004 - request time-out
            away = answer.status in AWAY
            raise CreateUncertain(self._answers.complaint(answer), retry_after_s=hint_s, answered=not away)
        if 300 <= answer.status < 400:  # noqa: PLR2004
            # Redirecting after a POST is how some say "done", and we do not look where to.
            message = f"{self._answers.complaint(answer)} (redirects are not followed)"
            raise CreateUncertain(message, retry_after_s=hint_s, answered=True)
        if not 200 <= answer.status < 300 or verdict is not Verdict.GOOD:  # noqa: PLR2004
            # What the Idempotency-Key draft of the IETF prescribes while the first request is being worked on.
            in_progress = answer.status == 409 and step.repeat in {"token", "id"}  # noqa: PLR2004
            raise CreateRefused(self._answers.complaint(answer), in_progress=in_progress, retry_after_s=hint_s)
        return self._read_created(answer, task)

    def _read_created(self, answer: Answer, task: Task) -> Reading:
        step = self.recipe.create
        assert step is not None, "create_call comes first"  # noqa: S101 - a defect of the caller
        body = None
        # Somebody else's page tells of no job; but where its id is ours, and no `id` is named, no body is needed.
        if step.id is not None or step.repeat != "id":
            try:
                body = decode_body(answer, self.redaction)
            except AnswerError as exc:
                raise CreateUncertain(str(exc), answered=True) from exc
        job = step.id.find(answer, body) if step.id is not None else None
        if not job and step.repeat == "id":
            job = task.token
        if not job:
            shown = excerpt(answer.body, self.redaction)  # it took the request, so a job may well be running
            raise CreateUncertain(f"HTTP {answer.status}, but no job id in it: {shown}", answered=True)
        try:
            check_length("the job's id", job, JOB_LIMIT)
            reading = self._answers.reading(answer, body, created=True) if step.tells_state else None
            reading = reading or Reading(status=JobStatus.WAITING)
            keep = {**reading.keep, **found_at(step.keep, answer, body)}
        except AnswerError as exc:
            raise CreateUncertain(f"HTTP {answer.status}, but {exc}", answered=True) from exc
        return msgspec.structs.replace(reading, job=job, keep=keep)

    # -- poll --

    def poll_call(self, job: Job) -> Call:
        """The request that asks for the job's state."""
        return self.calls.about_job(self.recipe.poll, job)

    # -- lists: what `core.many` and `core.lookup` need --

    def many_call(self, target: str, ids: Sequence[str]) -> Call:
        """The recipe's request about many jobs, at `target`: its URL template, or a URL that an answer named."""
        step = self.recipe.many
        assert step is not None, "whoever asks has looked"  # noqa: S101 - a defect of the caller
        names = {**self.calls.names(), "ids": step.separator.join(ids)}
        return self.calls.write(step, names, target=target, ids=list(ids))

    def lookup_call(self, target: str, task: Task) -> Call:
        """The recipe's request for the list in which a task's job may be, likewise. Raises `AnswerError`."""
        step = self.recipe.lookup
        assert step is not None, "whoever asks has looked"  # noqa: S101 - a defect of the caller
        try:
            return self.calls.write(step, self.calls.names(task=task), target=target)
        except MissingValue as exc:
            raise AnswerError(f'the search needs a value for "{exc.args[0]}"') from exc

    def check_list(self, answer: Answer) -> None:
        """Raise as `Provider.poll` where the answer is an error or no JSON."""
        self._answers.check(answer)
        check_body(answer, self.redaction)

    # -- fetch --

    def fetch_call(self, job: Job) -> Call | None:
        """The request for the result; None when the job named nothing to fetch."""
        step = self.recipe.fetch
        assert step is not None, "a reading said to_fetch"  # noqa: S101 - a defect of the caller
        try:
            return self.calls.write(step, self.calls.names(job=job))
        except MissingValue:
            return None

    def read_fetch(self, answer: Answer, reading: Reading) -> Reading:
        """The end with its result, or the failure that the second request revealed.

        A job that failed already has nothing to lose: whatever is refused then is read as its message.
        """
        step = self.recipe.fetch
        assert step is not None, "fetch_call comes first"  # noqa: S101 - a defect of the caller
        succeeded = reading.status is JobStatus.SUCCEEDED
        if answer.status in step.failed or (not succeeded and is_refusal(self._answers.status_of(answer))):
            message = self._answers.complaint(answer, step.error)
            status = JobStatus.FAILED if succeeded else reading.status
            return msgspec.structs.replace(reading, status=status, message=message, to_fetch=False)
        self._answers.check(answer)
        message = reading.message
        if not succeeded:
            with suppress(AnswerError):
                message = error_text(decode_body(answer, self.redaction), step.error, self.redaction) or message
        try:
            result = self._result(step, answer)
        except AnswerError:
            # Unless it is somebody else's page, it will not be given out again, and was paid for.
            if not step.once or "html" in answer.headers.get("content-type", ""):
                raise
            result = as_json_text(answer.body)
        return msgspec.structs.replace(reading, result=result, message=message, to_fetch=False)

    def _result(self, step: FetchStep, answer: Answer) -> msgspec.Raw:
        match step.format:
            case "text":
                return as_json_text(answer.body)
            case "jsonl":
                return json_lines(answer, self.redaction)
            case "binary":
                return _as_file(answer)
        check_body(answer, self.redaction)
        return raw_at(answer.body, step.result)

    def asset_calls(self, job: Job, reading: Reading) -> list[Call]:
        """The requests for the files of a result. Raises `AnswerError`."""
        assets = self.recipe.assets
        if assets is None:
            return []
        urls = urls_in(reading.result, assets.urls)
        if assets.url:
            try:
                urls = [fill_url(assets.url, self.calls.names(job=job))]
            except MissingValue as exc:
                raise AnswerError(f'the file needs "{exc.args[0]}", which no answer of the provider named') from exc
        return [self.calls.at(self.calls.whole(url), "GET", list(FILE_HEADERS)) for url in urls]

    # -- cancel --

    def cancel_call(self, job: Job) -> Call | None:
        """The request that ends the job; None when the provider has none."""
        return self.calls.about_job(self.recipe.cancel, job) if self.recipe.cancel is not None else None

    def read_cancel(self, answer: Answer) -> bool:
        """Whether the provider agreed. Any error but a plain refusal (4xx) is raised: ask again later."""
        step = self.recipe.cancel
        assert step is not None, "cancel_call comes first"  # noqa: S101 - a defect of the caller
        status = self._answers.status_of(answer)
        if status in step.agreed:
            return True
        if is_refusal(status) and status < 500:  # noqa: PLR2004
            return False
        self._answers.check(answer)
        return self._answers.fail(answer)


def _exists(step: CreateStep, answer: Answer) -> bool:
    """Whether a create was refused because there is a job of this id."""
    text = answer.body[:EXISTS_BYTES].decode("utf-8", "replace")
    return answer.status in step.exists and re.search(step.exists_pattern, text) is not None


def _as_file(answer: Answer) -> msgspec.Raw:
    """A body that is no text, as JSON."""
    media_type = answer.headers.get("content-type", "application/octet-stream")
    file = {"media_type": media_type, "bytes": len(answer.body), "base64": base64.b64encode(answer.body).decode()}
    return msgspec.Raw(msgspec.json.encode(file))
