"""What collectors are sent, over the transport, to a server on loopback; Sensors Data's as its own SDK sends it."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
import sensorsanalytics
import trio

from creche import __version__
from creche.core import task as tasks
from creche.core.analytics import Collector, events
from creche.core.task import Failed, Job
from creche.core.webhooks import Delivery
from creche.edges.http_analytics import NOBODY
from creche.edges.http_webhooks import HttpSender
from creche.edges.upstream import Upstream
from creche.engine.outbox import Sent
from creche.testing import make_task


class Server:
    """A collector: keeps the heads and bodies that it gets, and answers with `status`."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                heads = {name.lower(): value for name, value in self.headers.items()}
                server.got.append(({"": self.path, **heads}, body))
                self.send_response(server.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/sa?project=default"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def end(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def sensors(self) -> list[dict[str, Any]]:
        """The messages in the last request, as Sensors Data reads it."""
        fields = parse_qs(self.got[-1][1].decode(), strict_parsing=True)
        assert fields["gzip"] == ["1"]
        found: list[dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(fields["data_list"][0])))
        return found


@pytest.fixture
def server() -> Iterator[Server]:
    """A collector on loopback."""
    server = Server()
    yield server
    server.end()


def deliveries() -> list[Delivery]:
    """The events of a task with a user, and the end of one without."""
    one = tasks.begin_job(make_task("t", user="ünï"), Job("j"), 2.0)
    other = tasks.settle(tasks.begin_job(make_task("u"), Job("k"), 2.0), Failed("provider"), 9.0)
    anybody = [Collector(name="c", url="")]
    return [*events(one, anybody, 1_800_000_001.25), *events(other, anybody, 1_800_000_002.0)]


async def sent(collector: Collector, batch: list[Delivery]) -> Sent:
    """What comes of it."""
    upstream = Upstream()
    try:
        return await HttpSender(upstream, lambda: 0.0)(collector, batch)
    finally:
        await upstream.aclose()


async def test_any_collector_gets_a_list_of_events(server: Server) -> None:
    """In JSON, as they were written, and let in by the secret."""
    batch = deliveries()
    assert await sent(Collector(name="c", url=server.url, secret="geheim"), batch) == (200, "", None)
    [(heads, body)] = server.got
    assert (heads[""], heads["content-type"]) == ("/sa?project=default", "application/json")
    assert heads["authorization"] == "Bearer geheim"
    assert json.loads(body) == [json.loads(one.body) for one in batch]
    assert [event["event"] for event in json.loads(body)] == ["created", "settled"]


async def test_sensors_data_gets_what_its_sdk_makes(server: Server) -> None:
    """Each event with its own time, its user as the login, and nothing that is not known."""
    collector = Collector(name="c", url=server.url, form="sensors")
    assert await sent(collector, deliveries()) == (200, "", None)
    [one, other] = server.sensors()
    assert (one["type"], one["event"], one["distinct_id"], one["time"]) == (
        "track",
        "creche_created",
        "ünï",
        1_800_000_001_250,
    )
    assert (one["lib"]["$lib"], one["lib"]["$app_version"]) == ("python", __version__)
    told = {name: value for name, value in one["properties"].items() if not name.startswith("$")}
    assert (told.pop("task"), told.pop("job"), told.pop("status")) == ("t", "j", "waiting")
    assert (told.pop("event_key"), told.pop("user")) == ("t.created", "ünï")
    assert told.keys() == {"algorithm", "seconds"}
    assert one["properties"]["$is_login_id"] is True
    assert (other["event"], other["distinct_id"]) == ("creche_settled", NOBODY)
    assert (other["properties"]["status"], other["properties"]["reason"]) == ("failed", "provider")
    assert "$is_login_id" not in other["properties"]


async def test_the_request_is_that_of_the_sdk(server: Server) -> None:
    """Its own consumer sends the same fields in the same form; only where in the code it was called differs."""
    batch = deliveries()
    await sent(Collector(name="c", url=server.url, form="sensors"), batch)
    ours, [(heads, _)] = server.sensors(), server.got

    def as_the_sdk() -> None:
        consumer = sensorsanalytics.BatchConsumer(server.url)
        sdk = sensorsanalytics.SensorsAnalytics(consumer)
        sdk.register_super_properties({"$app_version": __version__})
        for message in ours:
            properties = {**message["properties"], "$time": message["time"]}
            sdk.track(message["distinct_id"], message["event"], properties)
        sdk.close()

    await trio.to_thread.run_sync(as_the_sdk)
    theirs, (their_heads, _) = server.sensors(), server.got[-1]
    for message in (*ours, *theirs):
        del message["lib"]["$lib_detail"]
    assert len(ours) == 2
    assert ours == theirs
    assert (heads[""], heads["content-type"]) == (their_heads[""], their_heads["content-type"])


async def test_an_event_that_the_sdk_refuses_spoils_no_other(server: Server, errors_logged: list[str]) -> None:
    """It is dropped, and the log says why."""
    one, other = deliveries()
    spoilt = msgspec.json.encode({**json.loads(one.body), "user": "u" * 300})
    batch = [msgspec.structs.replace(one, body=spoilt), other]
    assert await sent(Collector(name="c", url=server.url, form="sensors"), batch) == (200, "", None)
    assert [message["event"] for message in server.sensors()] == ["creche_settled"]
    [said] = errors_logged
    assert said.startswith("t.created: the SDK of Sensors Data refuses the event, which is dropped: the max length of ")


async def test_a_refusal_is_told(server: Server) -> None:
    """As that of a webhook is."""
    server.status = 401
    assert await sent(Collector(name="c", url=server.url), deliveries()) == (401, "", None)
    server.status = 302
    assert "redirects are not followed" in (await sent(Collector(name="c", url=server.url), deliveries())).error
