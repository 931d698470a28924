"""The pages of a list: where an answer says that there is more, and how the next is asked for."""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin

import msgspec

from creche.core.exchange import Answer
from creche.core.reading import KEEP_LIMIT, as_text, raw_at
from creche.core.recipe_steps import ListStep
from creche.core.template import fill_url


class Pages:
    """One walk through a list, page by page; `first` is the URL of the first. `left` pages may still be asked for.

    That an answer names a URL earns it no trust: see `core.calls`.
    """

    def __init__(self, step: ListStep, first: str) -> None:
        self._step = step
        self._first = first
        self.left = step.pages
        self._items = self._items_before = 0
        self._last_id: str | None = None

    def count(self, job_id: str | None) -> None:
        """There was an item, with this id."""
        self._items += 1
        self._last_id = job_id

    def behind(self, answer: Answer, here: str) -> str | None:
        """The URL of the page behind `answer`, which came from `here`, all of whose items were counted.

        None when that was the last.
        """
        self.left -= 1
        step, fresh = self._step, self._items - self._items_before
        self._items_before = self._items
        if step.more is not None and not msgspec.json.decode(raw_at(answer.body, step.more)):
            return None
        if step.next is not None:
            value = msgspec.json.decode(raw_at(answer.body, step.next))
            if value is None or isinstance(value, dict | list | bool) or not 0 < len(as_text(value)) <= KEEP_LIMIT:
                return None
            url = self._with(as_text(value)) if step.next_param else _joined(here, as_text(value))
        else:
            url = self._counted_on(here) if fresh else None
        # What leads to where we are would do so for ever.
        return None if url == here else url

    def _counted_on(self, here: str) -> str | None:
        """The next page of a list whose answers do not say which that is."""
        match self._step.next_by:
            case "last_id":
                return self._with(self._last_id) if self._last_id is not None else None
            case "offset":
                return self._with(str(self._number(self._first, 0) + self._items))
            case "page":
                return self._with(str(self._number(here, 1) + 1))
            case _:
                return None

    def _number(self, url: str, default: int) -> int:
        found = self._parameter().search(url)
        return int(found[2]) if found is not None and found[2].isdecimal() else default

    def _with(self, value: str) -> str:
        """The first page's URL with another value of the parameter."""
        name, value = (quote(text, safe="") for text in (self._step.next_param, value))
        found = self._parameter().search(self._first)
        if found is not None:
            return f"{self._first[: found.start(2)]}{value}{self._first[found.end(2) :]}"
        return f"{self._first}{'&' if '?' in self._first else '?'}{name}={value}"

    def _parameter(self) -> re.Pattern[str]:
        return re.compile(rf"([?&]{re.escape(quote(self._step.next_param, safe=''))}=)([^&#]*)")


def _joined(here: str, url: str) -> str | None:
    try:
        return urljoin(here, fill_url("{+next}", {"next": url}))
    except ValueError:
        return None
