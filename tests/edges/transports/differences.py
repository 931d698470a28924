"""Where the transports differ, and why that may be. What is not in this table is the same for all."""

from __future__ import annotations

import httpx2

DIFFERENCES: list[tuple[set[str], set[str], tuple[int, bytes] | type[Exception], str]] = [
    (
        {"upstream"},
        {"content-length-twice-the-same"},
        httpx2.RemoteProtocolError,
        "RFC 9110 (8.6) lets a reader refuse a repeated length or take it as one; each parser has its own way.",
    ),
]
"""Kinds of transport, cases, what these come to there, the reason."""
