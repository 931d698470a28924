"""What all transports say alike when something goes wrong. The words are shown to people."""

from __future__ import annotations

import ssl

import httpx2

CLOSED = "no more requests are sent"
"""Of calls to a transport that is closed."""

NOT_ALLOWED = "this node is cut off from its fleet, and sends no creates"
"""Of calls that may not be sent any more."""


def unreachable(error: Exception) -> str:
    """Why no connection came to be, of an `OSError` or `ValueError`: without numbers and places in C files."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'the connection was closed').replace('_', ' ').lower()}"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def no_turn(within_s: float) -> httpx2.PoolTimeout:
    """The call still waits in line."""
    return httpx2.PoolTimeout(f"no turn within {within_s:g} s: all connections are in use")


def no_connection(within_s: float) -> httpx2.ConnectTimeout:
    """The connection for the call is still being made."""
    return httpx2.ConnectTimeout(f"no connection within {within_s:g} s")


def no_answer(within_s: float, *, sending: bool) -> httpx2.TimeoutException:
    """The exchange takes too long. `sending`: a part of the request has not been sent yet."""
    if sending:
        return httpx2.WriteTimeout(f"the provider did not take the whole request within {within_s:g} s")
    return httpx2.ReadTimeout(f"no whole answer within {within_s:g} s")


def too_large(what: str, limit_bytes: int) -> str:
    """An answer is over its limit."""
    return f"the provider's {what} is larger than {limit_bytes} bytes, the limit of [upstream] max_answer"


def too_long_headers(whose: str, limit_bytes: int) -> str:
    """The head of an answer is over its limit."""
    return f"the headers of {whose}'s answer are larger than {limit_bytes} bytes"


def answers_nothing(status: int) -> str:
    """An answer with such a status cannot be one."""
    return f"the provider's answer has the status {status}, which answers no request of ours"
