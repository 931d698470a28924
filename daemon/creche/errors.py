"""The errors of creche: one shallow tree.

Each class carries a `code`, a stable lower-case word that clients may match; the API, the CLI and the
logs show it. The message is one sentence for a person: what, where, and what instead.

Whose fault it is decides the branch: `RefusedError` is the client's, `UnavailableError` is ours and
passes, `ProviderError` is the provider's, `ConfigError` the operator's. Foreign exceptions (httpx2, sqlite3,
redis) are translated at the edge where they appear, with `from`.
"""

from __future__ import annotations

from typing import ClassVar


class CrecheError(Exception):
    """Base of everything that creche raises on purpose."""

    code: ClassVar[str] = "error"


class ConfigError(CrecheError):
    """The configuration cannot be used; `mistakes` names all of them, one line each."""

    code = "invalid_config"

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class RecipeError(CrecheError):
    """A recipe cannot be used; `mistakes` names all of them, each with its place in the file."""

    code = "invalid_recipe"

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class PluginError(CrecheError):
    """A plug-in cannot be used: it is not installed, or its package is broken."""

    code = "invalid_plugin"


class RecordingError(CrecheError):
    """A file of recorded answers cannot be used; the message says what is wrong and where."""

    code = "invalid_recording"


class StartError(CrecheError):
    """The daemon cannot start: an address is taken, a store is in use, a folder is not writable."""

    code = "cannot_start"


class BackupFailed(CrecheError):
    """A backup of the store was not made; nothing is left of it."""

    code = "backup_failed"


# -- the client's fault ------------------------------------------------------------------------------


class RefusedError(CrecheError):
    """The request cannot be served as it stands; sending it again unchanged will not help.

    `pointer` is the RFC 6901 JSON pointer to the offending part of the request body, where there is one.
    """

    code = "refused"

    def __init__(self, message: str, *, pointer: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer


class InvalidRequest(RefusedError):
    """The request body, a query parameter or a header is malformed."""

    code = "invalid_request"


class UnknownAlgorithm(RefusedError):
    """No `[algorithms.NAME]` table of config.toml has this name."""

    code = "unknown_algorithm"


class TaskNotFound(RefusedError):
    """No task has this id; it never existed, or retention has removed it."""

    code = "task_not_found"


class KeyConflict(RefusedError):
    """The `key` (or the `id`) was used before, for a task with other content."""

    code = "key_conflict"


class WrongStatus(RefusedError):
    """The task's status does not allow what was asked, for example resolving a task that is not unknown."""

    code = "wrong_status"


# -- ours, and it passes -----------------------------------------------------------------------------


class UnavailableError(CrecheError):
    """Nothing was done; the same request may succeed later."""

    code = "unavailable"


class Draining(UnavailableError):
    """The daemon is stopping and takes no new tasks."""

    code = "draining"


class TooManyTasks(UnavailableError):
    """As many tasks are unfinished as `[tasks] max` of config.toml allows."""

    code = "too_many_tasks"


class StoreUnavailable(UnavailableError):
    """The store cannot be written or read: disk full, file locked, file system read-only."""

    code = "store_unavailable"


class TaskLost(StoreUnavailable):
    """In a fleet: a failover of the server lost the task; the node that minds it puts it back."""


class NotOwner(UnavailableError):
    """In a fleet: this node was away for so long that others took its tasks; it begins anew."""

    code = "not_owner"


class HeartbeatsUnreachable(UnavailableError):
    """Redis did not take a beat; it is tried again at the next one."""

    code = "heartbeats_unreachable"


class AlreadySettled(CrecheError):
    """The store refused a second outcome for a task; the first one stands."""

    code = "already_settled"


# -- the provider's ----------------------------------------------------------------------------------


class ProviderError(CrecheError):
    """A request to a provider did not bring what it should.

    `retry_after_s` is what the provider said about when to come back, in seconds, or None.
    """

    code = "provider_error"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Outage(ProviderError):
    """The provider is away: no connection, time-out, 502, 503, 504. Never counts against a task.

    When a create raises this, the request has certainly not reached the provider.
    """

    code = "unreachable"


class Throttled(ProviderError):
    """The provider is there but says later: 429 or a busy code. Never counts against a task.

    When a create raises this, the provider has made no job.
    """

    code = "throttled"


class CredentialsRefused(ProviderError):
    """401, 402 or 403: the key is wrong, spent or not allowed. Tasks wait for it to be repaired."""

    code = "unauthorized"


class AnswerError(ProviderError):
    """The provider answered this task's request with an error or with something unreadable. Counts."""

    code = "answer_error"


class JobNotFound(ProviderError):
    """The provider does not know the job: just after the create it may not know it yet, later it is lost."""

    code = "job_not_found"


class CreateRefused(ProviderError):
    """The provider refused to make the job, for good; there is no job.

    `in_progress` tells the exception: a create with this token or id is under way already, so ask again later.
    """

    code = "create_refused"

    def __init__(self, message: str, *, retry_after_s: float | None = None, in_progress: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.in_progress = in_progress


class CreateUncertain(ProviderError):
    """The create request may or may not have made a job: the answer was lost, or says neither.

    `answered` tells the latter: the provider is there, but what it said is an error or cannot be read.
    """

    code = "create_uncertain"

    def __init__(self, message: str, *, retry_after_s: float | None = None, answered: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.answered = answered
