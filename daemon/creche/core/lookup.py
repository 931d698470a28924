"""Looks in a provider's list for the job of a create that may have arrived, by the token that the create sent along.

That a job is not there proves something only when all was seen that could be it: the whole list, or as far back as the
create was sent.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from creche.core.binding import JOB_LIMIT, Binding
from creche.core.exchange import Answer, Call
from creche.core.listing import Pages
from creche.core.reading import JobStatus, Reading, check_length, excerpt, found_at, raw_at
from creche.core.task import Task
from creche.core.template import point
from creche.errors import AnswerError

SKEW_S = 300.0
"""By how much the provider's clock may differ from ours."""

_MILLISECONDS_FROM = 1e11
"""A number beyond this is a time in milliseconds: in seconds it would be the year 5138."""


class Search:
    """One search through the `[lookup]` of a binding's recipe, which must have one.

    `call` is what to send next, None when all was seen that need be.
    """

    def __init__(self, binding: Binding, task: Task) -> None:
        step = binding.recipe.lookup
        assert step is not None, "whoever makes it has looked"  # noqa: S101 - a defect of the caller
        self._step = step
        self._binding = binding
        self._task = task
        self._since = (task.sent.since if task.sent is not None else task.accepted_at) - SKEW_S
        self._jobs: dict[str, Reading] = {}
        self._complete = False
        self.call: Call | None = binding.lookup_call(step.url, task)
        self._pages = Pages(step, self.call.url)

    def take(self, answer: Answer) -> None:
        """Look through the answer to `call`. Raises as `Provider.poll`."""
        call, self.call = self.call, None
        assert call is not None, "there was a request"  # noqa: S101 - a defect of the caller
        if answer.status in self._step.empty:
            self._complete = True
            return
        self._binding.check_list(answer)
        items = self._items(answer)
        for item in items:
            self._pages.count(self._step.id.find(answer, item))
            if self._step.tag.find(answer, item) == self._task.token:
                self._note(answer, item)
        following = self._pages.behind(answer, call.url)
        self._complete = following is None or self._is_behind(items)
        if not self._complete and not self._jobs and self._pages.left and following is not None:
            self.call = self._binding.lookup_call(following, self._task)

    def result(self) -> Reading | None:
        """The job as a create's answer would tell it; None where there certainly was none when the search began.

        Raises `AnswerError` where that cannot be said: the list goes on, or has several.
        """
        if len(self._jobs) > 1:
            raise AnswerError(f"several jobs carry the token of one create: {', '.join(self._jobs)}")
        if self._jobs:
            return next(iter(self._jobs.values()))
        if not self._complete:
            raise AnswerError(f"no job with the create's token on {self._step.pages} pages, and the list goes on")
        return None

    def _items(self, answer: Answer) -> list[Any]:
        try:
            return msgspec.json.decode(raw_at(answer.body, self._step.items), type=list[Any])
        except msgspec.ValidationError as exc:
            shown = excerpt(answer.body, self._binding.redaction)
            raise AnswerError(f"no list of jobs at {self._step.items!r} in the answer: {shown}") from exc

    def _note(self, answer: Answer, item: Any) -> None:  # noqa: ANN401 - any JSON
        job = self._step.id.find(answer, item)
        if not job:
            raise AnswerError("the job was found by its create's token, but without an id")
        check_length("the job's id", job, JOB_LIMIT)
        keep = found_at(self._step.keep, answer, item)
        self._jobs[job] = Reading(status=JobStatus.WAITING, job=job, keep=keep)

    def _is_behind(self, items: list[Any]) -> bool:
        """Whether the page ends with jobs that were made before our create was sent, and so do all behind it.

        Not where the newest do not come first, whatever the recipe says: then ours would be on the last page.
        """
        if self._step.created is None:
            return False
        times = [_unix_s(point(item, self._step.created)) for item in items]
        made_at = [moment for moment in times if moment is not None]
        return 1 < len(made_at) == len(times) and made_at == sorted(made_at, reverse=True) and made_at[-1] < self._since


def _unix_s(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value / 1000 if value > _MILLISECONDS_FROM else float(value)
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None
