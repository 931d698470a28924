"""Tokens as a browser's WebSocket can send them: among its subprotocols. All else is tested through the daemon."""

from __future__ import annotations

import base64

import pytest

from creche.core.access import Access
from creche.core.exchange import Peer, Request

TOKEN = "s3crét/+?"
ENCODED = base64.urlsafe_b64encode(TOKEN.encode()).decode()
GUARDED = Access(token=TOKEN)


def refused(protocols: str) -> bool:
    headers = {"host": "creche", "sec-websocket-protocol": protocols}
    peer = Peer(address="a:1", local=False)
    request = Request(method="GET", path="/v1/stream", query=(), headers=headers, body=b"", peer=peer)
    return GUARDED.refusal(request, upgrades=True) is not None


@pytest.mark.parametrize("protocols", [f"creche, token.{ENCODED}", f"token.{ENCODED.rstrip('=')}"])
def test_a_token_among_the_subprotocols(protocols: str) -> None:
    """In base64url, with or without its padding."""
    assert not refused(protocols)


@pytest.mark.parametrize(
    "protocols", ["", "creche", "creche, token.", f"creche, {ENCODED}", "creche, token.!", "token.AAAA", "token._w"]
)
def test_what_is_no_token(protocols: str) -> None:
    """Another one, none, and what cannot be read."""
    assert refused(protocols)
