"""What one job does: the member `simulate` of the body that creates it. All of its members may be left out:

queue, run, pauses   durations such as "5s": how long it is queued, runs, and is paused in the middle of the run
end                  "succeeded", "failed", "cancelled", "expired" or "never"
output               any JSON; without it the body's `prompt`, else {"ok": true}
message              the error's text, for bad ends
separate_result      true: the output is only at the result's URL
statuses             a list of words to show instead of "running"
latency              a duration, before every answer about the job
retry_after          seconds, a header of every poll's answer
errors               {"poll": [500, 0], "result": […], "cancel": […]}: HTTP statuses for the first requests
create_errors        the same for the first creates; also -1
lost_reply           true: like a -1 at the end of `create_errors`
refuse_cancel        true: cancels are answered 422
tag                  what `GET /v1/stats?tags=1` counts the job under

In lists of HTTP statuses 0 closes the connection instead, and -1 does so with the work done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from creche.core.document import Table

DROP = 0
"""In a list of faults: close the connection without doing what was asked."""

LOSE_REPLY = -1
"""In a list of faults: do what was asked, then close the connection."""

ENDS = ("succeeded", "failed", "cancelled", "expired", "never")


class Invalid(Exception):
    """A request's body cannot be used; the message names every mistake, `status` and `code` are for the answer."""

    def __init__(self, message: str, *, status: int = 422, code: str = "invalid_body") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """One job's life: `queue_s` queued, `run_s` running with a pause of `pause_s` in the middle, then `end`.

    `errors` are HTTP statuses for the first requests about the job, by `poll`, `result` and `cancel`; `create_errors`
    are those for the first creates; 2xx stands for the usual answer. `statuses` are words shown instead of "running",
    in equal shares. `latency_s` comes before every answer about the job. `output` is UNSET where the body's `prompt` is
    to be echoed.
    """

    queue_s: float = 1.0
    run_s: float = 5.0
    pause_s: float = 0.0
    end: str = "succeeded"
    output: Any = msgspec.UNSET
    message: str = "the script says so"
    latency_s: float = 0.0
    errors: Mapping[str, tuple[int, ...]] = {}
    create_errors: tuple[int, ...] = ()
    statuses: tuple[str, ...] = ()
    retry_after_s: float | None = None
    separate_result: bool = False
    refuse_cancel: bool = False
    tag: str | None = None

    @property
    def length_s(self) -> float:
        """From the create to the end; infinite for a job that never ends."""
        return math.inf if self.end == "never" else self.queue_s + self.run_s + self.pause_s


DEFAULT = Script()


def read_json(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    """The decoded body, None for an empty one. Raises `Invalid`."""
    try:
        return msgspec.json.decode(body or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Invalid(f"the body is no JSON: {exc}", status=400, code="invalid_json") from exc


def read_script(body: Any) -> Script:  # noqa: ANN401 - any JSON
    """The script in a create's decoded body, or the default one. Raises `Invalid`."""
    if not isinstance(body, dict) or "simulate" not in body:
        return DEFAULT
    data = body["simulate"]
    if not isinstance(data, dict):
        raise Invalid('body: simulate: expected an object such as {"run": "5s"}')
    mistakes: list[str] = []
    table = Table(data, "simulate", mistakes, "body")
    errors = table.table("errors")
    create_errors: tuple[int, ...] = table.value("create_errors", (), _create_faults)
    hint: float | None = table.value("retry_after", None, _seconds)
    script = Script(
        queue_s=table.duration("queue", DEFAULT.queue_s),
        run_s=table.duration("run", DEFAULT.run_s),
        pause_s=table.duration("pauses", DEFAULT.pause_s),
        end=table.choice("end", DEFAULT.end, ENDS),
        output=table.value("output", msgspec.UNSET, lambda tree: tree),
        message=table.text("message", DEFAULT.message),
        latency_s=table.duration("latency", DEFAULT.latency_s),
        errors={request: errors.value(request, (), _faults) for request in ("poll", "result", "cancel")},
        create_errors=(*create_errors, LOSE_REPLY) if table.flag("lost_reply") else create_errors,
        statuses=table.texts("statuses"),
        retry_after_s=hint,
        separate_result=table.flag("separate_result"),
        refuse_cancel=table.flag("refuse_cancel"),
        tag=table.text("tag") or None,
    )
    errors.close()
    table.close()
    if mistakes:
        raise Invalid("; ".join(mistakes))
    return script


def http_status(value: object) -> int:
    """An HTTP status that may be asked for: 1xx and 3xx would change what an answer is. Raises ValueError."""
    if type(value) is not int or not (200 <= value < 300 or 400 <= value < 600):  # noqa: PLR2004
        raise ValueError("expected HTTP statuses of 2xx, 4xx or 5xx")
    return value


def _faults(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError("expected a list of HTTP statuses")  # noqa: TRY004 - one kind of error for all mistakes
    return tuple(DROP if item == DROP else http_status(item) for item in value)


def _create_faults(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError("expected a list of HTTP statuses")  # noqa: TRY004 - one kind of error for all mistakes
    return tuple(LOSE_REPLY if item == LOSE_REPLY else _faults([item])[0] for item in value)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 3600:  # noqa: PLR2004
        raise ValueError("expected seconds from 0 to 3600")
    return float(value)
