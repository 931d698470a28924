"""What a provider's answer says about a job: rules and a status map, applied to HTTP status, headers and JSON body.

The order is fixed: the recipe's rules, first match wins; then the map of the provider's own status strings; a
string that is in neither is `processing` and marked as not known, because a provider's new word must never end a task.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

from creche.core.exchange import Answer
from creche.core.template import MISSING, point
from creche.errors import AnswerError

MESSAGE_LIMIT = 2000
"""Characters of a provider's error text that are kept; longer ones are stack traces that belong in its own logs."""

EXCERPT_LIMIT = 160
"""Characters of a body that a message shows."""

KEEP_LIMIT = 4000
"""Characters of a value that is kept from an answer: signed URLs are the longest."""

_HINT_LIMIT_S = 3600.0


class JobStatus(StrEnum):
    """What a provider says about a job; recipes map its words onto these."""

    WAITING = "waiting"
    PROCESSING = "processing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"

    @property
    def running(self) -> bool:
        """Whether the job goes on."""
        return self._value_ in _RUNNING  # a member's own hash is a call into Python


_RUNNING = frozenset({"waiting", "processing", "paused"})


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One good answer, read.

    `provider_status` is the provider's own word and `known` whether the recipe maps it. `job` and `keep` are what
    the answer told about the job (empty if nothing). `to_fetch` says that the end is not complete before
    `Provider.fetch`.
    `ask_again_s` is the provider's hint. `progress` runs from 0 to 1.
    """

    status: JobStatus
    provider_status: str | None = None
    known: bool = True
    job: str | None = None
    keep: Mapping[str, str] = {}
    progress: float | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    partial: bool = False
    message: str = ""
    to_fetch: bool = False
    ask_again_s: float | None = None


class Source(msgspec.Struct, frozen=True):
    """Where a value stands in an answer: at a pointer of the body or in a header; `pattern` takes its first group."""

    pointer: str | None = None
    header: str | None = None
    pattern: str | None = None

    def find(self, answer: Answer, body: Any) -> str | None:  # noqa: ANN401 - any JSON
        """The value as text, or None when it is not there, null, or the pattern does not match."""
        if self.header is not None:
            text = answer.headers.get(self.header)
        else:
            value = point(body, self.pointer or "")
            text = None if value is MISSING or value is None or isinstance(value, dict | list) else as_text(value)
        if text is None or self.pattern is None:
            return text
        match = re.search(self.pattern, text)
        return match[1] if match else None


class Progress(msgspec.Struct, frozen=True):
    """A number at `pointer`, divided by `of`: a constant, or the number at another pointer."""

    pointer: str
    of: float | str = 1.0

    def find(self, body: Any) -> float | None:  # noqa: ANN401 - any JSON
        """Progress from 0 to 1, or None."""
        done = point(body, self.pointer)
        whole = point(body, self.of) if isinstance(self.of, str) else self.of
        if not _is_number(done) or not _is_number(whole) or not whole > 0:
            return None
        try:
            return min(1.0, max(0.0, float(done / whole)))
        except OverflowError:
            return None


class Rule(msgspec.Struct, frozen=True):
    """When all conditions hold, the job is in `then`. Values are compared as text; null counts as absent."""

    then: JobStatus
    http: frozenset[int] = frozenset()
    equals: tuple[tuple[str, frozenset[str]], ...] = ()
    exists: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    partial: bool = False

    def matches(self, http_status: int, body: Any) -> bool:  # noqa: ANN401 - any JSON
        """Whether an answer meets all conditions."""
        return (
            (not self.http or http_status in self.http)
            and all(as_text(point(body, pointer)) in values for pointer, values in self.equals)
            and all(_present(body, pointer) for pointer in self.exists)
            and not any(_present(body, pointer) for pointer in self.absent)
        )


class Redaction:
    """Replaces an account's secret by `***` in texts for people: some providers echo what they are sent.

    `values` are the whole header values that carry it. Also found are the spellings of URLs, forms, JSON and HTML.
    """

    def __init__(self, secret: str | None, values: Iterable[str] = ()) -> None:
        spellings = {spelling for text in (secret, *values) if text for spelling in _spellings(text)}
        ordered = sorted(spellings, key=len, reverse=True)
        self._reach = len(ordered[0]) if ordered else 0
        self._pattern = re.compile("|".join(map(re.escape, ordered)), re.IGNORECASE) if ordered else None

    def hide(self, text: str, *, at_most: int) -> str:
        """The beginning of `text`, which may be long: `at_most` characters, fewer where a cut could split a secret."""
        window = text[: at_most + self._reach]
        hidden = window if self._pattern is None else self._pattern.sub("***", window)
        if len(window) < len(text):
            # What the window's own end may have split lies in these last characters.
            hidden = hidden[: max(0, len(hidden) - self._reach)]
        return hidden[:at_most]

    def hide_in_bytes(self, body: bytes, *, at_most: int) -> str:
        """As `hide`, of a body that should be UTF-8."""
        # No character has more than four bytes; one character more tells `hide` that this is not the end.
        return self.hide(body[: 4 * (at_most + self._reach + 1)].decode("utf-8", "replace"), at_most=at_most)


def _spellings(text: str) -> set[str]:
    as_json = json.dumps(text)[1:-1]
    return {
        text,
        quote(text),
        quote(text, safe=""),
        quote_plus(text),
        as_json,
        as_json.replace("/", "\\/"),
        html.escape(text),
    }


def as_text(value: object) -> str:
    """A JSON value as recipes compare it: true, null, 7 and "7" are written `true`, `null`, `7` and `7`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def error_text(body: Any, pointers: tuple[str, ...], redaction: Redaction) -> str:  # noqa: ANN401 - any JSON
    """The first error message that is there, redacted and shortened; a table or list is shown as JSON."""
    for pointer in pointers:
        value = point(body, pointer)
        if value is MISSING or value is None or value in ("", [], {}):
            continue
        text = msgspec.json.encode(value).decode() if isinstance(value, dict | list) else as_text(value)
        return _cut(redaction.hide(text, at_most=MESSAGE_LIMIT + 1), MESSAGE_LIMIT)
    return ""


