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
    (
        {"upstream"},
        {"empty-line"},
        (200, b"1"),
        "An empty line cannot be mistaken for an answer, and RFC 9112 (2.2) has readers skip it; the one parser does.",
    ),
    (
        {"proxy-plain"},
        {"refused", "unresolvable"},
        (502, b""),
        "A proxy takes a request for an http provider before it connects; its answer is all that can be seen.",
    ),
    (
        {"proxy-plain"},
        {"connect-timeout"},
        httpx2.ReadTimeout,
        "As above: the request is sent, and nobody but the proxy knows how far.",
    ),
]
"""Kinds of transport, cases, what these come to there, the reason."""
