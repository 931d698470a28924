"""`HttpProvider` over every transport: what happens on the wire makes the same of our errors."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.core.binding import Binding
from creche.core.recipe import load_recipe
from creche.core.task import Job, Task
from creche.edges.http_provider import HttpProvider
from creche.errors import AnswerError, CreateUncertain, Outage
from tests.edges.transports.conftest import Transport, Way, saying
from tests.edges.transports.peers import Peer

DOCUMENT: dict[str, Any] = {
    "auth": {"Authorization": "Bearer {secret}"},
    "create": {"url": "/jobs", "id": "/id"},
    "poll": {"url": "/jobs/{job}", "status": "/status", "statuses": {"processing": ["running"]}},
}
TASK = Task(id="t1", algorithm="draw", token="k1", accepted_at=0.0, input=msgspec.Raw(b"{}"))


def provider_over(transport: Transport, base: str) -> HttpProvider:
    binding = Binding(load_recipe("example", DOCUMENT, "example.toml"), base=base, params={}, secret="sk-geheim")
    return HttpProvider(binding, transport, timeout_s=20.0)


async def test_create_and_poll(way: Way) -> None:
    """The whole of a job's life is the same over each."""

    async def handler(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            body = b'{"id": "j1"}' if request[0].startswith(b"POST") else b'{"status": "running"}'
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async with way.serving(handler) as origin, way.transport() as transport:
        provider = provider_over(transport, origin)
        reading = await provider.create(TASK)
        assert reading.job == "j1"
        assert (await provider.poll_of(Job("j1", {}))()).status is not None


@pytest.mark.parametrize(
    ("raw", "answered", "of_a_poll"),
    [
        pytest.param(b"", False, Outage, id="closed"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", False, Outage, id="cut"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", True, AnswerError, id="garbage"),
    ],
)
async def test_what_may_have_arrived_is_uncertain(
    way: Way, raw: bytes, of_a_poll: type[Exception], *, answered: bool
) -> None:
    """Whether an answer came that cannot be used, or none: that is told too."""
    async with way.serving(saying(raw)) as origin, way.transport() as transport:
        provider = provider_over(transport, origin)
        with pytest.raises(CreateUncertain) as caught:
            await provider.create(TASK)
        assert caught.value.answered is answered
        with pytest.raises(of_a_poll):
            await provider.poll_of(Job("j1", {}))()


async def test_what_was_not_sent_is_an_outage(secure: Way) -> None:
    """Whatever stood in the way."""
    stranger = secure.server_context("other.test")
    async with secure.serving(saying(b""), context=stranger) as origin, secure.transport() as transport:
        with pytest.raises(Outage) as caught:
            await provider_over(transport, origin).create(TASK)
    assert "geheim" not in str(caught.value)