def decode_body(answer: Answer, redaction: Redaction) -> Any:  # noqa: ANN401 - any JSON
    """The answer's JSON, None for an empty body. Raises `AnswerError` for anything else."""
    if not answer.body:
        return None
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _no_json(answer, redaction) from exc


def check_body(answer: Answer, redaction: Redaction) -> None:
    """Raises as `decode_body`, in a tenth of its time and memory: for large results, which nobody looks into."""
    if not answer.body:
        return
    try:
        answer.body.decode()  # `Raw` does not look into texts
        msgspec.json.decode(answer.body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _no_json(answer, redaction) from exc


def json_lines(answer: Answer, redaction: Redaction) -> msgspec.Raw:
    """JSON Lines as one JSON array, each line as the provider wrote it. Raises `AnswerError`."""
    try:
        answer.body.decode()  # rows stay as they are, and nobody looks into them otherwise
        rows = msgspec.json.Decoder(msgspec.Raw).decode_lines(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise AnswerError(f"the result is no JSON Lines: {excerpt(answer.body, redaction)}") from exc
    return msgspec.Raw(msgspec.json.encode(rows))


def as_json_text(body: bytes) -> msgspec.Raw:
    """The body as one JSON text, whatever it is."""
    return msgspec.Raw(msgspec.json.encode(body.decode("utf-8", "replace")))


def _no_json(answer: Answer, redaction: Redaction) -> AnswerError:
    return AnswerError(f"HTTP {answer.status}, but the body is no JSON: {excerpt(answer.body, redaction)}")


def raw_at(body: bytes, pointer: str) -> msgspec.Raw:
    """The bytes of the part that a pointer names, exactly as the provider wrote them; `null` where there is none."""
    raw = msgspec.Raw(body or b"null")
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        try:
            if name.isdecimal() and bytes(raw).lstrip().startswith(b"["):
                raw = msgspec.json.decode(raw, type=list[msgspec.Raw])[int(name)]
            else:
                raw = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])[name]
        except (KeyError, IndexError, msgspec.ValidationError):
            return msgspec.Raw(b"null")
    return raw.copy()


def excerpt(body: bytes, redaction: Redaction) -> str:
    """The beginning of a body, redacted, safe to show in one line of a log."""
    text = redaction.hide_in_bytes(body, at_most=4 * EXCERPT_LIMIT)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return _cut(line, EXCERPT_LIMIT)


def found_at(sources: Mapping[str, Source], answer: Answer, body: Any) -> dict[str, str]:  # noqa: ANN401 - any JSON
    """The values that are there, by name. Raises `AnswerError` for one that is too long."""
    values = {}
    for name, source in sources.items():
        value = source.find(answer, body)
        if value is not None:
            check_length(f'"keep.{name}"', value, KEEP_LIMIT)
            values[name] = value
    return values


def check_length(what: str, value: str, limit: int) -> None:
    """Raises `AnswerError`."""
    if len(value) > limit:
        raise AnswerError(f"{what} in the answer has {len(value)} characters, and at most {limit} are taken")


def retry_after_s(answer: Answer) -> float | None:
    """Retry-After (RFC 9110 §10.2.3) in seconds from now, from either form; None when absent or unreadable.

    A date is compared with the answer's own Date, so that no clock of ours takes part; without one it is ignored.
    """
    value = answer.headers.get("retry-after", "").strip()
    if not value:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return min(float(value), _HINT_LIMIT_S)
    try:
        until = _aware(parsedate_to_datetime(value))
        now = _aware(parsedate_to_datetime(answer.headers["date"]))
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, (until - now).total_seconds()), _HINT_LIMIT_S)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _present(body: Any, pointer: str) -> bool:  # noqa: ANN401 - any JSON
    value = point(body, pointer)
    return value is not MISSING and value is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
