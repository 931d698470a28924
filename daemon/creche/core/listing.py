"""The pages of a list: where an answer says that there is more."""

from __future__ import annotations

from urllib.parse import quote, urljoin

import msgspec

from creche.core.exchange import Answer
from creche.core.reading import KEEP_LIMIT, as_text, raw_at
from creche.core.recipe_steps import ListStep
from creche.core.template import fill_url


def next_url(step: ListStep, answer: Answer, *, here: str, first: str) -> str | None:
    """The URL of the page behind `answer`, which came from `here`; None when that was the last. `first` began it all.

    That an answer names a URL earns it no trust: see `Binding`.
    """
    if step.next is None:
        return None
    value = msgspec.json.decode(raw_at(answer.body, step.next))
    if value is None or isinstance(value, dict | list | bool) or not 0 < len(as_text(value)) <= KEEP_LIMIT:
        return None
    if step.next_param:
        name, cursor = (quote(text, safe="") for text in (step.next_param, as_text(value)))
        url = f"{first}{'&' if '?' in first else '?'}{name}={cursor}"
    else:
        try:
            url = urljoin(here, fill_url("{+next}", {"next": as_text(value)}))
        except ValueError:
            return None
    # What leads to where we are would do so for ever.
    return None if url == here else url
