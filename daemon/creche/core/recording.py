"""A provider's answers, written down: one job's life as JSON, to try a recipe with and to test it by.

What each member means is described in docs/reference/recordings.md, which a test compares with this module.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from creche.core.exchange import Answer, Call
from creche.core.reading import JobStatus
from creche.errors import RecordingError


class Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request as it must be. `url` begins with a slash, below `base`, or is whole; `headers` are some of them."""

    method: str
    url: str
    headers: dict[str, str] = {}
    body: Any = None
    text: str | None = None

    def differs(self, call: Call, base: str) -> str:
        """How a request that was written differs, in one line; empty where it does not."""
        url = base.rstrip("/") + self.url if self.url.startswith("/") else self.url
        if (call.method, call.url) != (self.method, url):
            return f"expected {self.method} {url}, got {call.method} {call.url}"
        sent = {name.lower(): value for name, value in call.headers}
        for name, value in self.headers.items():
            if sent.get(name.lower()) != value:
                return f"expected the header {name}: {value}, got {sent.get(name.lower())!r}"
        if self.text is not None:
            same = (call.body or b"").decode() == self.text
            return "" if same else f"expected the body {self.text!r}, got {call.body!r}"
        body = msgspec.json.decode(call.body) if call.body else None
        return "" if body == self.body else f"expected the body {_json(self.body)}, got {_json(body)}"


class Answered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"shape": "as"}):
    """An answer, its body as JSON, as `text` or as `base64`. `shape`: the type of the provider's SDK that reads it."""

    status: int = 200
    headers: dict[str, str] = {}
    body: Any = msgspec.UNSET
    text: str | None = None
    base64: str | None = None
    shape: str = ""

    def answer(self) -> Answer:
        """As a transport brings it."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.base64 is not None:
            body = base64.b64decode(self.base64)
        elif self.text is not None:
            body = self.text.encode()
        else:
            body = b"" if self.body is msgspec.UNSET else msgspec.json.encode(self.body)
            headers.setdefault("content-type", "application/json")
        return Answer(status=self.status, headers=headers, body=body)


class Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request and its answer."""

    request: Sent
    answer: Answered


class Scene(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A poll's answer and what it means: all else is only looked at where it is said."""

    means: JobStatus
    answer: Answered
    fetch: Exchange | None = None
    result: Any = msgspec.UNSET
    message: str | None = None
    partial: bool = False
    progress: float | None = None


class Cancel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cancel, and whether the provider agrees to it."""

    request: Sent
    answer: Answered
    agreed: bool = True


class ManyJobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request about several jobs: what its answer says of each."""

    jobs: dict[str, JobStatus]
    pages: list[Exchange]


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job's life at one provider, in the words of its API."""

    source: str
    job: str
    poll: Sent
    scenes: list[Scene]
    sdk: list[str] = []
    params: dict[str, str | int | float | bool] = {}
    base: str = ""
    input: Any = {}
    keep: dict[str, str] = {}
    create: Exchange | None = None
    lookup: list[Exchange] = []
    many: ManyJobs | None = None
    cancel: Cancel | None = None
    busy: list[Answered] = []
    refused: list[Answered] = []
    credentials: list[Answered] = []
    unknown_job: list[Answered] = []


def load_recording(data: bytes, source: str) -> Recording:
    """Read a recording. `source` names it in the message of `RecordingError`, which says what is wrong and where."""
    try:
        return msgspec.json.decode(data, type=Recording)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RecordingError(f"{source}: {exc}") from None


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
