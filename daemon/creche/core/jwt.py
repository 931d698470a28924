"""JSON Web Tokens signed with the account's secret (RFC 7519, HS256 of RFC 7518), for APIs that take no plain key."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from creche.core.template import fill_body


class Jwt(msgspec.Struct, frozen=True, kw_only=True):
    """`claims` is a body template. A token is good for `lives_s` seconds, and from `early_s` before it was made."""

    claims: Mapping[str, Any]
    lives_s: float
    early_s: float

    def mint(self, params: Mapping[str, Any], secret: str, now: float) -> str:
        """The token at `now`, in Unix seconds."""
        claims = msgspec.json.decode(fill_body(self.claims, params, None))
        times = {"iat": int(now), "nbf": int(now - self.early_s), "exp": int(now + self.lives_s)}
        parts = ({"alg": "HS256", "typ": "JWT"}, {**times, **claims})
        signed = b".".join(_base64url(msgspec.json.encode(part)) for part in parts)
        signature = hmac.digest(secret.encode(), signed, hashlib.sha256)
        return b".".join((signed, _base64url(signature))).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
