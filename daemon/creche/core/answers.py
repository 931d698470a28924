"""Reads what an account's provider answers: what kind of error it is, and what it says about a job.

An error's kind is told by the envelope (`core.envelope`), where the recipe has one, then by the HTTP status
(`core.classify`). What is shown to people is redacted.
"""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec

from creche.core.calls import Calls
from creche.core.classify import error_of
from creche.core.envelope import Verdict
from creche.core.exchange import Answer
from creche.core.reading import (
    JobStatus,
    Reading,
    as_text,
    decode_body,
    error_text,
    excerpt,
    found_at,
    raw_at,
    retry_after_s,
)
from creche.core.recipe import Recipe
from creche.core.recipe_steps import PollStep
from creche.core.template import MISSING, point
from creche.errors import AnswerError

STATUS_LIMIT = 100
"""Characters of a provider's own status word."""

_MEANT = {Verdict.BUSY: 429, Verdict.CREDENTIALS: 401, Verdict.NOT_FOUND: 404}
_REFUSED = 400


class Answers:
    """Reads answers by one recipe; `calls` knows what must not be shown."""

    def __init__(self, recipe: Recipe, calls: Calls) -> None:
        self._recipe = recipe
        self._calls = calls
        step = recipe.poll
        self._headers = tuple(
            source.header
            for source in (*step.keep.values(), step.retry_after)
            if source is not None and source.header is not None
        )

    def verdict(self, answer: Answer) -> Verdict:
        """What the envelope of an answer says, which need not be JSON, nor small."""
        envelope = self._recipe.envelope
        if envelope is None:
            return Verdict.GOOD
        try:
            return envelope.verdict(decode_body(answer, self._calls.redaction))
        except AnswerError:
            return Verdict.GOOD  # whoever needs JSON finds out

    def status_of(self, answer: Answer) -> int:
        """The HTTP status that an answer means: the envelope's word comes before its own."""
        verdict = self.verdict(answer)
        if verdict is Verdict.REFUSED and _is_good(answer):
            return _REFUSED
        return _MEANT.get(verdict, answer.status)

    def check(self, answer: Answer) -> None:
        """Raise what an error answer is; nothing for a good one."""
        status = self.status_of(answer)
        if not _is_good(answer) or status != answer.status:
            raise error_of(status)(self.complaint(answer), retry_after_s=retry_after_s(answer))

    def fail(self, answer: Answer) -> NoReturn:
        """Raise what the HTTP status says."""
        raise error_of(answer.status)(self.complaint(answer), retry_after_s=retry_after_s(answer))

    def complaint(self, answer: Answer, pointers: tuple[str, ...] = ()) -> str:
        """What the provider said, redacted."""
        redaction = self._calls.redaction
        try:
            body = decode_body(answer, redaction)
        except AnswerError:
            body = None
        text = error_text(body, pointers or self._recipe.poll.error, redaction)
        text = text or excerpt(answer.body, redaction)
        return f"HTTP {answer.status}: {text}" if text else f"HTTP {answer.status}"

    # -- polls --

    def read_poll(self, answer: Answer) -> Reading:
        """What a poll's answer says. Raises as `Provider.poll`."""
        step = self._recipe.poll
        if not _is_good(answer) and not any(answer.status in rule.http for rule in step.rules):
            self.check(answer)
        try:
            body = decode_body(answer, self._calls.redaction)
        except AnswerError:
            if _is_good(answer):
                raise
            body = None
        reading = self.reading(answer, body)
        if reading is None:
            self.check(answer)
            shown = excerpt(answer.body, self._calls.redaction)
            raise AnswerError(f"no status at {step.status!r} in the answer: {shown}")
        return reading

    def gist(self, answer: Answer) -> tuple[object, ...] | None:
        """All of an answer to a poll that is looked at: answers of one gist read alike.

        None with a Retry-After, whose meaning depends on when it is said.
        """
        if "retry-after" in answer.headers:
            return None
        return (answer.status, answer.body, *map(answer.headers.get, self._headers))

    def reading(self, answer: Answer, body: Any, *, created: bool = False) -> Reading | None:  # noqa: ANN401 - any JSON
        """Rules, then the envelope, then the status map; None when none of them finds a status.

        Of an answer to a create the HTTP status says other things.
        """
        step = self._recipe.poll
        word: str | None = None
        if step.status is not None:
            value = point(body, step.status)
            word = None if value is MISSING or value is None else as_text(value)
        partial, known = False, True
        for rule in step.rules:
            if rule.matches(answer.status, body) and not (created and rule.http):
                status, partial = rule.then, rule.partial
                break
        else:
            envelope = self._recipe.envelope
            if word is None or not _is_good(answer):
                return None
            if envelope is not None and envelope.verdict(body) is not Verdict.GOOD:
                return None
            key = word.casefold() if step.ignore_case else word
            known = key in step.statuses
            status = step.statuses.get(key, JobStatus.PROCESSING)
        fetch = self._recipe.fetch
        redaction = self._calls.redaction
        succeeded = status is JobStatus.SUCCEEDED
        return Reading(
            status=status,
            provider_status=redaction.hide(word, at_most=STATUS_LIMIT) if word is not None else None,
            known=known,
            keep=found_at(step.keep, answer, body),
            progress=step.progress.find(body) if step.progress is not None else None,
            # A rule may read a success off the HTTP status of an answer that is no JSON.
            result=raw_at(answer.body, step.result) if succeeded and body is not None else msgspec.Raw(b"null"),
            partial=partial,
            message="" if status.running or succeeded else self._message(answer, body),
            to_fetch=fetch is not None and status in fetch.after,
            ask_again_s=self._hint(step, answer, body),
        )

    def _message(self, answer: Answer, body: Any) -> str:  # noqa: ANN401 - any JSON
        """Why a job did not succeed; of an error answer there is always something to say."""
        text = error_text(body, self._recipe.poll.error, self._calls.redaction)
        return text or ("" if _is_good(answer) else self.complaint(answer))

    def _hint(self, step: PollStep, answer: Answer, body: Any) -> float | None:  # noqa: ANN401 - any JSON
        if step.retry_after is not None:
            try:
                hint_s = float(step.retry_after.find(answer, body) or "")
            except ValueError:
                return retry_after_s(answer)
            # The comparison also sends away NaN.
            return min(hint_s, 3600.0) if hint_s >= 0 else None
        return retry_after_s(answer)


def _is_good(answer: Answer) -> bool:
    return 200 <= answer.status < 300  # noqa: PLR2004
