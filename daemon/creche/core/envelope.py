"""What the body of an answer says about the request itself, where an API says it there and not by the HTTP status.

Many answer 200 to everything, and put a code of their own beside what was asked for.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from creche.core.reading import as_text
from creche.core.template import MISSING, point

Values = tuple[tuple[str, frozenset[str]], ...]
"""Which values are meant at which pointers. Compared as text."""


class Verdict(Enum):
    """What kind of answer it is."""

    GOOD = "good"
    REFUSED = "refused"
    BUSY = "busy"
    CREDENTIALS = "credentials"
    NOT_FOUND = "not_found"


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """`ok`: whatever stands at these pointers is one of these values, or the answer is a refusal.

    The others say which kind of refusal it is: when one of their values stands at one of their pointers.
    """

    ok: Values = ()
    busy: Values = ()
    credentials: Values = ()
    not_found: Values = ()

    def verdict(self, body: Any) -> Verdict:  # noqa: ANN401 - any JSON
        """What a JSON body says. One that has none of the members says nothing, which is good."""
        for verdict in (Verdict.BUSY, Verdict.CREDENTIALS, Verdict.NOT_FOUND):
            if any(as_text(value) in values for value, values in self._found(getattr(self, verdict.value), body)):
                return verdict
        good = all(as_text(value) in values for value, values in self._found(self.ok, body))
        return Verdict.GOOD if good else Verdict.REFUSED

    @staticmethod
    def _found(rows: Values, body: Any) -> list[tuple[Any, frozenset[str]]]:  # noqa: ANN401 - any JSON
        found = ((point(body, pointer), values) for pointer, values in rows)
        return [(value, values) for value, values in found if value is not MISSING and value not in (None, [], {})]
