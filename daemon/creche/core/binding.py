"""A recipe bound to one algorithm's parameters: writes requests, reads answers.

Recipes can move single HTTP statuses from one kind of error to another (`core.classify`). Nothing here sends anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

import msgspec

from creche.core.classify import AWAY, CREDENTIALS, error_of, is_refusal
from creche.core.exchange import Answer, Call
from creche.core.reading import (
    JobStatus,
    Reading,
    Redaction,
    as_json_text,
    as_text,
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
from creche.core.recipe_steps import FetchStep, PollStep, Step
from creche.core.task import Job, Task
from creche.core.template import MISSING, MissingValue, fill_body, fill_text, fill_url, point
from creche.core.way import Way
from creche.errors import (
    AnswerError,
    CreateRefused,
    CreateUncertain,
    CredentialsRefused,
    Throttled,
)

JOB_LIMIT = 2000
"""Characters of a job's id that are taken from a provider: it stands in every record and log line of its task."""

STATUS_LIMIT = 100
"""Characters of a provider's own status word."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Binding:
    """One recipe, one account. `params` hold every parameter of the recipe; `secret` is never shown.

    `base` is where paths begin; its origin, and those in the recipe's `origins`, are the only ones that ever see the
    credential: answers may name other URLs, and those are asked without it.
    """

    def __init__(self, recipe: Recipe, *, base: str, params: Mapping[str, Any], secret: str | None) -> None:
        self.recipe = recipe
        self._base = base.rstrip("/")
        self._params = dict(params)
        self._texts = {name: as_text(value) for name, value in params.items()}
        credentials = recipe.credentials.items() if secret else ()
        self._credentials = [(name, fill_text(value, {"secret": secret or ""})) for name, value in credentials]
        steps = (recipe.create, recipe.lookup, recipe.poll, recipe.many, recipe.fetch, recipe.cancel)
        self.redaction = Redaction(secret, [value for _, value in self._credentials])
        """For whatever is said about a request and its answer."""
        self._headers = {id(step): _merged(recipe, step) for step in steps if step is not None}
        sources = [*recipe.poll.keep.values(), recipe.poll.retry_after]
        self._poll_headers = tuple(
            source.header for source in sources if source is not None and source.header is not None
        )
        self._trusted = {_origin(url) for url in (base, *recipe.origins)}

    # -- create --

    @property
    def way(self) -> Way:
        """How creates go. The secret is no part of it: a key that was renewed changes nothing."""
        create, lookup = self.recipe.create, self.recipe.lookup
        if create is None:
            return Way()
        sent = (create.method, create.url, self._headers[id(create)], create.body, create.repeat, lookup)
        place = (self._base, self._params, sent)
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
            call = self._call(step, self._names(task_id=task.id, token=task.token, user=task.user), task.input)
        except MissingValue as exc:
            raise CreateRefused(f'the create request needs a value for "{exc.args[0]}"') from exc
        except msgspec.DecodeError as exc:
            raise CreateRefused(f"the input cannot be taken apart: {exc}") from exc
        # A loss must not be mistaken for a stale kept-alive connection where nothing makes the create safe to repeat,
        # and where the transport would repeat it by itself: should that fail, the first may have arrived.
        fresh = step.repeat in {"none", "lookup"} or step.method == "GET"
        return msgspec.structs.replace(call, fresh=True) if fresh else call

    def read_create(self, answer: Answer, task: Task) -> Reading:
        """What the create's answer says: the job's id at least. Raises as `Provider.create`."""
        step = self.recipe.create
        assert step is not None, "create_call comes first"  # noqa: S101 - a defect of the caller
        hint_s = retry_after_s(answer)
        if step.repeat == "id" and answer.status in step.exists:
            return Reading(status=JobStatus.WAITING, job=task.token)
        if answer.status in step.busy:
            raise Throttled(self._complaint(answer), retry_after_s=hint_s)
        if answer.status in CREDENTIALS:
            raise CredentialsRefused(self._complaint(answer), retry_after_s=hint_s)
        if answer.status == 408 or answer.status >= 500:  # noqa: PLR2004 - request time-out
            away = answer.status in AWAY
            raise CreateUncertain(self._complaint(answer), retry_after_s=hint_s, answered=not away)
        if 300 <= answer.status < 400:  # noqa: PLR2004
            # Redirecting after a POST is how some say "done", and we do not look where to.
            message = f"{self._complaint(answer)} (redirects are not followed)"
            raise CreateUncertain(message, retry_after_s=hint_s, answered=True)
        if not 200 <= answer.status < 300:  # noqa: PLR2004
            # What the Idempotency-Key draft of the IETF prescribes while the first request is being worked on.
            in_progress = answer.status == 409 and step.repeat in {"token", "id"}  # noqa: PLR2004
            raise CreateRefused(self._complaint(answer), in_progress=in_progress, retry_after_s=hint_s)
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
            reading = self._reading(answer, body) or Reading(status=JobStatus.WAITING)
            keep = {**reading.keep, **found_at(step.keep, answer, body)}
        except AnswerError as exc:
            raise CreateUncertain(f"HTTP {answer.status}, but {exc}", answered=True) from exc
        return msgspec.structs.replace(reading, job=job, keep=keep)

    # -- poll --

    def poll_call(self, job: Job) -> Call:
        """The request that asks for the job's state."""
        return self._job_call(self.recipe.poll, job)

    def read_poll(self, answer: Answer) -> Reading:
        """What a poll's answer says. Raises as `Provider.poll`."""
        step = self.recipe.poll
        if 200 <= answer.status < 300:  # noqa: PLR2004
            body = decode_body(answer, self.redaction)
            reading = self._reading(answer, body)
            if reading is None:
                shown = excerpt(answer.body, self.redaction)
                raise AnswerError(f"no status at {step.status!r} in the answer: {shown}")
            return reading
        if any(answer.status in rule.http for rule in step.rules):
            try:
                body = decode_body(answer, self.redaction)
            except AnswerError:
                body = None
            reading = self._reading(answer, body)
            if reading is not None:
                return reading
        self._raise_for(answer)

    def gist(self, answer: Answer) -> tuple[object, ...] | None:
        """All of an answer to a poll that is looked at: answers of one gist read alike.

        None with a Retry-After, whose meaning depends on when it is said.
        """
        if "retry-after" in answer.headers:
            return None
        return (answer.status, answer.body, *map(answer.headers.get, self._poll_headers))

    def _reading(self, answer: Answer, body: Any) -> Reading | None:  # noqa: ANN401 - any JSON
        """Rules, then the status map; None when neither finds a status."""
        step = self.recipe.poll
        word: str | None = None
        if step.status is not None:
            value = point(body, step.status)
            word = None if value is MISSING or value is None else as_text(value)
        partial, known = False, True
        for rule in step.rules:
            if rule.matches(answer.status, body):
                status, partial = rule.then, rule.partial
                break
        else:
            if word is None:
                return None
            known = word in step.statuses
            status = step.statuses.get(word, JobStatus.PROCESSING)
        fetch = self.recipe.fetch
        succeeded = status is JobStatus.SUCCEEDED
        return Reading(
            status=status,
            provider_status=self.redaction.hide(word, at_most=STATUS_LIMIT) if word is not None else None,
            known=known,
            keep=found_at(step.keep, answer, body),
            progress=step.progress.find(body) if step.progress is not None else None,
            # A rule may read a success off the HTTP status of an answer that is no JSON.
            result=raw_at(answer.body, step.result) if succeeded and body is not None else msgspec.Raw(b"null"),
            partial=partial,
            message="" if status.running or succeeded else error_text(body, step.error, self.redaction),
            to_fetch=fetch is not None and status in fetch.after,
            ask_again_s=self._hint(step, answer, body),
        )

    def _hint(self, step: PollStep, answer: Answer, body: Any) -> float | None:  # noqa: ANN401 - any JSON
        if step.retry_after is not None:
            try:
                hint_s = float(step.retry_after.find(answer, body) or "")
            except ValueError:
                return retry_after_s(answer)
            # The comparison also sends away NaN.
            return min(hint_s, 3600.0) if hint_s >= 0 else None
        return retry_after_s(answer)

    # -- lists: what `core.many` and `core.lookup` need --

    def many_call(self, target: str, ids: Sequence[str]) -> Call:
        """The recipe's request about many jobs, at `target`: its URL template, or a URL that an answer named."""
        step = self.recipe.many
        assert step is not None, "whoever asks has looked"  # noqa: S101 - a defect of the caller
        body = None if step.body is None else fill_body(step.body, {**self._params, "ids": ids}, None)
        names = {**self._texts, "ids": step.separator.join(ids)}
        return self._request(step, fill_url(target, names), names, body)

    def lookup_call(self, target: str, task: Task) -> Call:
        """The recipe's request for the list in which a task's job may be, likewise. Raises `AnswerError`."""
        step = self.recipe.lookup
        assert step is not None, "whoever asks has looked"  # noqa: S101 - a defect of the caller
        try:
            names = self._names(task_id=task.id, token=task.token, user=task.user)
            body = None if step.body is None else fill_body(step.body, {**names, **self._params}, None)
            return self._request(step, fill_url(target, names), names, body)
        except MissingValue as exc:
            raise AnswerError(f'the search needs a value for "{exc.args[0]}"') from exc

    def check_list(self, answer: Answer) -> None:
        """Raise as `Provider.poll` where the answer is an error or no JSON."""
        if not 200 <= answer.status < 300:  # noqa: PLR2004
            self._raise_for(answer)
        check_body(answer, self.redaction)

    # -- fetch --

    def fetch_call(self, job: Job) -> Call | None:
        """The request for the result; None when the job named nothing to fetch."""
        step = self.recipe.fetch
        assert step is not None, "a reading said to_fetch"  # noqa: S101 - a defect of the caller
        try:
            return self._call(step, self._names(job=job), None)
        except MissingValue:
            return None

    def read_fetch(self, answer: Answer, reading: Reading) -> Reading:
        """The end with its result, or the failure that the second request revealed.

        A job that failed already has nothing to lose: whatever is refused then is read as its message.
        """
        step = self.recipe.fetch
        assert step is not None, "fetch_call comes first"  # noqa: S101 - a defect of the caller
        succeeded = reading.status is JobStatus.SUCCEEDED
        if answer.status in step.failed or (not succeeded and is_refusal(answer.status)):
            message = self._complaint(answer, step.error)
            status = JobStatus.FAILED if succeeded else reading.status
            return msgspec.structs.replace(reading, status=status, message=message, to_fetch=False)
        if not 200 <= answer.status < 300:  # noqa: PLR2004
            self._raise_for(answer)
        try:
            result = self._result(step, answer)
        except AnswerError:
            # Unless it is somebody else's page, it will not be given out again, and was paid for.
            if not step.once or "html" in answer.headers.get("content-type", ""):
                raise
            result = as_json_text(answer.body)
        return msgspec.structs.replace(reading, result=result, to_fetch=False)

    def _result(self, step: FetchStep, answer: Answer) -> msgspec.Raw:
        if step.format == "text":
            return as_json_text(answer.body)
        if step.format == "jsonl":
            return json_lines(answer, self.redaction)
        check_body(answer, self.redaction)
        return raw_at(answer.body, step.result)

    # -- cancel --

    def cancel_call(self, job: Job) -> Call | None:
        """The request that ends the job; None when the provider has none."""
        return self._job_call(self.recipe.cancel, job) if self.recipe.cancel is not None else None

    def read_cancel(self, answer: Answer) -> bool:
        """Whether the provider agreed. Any error but a plain refusal (4xx) is raised: ask again later."""
        step = self.recipe.cancel
        assert step is not None, "cancel_call comes first"  # noqa: S101 - a defect of the caller
        if answer.status in step.agreed:
            return True
        if is_refusal(answer.status) and answer.status < 500:  # noqa: PLR2004
            return False
        self._raise_for(answer)

    # -- shared --

    def _names(
        self,
        *,
        job: Job | None = None,
        task_id: str | None = None,
        token: str | None = None,
        user: str | None = None,
    ) -> dict[str, str]:
        names = dict(self._texts)
        if job is not None:
            names["job"] = job.id
            names.update((f"keep.{name}", value) for name, value in job.keep.items())
        ours = {"task": task_id, "token": token, "user": user}
        names.update((name, value) for name, value in ours.items() if value is not None)
        return names

    def _job_call(self, step: Step, job: Job) -> Call:
        try:
            return self._call(step, self._names(job=job), None)
        except MissingValue as exc:
            raise AnswerError(f'the request needs "{exc.args[0]}", which no answer of the provider named') from exc

    def _call(self, step: Step, names: Mapping[str, str], task_input: msgspec.Raw | None) -> Call:
        target = fill_url(step.url, names)
        body = None
        if step.body is not None:
            body = fill_body(step.body, {**names, **self._params}, task_input)
        return self._request(step, target, names, body)

    def _request(self, step: Step, target: str, names: Mapping[str, str], body: bytes | None) -> Call:
        url = self._base + target if target.startswith("/") else target
        headers = [(name, fill_text(value, names)) for name, value in self._headers[id(step)]]
        if _origin(url) in self._trusted:
            headers += self._credentials
        return Call(method=step.method, url=url, headers=tuple(headers), body=body)

    def _raise_for(self, answer: Answer) -> NoReturn:
        raise error_of(answer.status)(self._complaint(answer), retry_after_s=retry_after_s(answer))

    def _complaint(self, answer: Answer, pointers: tuple[str, ...] = ()) -> str:
        """What the provider said, redacted."""
        try:
            body = decode_body(answer, self.redaction)
        except AnswerError:
            body = None
        text = error_text(body, pointers or self.recipe.poll.error, self.redaction)
        text = text or excerpt(answer.body, self.redaction)
        return f"HTTP {answer.status}: {text}" if text else f"HTTP {answer.status}"


def _merged(recipe: Recipe, step: Step) -> tuple[tuple[str, str], ...]:
    """Header templates of one step: ours, then the recipe's, then the step's; names differ by more than case."""
    ours = {"Accept": "application/json", "User-Agent": "creche"}
    if step.body is not None:
        ours["Content-Type"] = "application/json"
    merged = {name.lower(): (name, value) for name, value in ({**ours, **recipe.headers, **step.headers}).items()}
    return tuple(merged.values())


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port (RFC 6454); a URL that cannot be read has an origin that equals no other."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", url, None
