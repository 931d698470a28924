"""What an answer means for a task, and when to ask again.

A `Poller` is the memory of one polling child: errors in a row, where on its curve it is. It does no waiting and no
asking; it is told of each answer and returns a `Decision`. Chance comes in as `dice`, a number from 0 to 1, so
that many tasks which began together drift apart and tests can say where they go.
"""

from __future__ import annotations

import msgspec

from creche.core.reading import JobStatus, Reading
from creche.core.task import Cancelled, Failed, Outcome, ServerFailed, Status, Succeeded
from creche.errors import CredentialsRefused, JobNotFound, Outage, ProviderError, Throttled

ERROR_WAIT_MAX_S = 60.0
"""No error makes a task wait longer than this by itself; a repaired provider is noticed within a minute."""

SPREAD = 0.1
"""Waits vary by this part of their length, upwards after a provider's hint, half up and half down otherwise."""

CONDITIONS = (Outage.code, Throttled.code, CredentialsRefused.code)
"""What can keep a provider from answering without counting against a task."""

RUNNING: dict[JobStatus, Status] = {
    JobStatus.WAITING: Status.WAITING,
    JobStatus.PROCESSING: Status.PROCESSING,
    JobStatus.PAUSED: Status.PAUSED,
}


class Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """How often to ask, in seconds, and how much to bear. `grow` multiplies the wait after each poll, up to
    `up_to_s`.
    """

    first_s: float = 0.0
    every_s: float = 3.0
    grow: float = 1.0
    up_to_s: float = 60.0
    grace_s: float = 10.0
    max_failures: int = 5


class Ask(msgspec.Struct, frozen=True):
    """Ask again in `seconds`. `condition` is one of `CONDITIONS` while the provider cannot be asked properly."""

    seconds: float
    condition: str | None = None


class End(msgspec.Struct, frozen=True):
    """The job is over."""

    outcome: Outcome


class Fetch(msgspec.Struct, frozen=True):
    """The job has ended, but the second request must complete its end."""

    reading: Reading


Decision = Ask | End | Fetch


def error_wait_s(every_s: float, errors: int, hint_s: float | None, dice: float) -> float:
    """Seconds to wait after the `errors`-th error in a row: doubling from `every_s`, or the provider's hint.

    A hint of no time at all is not followed: it would be a busy loop against a provider in trouble.
    """
    if hint_s is not None:
        return max(hint_s, min(every_s, 1.0)) * (1 + SPREAD * dice)
    wait_s = min(every_s * 2.0 ** min(errors - 1, 20), max(every_s, ERROR_WAIT_MAX_S))
    return wait_s * (1 - SPREAD / 2 + SPREAD * dice)


def outcome_of(reading: Reading, cancel_reason: str | None) -> Outcome:
    """The outcome of a reading that is an end."""
    match reading.status:
        case JobStatus.SUCCEEDED:
            return Succeeded(result=reading.result, partial=reading.partial)
        case JobStatus.CANCELLED:
            return Cancelled(reason=cancel_reason or "provider")
        case JobStatus.EXPIRED:
            return Failed(reason="expired", message=reading.message)
        case JobStatus.LOST:
            return Failed(reason="job_lost", message=reading.message)
        case _:
            return Failed(reason="provider", message=reading.message)


def attributed(outcome: Outcome, cancel_reason: str | None) -> Outcome:
    """The outcome as it is told: a job that was cancelled, and by a client of ours as far as anyone knows, was so."""
    if cancel_reason is not None and outcome == Cancelled(reason="provider"):
        return Cancelled(reason=cancel_reason)
    return outcome


class Poller:
    """The polling rules applied to one job."""

    __slots__ = ("_errors", "_hint_s", "_rhythm", "_wait_s", "failures", "last_error")

    def __init__(self, rhythm: Rhythm) -> None:
        self._rhythm = rhythm
        self.failures = 0
        self.last_error = ""
        self._errors = 0
        self._hint_s: float | None = None
        self._wait_s = rhythm.every_s

    @property
    def rhythm(self) -> Rhythm:
        """How often to ask. A changed one (the configuration was read again) begins its curve anew."""
        return self._rhythm

    @rhythm.setter
    def rhythm(self, rhythm: Rhythm) -> None:
        if rhythm is not self._rhythm:
            self._rhythm = rhythm
            self._wait_s = rhythm.every_s

    def good(
        self,
        reading: Reading,
        *,
        dice: float,
        cancel_reason: str | None = None,
        cancel_refused: bool = False,
    ) -> Decision:
        """A readable answer. It forgives all errors before it.

        A provider that refused our cancel and then says "cancelled" contradicts itself (BentoML's local server
        does, and the job then completes), so it is asked on until it says something else or the deadline passes.
        """
        doubtful = cancel_refused and reading.status is JobStatus.CANCELLED
        if not reading.status.running and not doubtful:
            # An end that is yet to be fetched forgives nothing: else failing fetches would never add up.
            return Fetch(reading) if reading.to_fetch else End(outcome_of(reading, cancel_reason))
        self._hint_s = reading.ask_again_s
        return self.same(dice=dice)

    def same(self, *, dice: float) -> Ask:
        """An answer that says of a running job what the last good one said."""
        self.failures = self._errors = 0
        self.last_error = ""
        if self._hint_s is not None:
            return Ask(max(0.05, self._hint_s * (1 + SPREAD * dice)))
        wait_s = self._wait_s * (1 - SPREAD / 2 + SPREAD * dice)
        self._wait_s = min(self._wait_s * self.rhythm.grow, max(self.rhythm.up_to_s, self.rhythm.every_s))
        return Ask(wait_s)

    def bad(self, error: ProviderError, *, dice: float, age_s: float, cancelled: str | None = None) -> Decision:
        """An answer that brought no reading, `age_s` seconds after the job became known.

        `cancelled` is the reason for which it was cancelled, once the provider has agreed: some then forget the job.
        """
        self.last_error = str(error)
        self._errors += 1
        wait_s = error_wait_s(self.rhythm.every_s, self._errors, error.retry_after_s, dice)
        if isinstance(error, Outage | Throttled | CredentialsRefused):
            return Ask(wait_s, error.code)
        if isinstance(error, JobNotFound):
            if age_s < self.rhythm.grace_s:
                return Ask(min(wait_s, max(0.1, self.rhythm.grace_s - age_s)))
            if cancelled is not None:
                return End(Cancelled(reason=cancelled))
            return End(Failed(reason="job_lost", message=str(error)))
        self.failures += 1
        if self.failures >= self.rhythm.max_failures:
            return End(ServerFailed(failures=self.failures, message=str(error)))
        return Ask(wait_s)
