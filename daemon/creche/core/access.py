"""Who may do what over TCP. The Unix socket is guarded by its file mode and, if configured, by the peer's user id."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

import msgspec

from creche.core.exchange import Request, Response
from creche.core.wire import problem_response

SUBPROTOCOL = "creche"
"""What the stream speaks, where a listener asks for a subprotocol at all."""

_CREDENTIAL = "token."
"""Before the token, in base64url, which a browser can send as one more subprotocol, but in no header."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of the TCP listener. `token` None: none is asked for. `origins` are those of pages besides our own."""

    token: str | None = None
    allow_writes: bool = False
    origins: AbstractSet[str] = frozenset()

    def __repr__(self) -> str:
        return f"Access(allow_writes={self.allow_writes})"

    def refusal(
        self, request: Request, *, writes: bool = False, upgrades: bool = False, is_open: bool = False
    ) -> Response | None:
        """Why the request may not be served, or None when it may. What `is_open` needs no token."""
        if request.peer.local:
            return None
        if self.token is not None and not is_open and not self._has_token(request):
            detail = "a token is needed: Authorization: Bearer TOKEN"
            return _with_challenge(problem_response(401, "unauthorized", detail))
        # A browser sends cross-site upgrades and simple POSTs without asking; only the Origin gives them away.
        if (writes or upgrades) and not self._may_come_from(request):
            return problem_response(
                403, "forbidden_origin", "pages of this origin are not allowed here ([tcp] origins)"
            )
        if writes and not (self.allow_writes and self.token is not None):
            detail = "this listener only reads; use the Unix socket, or set [tcp] token and allow_writes"
            return problem_response(403, "read_only", detail)
        return None

    def _has_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            # A browser's WebSocket cannot send the header.
            given = dict(request.query).get("token") or _token_among(subprotocols(request))
        return hmac.compare_digest(given.strip().encode(), (self.token or "").encode())

    def _may_come_from(self, request: Request) -> bool:
        origin = request.headers.get("origin")
        if origin is None or origin in self.origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return bool(parts.netloc) and parts.netloc.lower() == request.headers.get("host", "").lower()


def subprotocols(request: Request) -> list[str]:
    """What a listener offers to speak, in its order (RFC 6455 §1.9)."""
    return [name.strip() for name in request.headers.get("sec-websocket-protocol", "").split(",")]


def _token_among(names: Sequence[str]) -> str:
    for name in names:
        if name.startswith(_CREDENTIAL):
            text = name.removeprefix(_CREDENTIAL)
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except ValueError:  # of which what is no base64 and what is no UTF-8 are
                return ""
    return ""


def _with_challenge(response: Response) -> Response:
    return msgspec.structs.replace(response, headers=(*response.headers, ("WWW-Authenticate", "Bearer")))
