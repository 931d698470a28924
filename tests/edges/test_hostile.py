"""Providers that answer with what none should, through the real transport: a clear error, and nothing is given away."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio

from creche.core.binding import Binding
from creche.core.recipe import load_recipe
from creche.core.task import Job
from creche.edges.http_provider import HttpProvider
from creche.edges.upstream import Upstream
from creche.errors import AnswerError, Outage, ProviderError
from creche.testing import make_task
from tests.edges.upstream.conftest import provider, read_request, saying

SECRET = "sk-verysecret"

RECIPE = {
    "auth": {"Authorization": "Bearer {secret}"},
    "create": {"url": "/jobs", "id": "/id", "keep": {"poll": "/poll"}, "body": "$input"},
    "poll": {
        "url": "{+keep.poll}",
        "status": "/status",
        "statuses": {"processing": ["running"], "succeeded": ["done"], "failed": ["failed"]},
        "error": ["/error"],
    },
}


def over(upstream: Upstream, base: str) -> HttpProvider:
    binding = Binding(load_recipe("r", RECIPE, "r.toml"), base=base, params={}, secret=SECRET)
    return HttpProvider(binding, upstream, timeout_s=5.0)


async def failure(raw: bytes) -> ProviderError:
    """What a poll raises that is answered so."""
    upstream = Upstream()
    async with provider(saying(raw)) as origin:
        with pytest.raises(ProviderError) as caught:
            await over(upstream, origin).poll_of(Job("j", {"poll": f"{origin}/j"}))()
        await upstream.aclose()
    assert SECRET not in str(caught.value)
    return caught.value


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"".join(line + b"\r\n" for line in (b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)))
    return head + b"\r\n" + body


def listening(heard: list[bytes], raw: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def handler(stream: trio.SocketStream) -> None:
        heard.append(await read_request(stream))
        await stream.send_all(raw)

    return handler


async def test_a_poll_url_on_another_host_is_asked_without_the_credential() -> None:
    """The create is sent with it; the URL that its answer names leads elsewhere, and is asked without."""
    upstream = Upstream()
    here: list[bytes] = []
    there: list[bytes] = []
    async with provider(listening(there, answer(b'{"status": "running"}'))) as elsewhere:
        created = answer(msgspec.json.encode({"id": "j", "poll": f"{elsewhere}/j"}))
        async with provider(listening(here, created)) as origin:
            mine = over(upstream, origin)
            task = make_task("t", input=msgspec.Raw(b"{}"))
            reading = await mine.create(task)
            assert reading.job is not None
            await mine.poll_of(Job(reading.job, reading.keep))()
            await upstream.aclose()
    assert SECRET.encode() in here[0]
    assert b"GET /j HTTP/1.1" in there[0]
    assert b"authorization" not in there[0].lower()


async def test_a_body_of_ten_megabytes_is_refused() -> None:
    """A status that is larger than what is taken in one answer is an error of the answer, told with the limit."""
    error = await failure(answer(b'{"status": "' + b"x" * (10 << 20) + b'"}'))
    assert isinstance(error, AnswerError)
    assert "larger than 8388608 bytes" in str(error)


async def test_a_small_body_that_grows_is_refused() -> None:
    """A compressed answer counts as what it becomes."""
    bomb = gzip.compress(b'{"status": "' + b"x" * (10 << 20) + b'"}')
    error = await failure(answer(bomb, b"Content-Encoding: gzip"))
    assert isinstance(error, AnswerError)
    assert "8388608 bytes" in str(error)


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"303 See Other", b"307 Again", b"308 There"])
async def test_a_redirect_is_not_followed(status: bytes) -> None:
    """Not even to where clouds hand out a machine's credentials; the error says what came."""
    error = await failure(answer(b"", b"Location: http://169.254.169.254/latest/meta-data", status=status))
    assert isinstance(error, AnswerError)
    assert str(error) == f"HTTP {status[:3].decode()}"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://127.0.0.1:8787/v1/tasks",
        "http://10.0.0.1/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://localhost/",
        "http://metadata.google.internal/",
        "http://redis:6379/",
        "http+unix://%2Frun%2Fcreche.sock/v1/tasks",
    ],
)
async def test_an_answer_cannot_have_us_ask_our_own_network(url: str) -> None:
    """A provider in the internet names a URL that is none of it: it is not asked, and the error says why."""
    mine = over(Upstream(), "https://api.provider.example")
    with pytest.raises(AnswerError, match="which is no public address: not asked"):
        await mine.poll_of(Job("j", {"poll": url}))()


async def test_a_name_that_leads_to_our_own_network_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may look public and lead anywhere: its addresses are looked at where the connection is made."""
    here = [(2, 1, 6, "", ("169.254.169.254", 443))]
    monkeypatch.setattr("creche.edges.upstream_addresses.socket.getaddrinfo", lambda *_, **__: here)
    upstream = Upstream()
    mine = over(upstream, "https://api.provider.example")
    with pytest.raises(Outage, match="it has no public address"):
        await mine.poll_of(Job("j", {"poll": "https://rebound.example/"}))()
    await upstream.aclose()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 200_000 + b"]" * 200_000, "the body is no JSON"),
        (b"<html><title>It works!</title></html>", "the body is no JSON: <html>"),
        (b'{"status": ["done"]}', ""),
        (b'{"status": {"a": 1}}', ""),
        (b'{"status": null}', "no status at '/status'"),
        (b'"done"', "no status at '/status'"),
        (b"\xff\xfe", "the body is no JSON"),
        (b"", "no status at '/status'"),
    ],
)
async def test_nonsense_ends_nothing(body: bytes, words: str) -> None:
    """Deep JSON, wrong types and pages of HTML are errors of the answer, or words that nobody knows; never an end."""
    upstream = Upstream()
    async with provider(saying(answer(body))) as origin:
        poll = over(upstream, origin).poll_of(Job("j", {"poll": f"{origin}/j"}))
        if words:
            with pytest.raises(AnswerError, match=words.replace("[", r"\[")):
                await poll()
        else:
            reading = await poll()
            assert (reading.status.running, reading.known) == (True, False)
        await upstream.aclose()


async def test_an_echoed_credential_is_hidden() -> None:
    """A provider that repeats what it was sent does not bring it into our messages."""
    error = await failure(answer(f"no such key: Bearer {SECRET}".encode(), status=b"401 Unauthorized"))
    assert "no such key: ***" in str(error)
