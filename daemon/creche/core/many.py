"""One request about many jobs: writes it, and finds each job in its answer.

An item of the answer is read as if it were the answer to the poll of its job, by the same rules. A job that is not in
the answer, or whose item cannot be read, is left out: that proves nothing, it is to be asked for by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from creche.core.binding import Binding
from creche.core.exchange import Answer, Call
from creche.core.listing import Pages
from creche.core.reading import Reading, excerpt, raw_at
from creche.core.task import Job
from creche.core.template import fill_url
from creche.errors import AnswerError


class Many:
    """The `[many]` of a binding's recipe, which must have one.

    `account` is equal for two of them exactly when one request can ask for the jobs of both: the requests are the
    same, credential and all, and so is what is made of the answers. It is a hash and shows no secret.
    """

    def __init__(self, binding: Binding) -> None:
        recipe = binding.recipe
        assert recipe.many is not None, "whoever makes it has looked"  # noqa: S101 - a defect of the caller
        self.step = recipe.many
        self._binding = binding
        members = [token.replace("~1", "/").replace("~0", "~") for token in self.step.item.split("/")[1:]]
        self._before = b"".join(b"{%s:" % msgspec.json.encode(member) for member in members)
        self._behind = b"}" * len(members)
        hint = recipe.poll.retry_after
        self._hints = {"retry-after", "date", hint.header if hint is not None else None}
        self.account = self._digest()

    def about(self, jobs: Sequence[Job]) -> Inquiry:
        """Begin to ask for some jobs, `step.max` at most."""
        return Inquiry(self, jobs)

    def first_call(self, ids: Sequence[str]) -> Call:
        """The request about the jobs with these ids."""
        target = self.step.url
        # Each is encoded by itself: what stands between them must not be.
        between = fill_url("{+separator}", {"separator": self.step.separator})
        for form in ("{ids}", "{+ids}"):
            if form in target:
                target = target.replace(form, between.join(fill_url(form, {"ids": job_id}) for job_id in ids))
        return self._binding.many_call(target, ids)

    def next_call(self, url: str, ids: Sequence[str]) -> Call:
        """The request for a further page."""
        return self._binding.many_call(url, ids)

    def read(self, answer: Answer, wanted: set[str], pages: Pages) -> dict[str, Reading]:
        """What the answer says about the jobs in `wanted`, by id; those that it mentions are taken out of the set.

        One that it mentions in vain is in neither: its item cannot be read, or tells too little of its end. Raises as
        `Provider.poll`.
        """
        self._binding.check_list(answer)
        # Other headers are about the request, not about each job.
        hints = {name: value for name, value in answer.headers.items() if name in self._hints}
        found = {}
        for job_id, item in self._items(answer):
            pages.count(job_id)
            if job_id is None or job_id not in wanted:
                continue
            wanted.discard(job_id)
            with suppress(AnswerError):
                body = b"".join((self._before, item, self._behind))
                reading = self._binding.read_poll(Answer(status=200, headers=hints, body=body))
                if reading.status.running or self.step.whole:
                    found[job_id] = reading
        return found

    def _items(self, answer: Answer) -> Iterator[tuple[str | None, msgspec.Raw]]:
        """Each item as the provider wrote it, with its job's id, if it has one."""
        step, part = self.step, raw_at(answer.body, self.step.items)
        try:
            if step.id is None:
                yield from msgspec.json.decode(part, type=dict[str, msgspec.Raw]).items()
                return
            items = msgspec.json.decode(part, type=list[msgspec.Raw])
        except msgspec.ValidationError as exc:
            shown = excerpt(answer.body, self._binding.redaction)
            what = "object keyed by jobs" if step.id is None else "list of jobs"
            raise AnswerError(f"no {what} at {step.items!r} in the answer: {shown}") from exc
        for item in items:
            yield step.id.find(answer, msgspec.json.decode(item)), item

    def _digest(self) -> str:
        recipe = self._binding.recipe
        request: dict[str, Any] = {"method": "", "url": "", "headers": {}, "body": None}
        rhythm = dict.fromkeys(("first_s", "every_s", "grow", "up_to_s", "grace_s"), 0.0)
        reading = (
            msgspec.structs.replace(self.step, **request),
            msgspec.structs.replace(recipe.poll, **request, **rhythm),
            recipe.fetch.after if recipe.fetch is not None else (),
        )
        return hashlib.sha256(msgspec.json.encode((self.first_call(()), reading), order="sorted")).hexdigest()


class Inquiry:
    """One round of asking: a request, and those for further pages of a list until each job was met or all was seen.

    `call` is what to send next, None when there is nothing more to ask.
    """

    def __init__(self, many: Many, jobs: Sequence[Job]) -> None:
        self._many = many
        self._ids = list(dict.fromkeys(job.id for job in jobs))
        self._wanted = set(self._ids)
        self.call: Call | None = many.first_call(self._ids)
        self._pages = Pages(many.step, self.call.url)

    def take(self, answer: Answer) -> dict[str, Reading]:
        """What the answer to `call` says, by job id. Raises as `Provider.poll`."""
        call = self.call
        assert call is not None, "there was a request"  # noqa: S101 - a defect of the caller
        found = self._many.read(answer, self._wanted, self._pages)
        self.call = None
        url = self._pages.behind(answer, call.url) if self._wanted else None
        if url is not None and self._pages.left:
            self.call = self._many.next_call(url, self._ids)
        return found
