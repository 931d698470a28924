"""What the HTTP status of an error answer says about the provider (design: "Poll errors come in three kinds")."""

from __future__ import annotations

from creche.errors import AnswerError, CredentialsRefused, JobNotFound, Outage, ProviderError, Throttled

CREDENTIALS = frozenset({401, 402, 403})
"""The key is refused, spent, or not enough."""

AWAY = frozenset({408, 502, 503, 504})
"""Somebody on the way answers in the provider's place, or the provider says that it is not there."""

GONE = frozenset({404, 410})
TOO_MANY = 429


def error_of(status: int) -> type[ProviderError]:
    """The error that an answer with this status is, where a recipe does not say otherwise."""
    if status in CREDENTIALS:
        return CredentialsRefused
    if status == TOO_MANY:
        return Throttled
    if status in AWAY:
        return Outage
    return JobNotFound if status in GONE else AnswerError


def is_refusal(status: int) -> bool:
    """An error of the request itself: the provider is there, lets us in, and is not too busy."""
    return 400 <= status < 600 and status not in CREDENTIALS | AWAY | {TOO_MANY}  # noqa: PLR2004
