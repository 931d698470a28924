"""A user's server that is told of outcomes, and checks signatures with the official library."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Any

from standardwebhooks import Webhook

from tests.process.running import eventually

SECRET = "whsec_" + 12 * "bWFk"
OTHER = "whsec_" + 12 * "b2xk"


class Receiver:
    """A user's server, on a thread. `status` is what it answers; `secrets` by path, with which it checks."""

    def __init__(self) -> None:
        self.status = 200
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.traces: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, bytes]] = []
        self.secrets = {"/hook": SECRET, "/callback": OTHER}
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/traces":
                    assert self.headers["Authorization"] == f"Bearer {SECRET}"
                    receiver.traces.append(json.loads(body))
                    self._answer()
                    return
                if self.path not in receiver.secrets:
                    receiver.requests.append((self.path, self.headers["Content-Type"], body))
                    self._answer()
                    return
                event = Webhook(receiver.secrets[self.path]).verify(body, dict(self.headers))
                receiver.ids.append(self.headers["webhook-id"])
                if receiver.status == 200:
                    receiver.events.append(event)
                self._answer()

            def _answer(self) -> None:
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def end(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def hears(self, count: int) -> list[str]:
        """Wait for so many events; the ids of their tasks."""
        eventually(lambda: len(self.events) >= count)
        return [event["data"]["id"] for event in self.events]
