"""Which of our errors stands for what happened to a request, and what their messages say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx2
import msgspec
import pytest
import trio
import trio.testing

from creche.core.binding import Binding
from creche.core.exchange import Answer, Call, Prepared, Unanswered
from creche.core.recipe import load_recipe
from creche.core.task import Job, Task
from creche.edges.http_provider import MEMORY_BYTES, HttpProvider
from creche.edges.upstream import Upstream
from creche.errors import AnswerError, CreateRefused, CreateUncertain, Outage, ProviderError
from tests.edges.upstream.conftest import provider as server
from tests.edges.upstream.conftest import saying

SECRET = "sk-verysecret-0123456789"
DOCUMENT: dict[str, Any] = {
    "auth": {"Authorization": "Bearer {secret}"},
    "create": {"url": "/jobs", "id": "/id", "keep": {"poll": "/poll"}},
    "poll": {"url": "{+keep.poll}", "status": "/status", "statuses": {"processing": ["running"]}},
}
TASK = Task(id="t1", algorithm="draw", token="k1", accepted_at=0.0, input=msgspec.Raw(b"{}"))
JOB = Job("j1", {"poll": "http://api.example/jobs/j1"})


class Scripted:
    """A transport on which every call ends as it is told."""

    def __init__(self, end: Answer | Exception) -> None:
        self._end = end

    async def send(self, call: Call, *, timeout_s: float) -> Answer:  # noqa: ARG002 - as of any transport
        await trio.lowlevel.checkpoint()
        if isinstance(self._end, Exception):
            raise self._end
        return self._end

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        return Prepared(partial(self.send, call, timeout_s=timeout_s), lambda _, __: None)


def provider_over(transport: Any, base: str = "http://api.example") -> HttpProvider:  # noqa: ANN401 - any transport
    binding = Binding(load_recipe("example", DOCUMENT, "example.toml"), base=base, params={}, secret=SECRET)
    return HttpProvider(binding, transport, timeout_s=5.0)


async def failure(request: Callable[[], Awaitable[object]]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await request()
    return caught.value


@pytest.mark.parametrize(
    ("error", "of_a_create", "of_a_poll"),
    [
        (httpx2.ConnectError, Outage, Outage),
        (httpx2.ConnectTimeout, Outage, Outage),
        (httpx2.PoolTimeout, Outage, Outage),
        (httpx2.UnsupportedProtocol, CreateRefused, AnswerError),
        (httpx2.InvalidURL, CreateRefused, AnswerError),
        (httpx2.LocalProtocolError, CreateRefused, AnswerError),
        (httpx2.WriteError, CreateUncertain, Outage),
        (httpx2.WriteTimeout, CreateUncertain, Outage),
        (httpx2.ReadError, CreateUncertain, Outage),
        (httpx2.ReadTimeout, CreateUncertain, Outage),
        (httpx2.RemoteProtocolError, CreateUncertain, AnswerError),
        (httpx2.DecodingError, CreateUncertain, AnswerError),
    ],
)
async def test_every_error_of_the_transport_has_its_meaning(
    error: Callable[[str], Exception], of_a_create: type[ProviderError], of_a_poll: type[ProviderError]
) -> None:
    """A create asks whether a byte was sent, a poll whether the provider is away; the words are the transport's."""
    provider = provider_over(Scripted(error("in plain words")))
    create = await failure(lambda: provider.create(TASK))
    poll = await failure(provider.poll_of(JOB))
    assert (type(create), type(poll)) == (of_a_create, of_a_poll)
    assert str(create) == str(poll) == "http://api.example: in plain words"


@pytest.mark.parametrize(("error", "answered"), [(httpx2.ReadError, False), (httpx2.RemoteProtocolError, True)])
async def test_an_uncertain_create_tells_whether_it_was_answered(
    error: type[httpx2.HTTPError], *, answered: bool
) -> None:
    """What is no answer of HTTP was one all the same: the provider is there."""
    exc = await failure(lambda: provider_over(Scripted(error("x"))).create(TASK))
    assert isinstance(exc, CreateUncertain)
    assert exc.answered is answered


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
async def test_a_provider_that_hangs_up_is_away(said: bytes) -> None:
    """A balancer that restarts, a worker that dies: no poll counts against the task, no create is known to be lost."""
    async with server(saying(said)) as origin:
        provider = provider_over(Upstream(), origin)
        poll = await failure(provider.poll_of(Job("j1", {"poll": f"{origin}/j1"})))
        create = await failure(lambda: provider.create(TASK))
    assert (type(poll), type(create)) == (Outage, CreateUncertain)
    assert str(poll).startswith(f"{origin}: the provider closed the connection ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example?sig=SIGNATURE", "https://h.example: "),
        ("https://user:PASSWORD@h.example/x", "https://h.example: "),
        ("HTTPS://h.example:8443/PATH#X", "https://h.example:8443: "),
        ("http://[2606:4700::1111]:80/", "http://[2606:4700::1111]:80: "),
        (f"{SECRET}-token", ""),
        (f"{SECRET}://h/", ""),
        (f"http://{SECRET}.example/", "http://***.example: "),
        ("http://h:port/", ""),
        ("http://[", ""),
        ("http://a b/", ""),
    ],
)
async def test_of_a_url_only_the_origin_is_shown(url: str, shown: str) -> None:
    """Paths, queries and names of users may be secret; what has no origin is not shown at all."""
    provider = provider_over(Scripted(httpx2.ReadError("broke")))
    assert str(await failure(provider.poll_of(Job("j1", {"poll": url})))) == f"{shown}broke"


@pytest.mark.parametrize("url", [f"{SECRET}-token", f"{SECRET}://h/", f"http://[{SECRET}/", "http://h:port/"])
async def test_a_url_that_cannot_be_asked_is_not_repeated(url: str) -> None:
    """Not even in part."""
    exc = await failure(provider_over(Upstream()).poll_of(Job("j1", {"poll": url})))
    assert isinstance(exc, AnswerError)
    assert not any(part in str(exc) for part in (SECRET, SECRET[:8], "port/"))


async def test_the_words_of_a_transport_are_redacted_too() -> None:
    """They may quote a header of the answer; a long quotation is cut after the secret went."""
    error = httpx2.DecodingError(f"content encoding '{'x' * 280}Bearer {SECRET}'\nmore")
    exc = await failure(provider_over(Scripted(error)).poll_of(JOB))
    assert "sk-" not in str(exc)
    assert len(str(exc)) < 400


async def test_an_error_without_words_has_some() -> None:
    """Never an empty note."""
    exc = await failure(provider_over(Scripted(httpx2.ReadTimeout(""))).poll_of(JOB))
    assert str(exc) == "http://api.example: the request failed"


class Saying:
    """A transport that says one thing after another, and counts how often a call was prepared."""

    def __init__(self, *said: Answer) -> None:
        self._said = list(said)
        self.prepared = 0

    async def send(self, call: Call, *, timeout_s: float) -> Answer:  # noqa: ARG002 - as of any transport
        await trio.lowlevel.checkpoint()
        return self._said.pop(0)

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        self.prepared += 1
        return Prepared(partial(self.send, call, timeout_s=timeout_s), lambda _, __: None)


def said(body: bytes, **headers: str) -> Answer:
    return Answer(status=200, headers=headers, body=body)


async def test_a_standing_question_is_prepared_once() -> None:
    """However often it is asked; another job is another question."""
    transport = Saying(*[said(b'{"status": "running"}')] * 4)
    provider = provider_over(transport)
    first, second = provider.poll_of(JOB), provider.poll_of(Job("j2", {"poll": "http://api.example/jobs/j2"}))
    for poll in (first, first, second, first):
        await poll()
    assert transport.prepared == 2


async def test_an_answer_like_the_last_is_the_last_reading() -> None:
    """The same object, so that whoever asked knows that nothing is new; any change is read."""
    running, more = b'{"status": "running"}', b'{"status": "running", "more": 1}'
    poll = provider_over(Saying(said(running), said(running, date="x"), said(more), said(running))).poll_of(JOB)
    readings = [await poll() for _ in range(4)]
    assert readings[0] is readings[1]
    assert len({id(reading) for reading in readings[1:]}) == 3


async def test_a_hint_is_read_anew_every_time() -> None:
    """The same words an interval later are another time to come back."""
    hinted = said(b'{"status": "running"}', **{"retry-after": "7"})
    poll = provider_over(Saying(hinted, hinted)).poll_of(JOB)
    first, second = await poll(), await poll()
    assert first is not second
    assert first.ask_again_s == second.ask_again_s == 7


async def test_large_answers_are_not_kept() -> None:
    """A provider that sends its whole log with every poll shall not fill our memory."""
    large = said(b'{"status": "running", "log": "%s"}' % (b"x" * MEMORY_BYTES))
    poll = provider_over(Saying(large, large)).poll_of(JOB)
    assert await poll() is not await poll()


class Beginning(Saying):
    """A transport on which polls can be begun; each ends as told at once. `sent` counts those that were waited for."""

    def __init__(self, said: list[Answer], ends: list[Answer | Exception]) -> None:
        super().__init__(*said)
        self.sent = 0
        self._ends = ends

    async def send(self, call: Call, *, timeout_s: float) -> Answer:
        self.sent += 1
        return await super().send(call, timeout_s=timeout_s)

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        return Prepared(partial(self.send, call, timeout_s=timeout_s), self._begin)

    def _begin(self, done: Callable[[Answer | Exception], None], _: float) -> Callable[[], None]:
        end = self._ends.pop(0)
        trio.lowlevel.spawn_system_task(self._end_later, done, end)
        return lambda: None

    async def _end_later(self, done: Callable[[Answer | Exception], None], end: Answer | Exception) -> None:
        done(end)


RUNNING, QUEUED = b'{"status": "running"}', b'{"status": "running", "place": 1}'


@pytest.mark.parametrize(
    ("end", "news", "sent"),
    [
        (said(RUNNING), False, 2),  # nobody comes for it: the next call asks
        (said(QUEUED), True, 1),
        (httpx2.ReadTimeout("late"), True, 1),
        (Unanswered(), True, 2),  # asked again by who comes for the news
    ],
)
async def test_news_that_came_unattended_is_taken_once(
    end: Answer | Exception,
    news: bool,  # noqa: FBT001 - a table of cases
    sent: int,
) -> None:
    """An answer or an error that came is not asked for again; some providers tell an end only once."""
    transport = Beginning([said(RUNNING), said(RUNNING)], [end])
    poll = provider_over(transport).poll_of(JOB)
    told: list[bool] = []
    assert not poll.repeat(told.append, step_s=1.0), "there is nothing to compare with yet"
    await poll()
    assert poll.repeat(told.append, step_s=1.0)
    await trio.testing.wait_all_tasks_blocked()
    assert told == [news]
    if isinstance(end, httpx2.HTTPError):
        with pytest.raises(Outage):
            await poll()
    else:
        assert (await poll()).status.running
    assert transport.sent == sent


async def test_whoever_comes_while_a_poll_is_on_its_way_waits_for_its_answer() -> None:
    """It is not asked twice, and who was to be told is not told any more."""
    transport = Beginning([said(RUNNING)], [said(RUNNING)])
    poll = provider_over(transport).poll_of(JOB)
    told: list[bool] = []
    first = await poll()
    assert poll.repeat(told.append, step_s=1.0)
    assert (await poll()).status is first.status
    assert (told, transport.sent) == ([], 1)


# -- many jobs -------------------------------------------------------------------------------------------

MANY: dict[str, Any] = {"url": "/jobs?limit=2", "max": 9, "items": "/data", "id": "/id", "next": "/next"}


class Pages:
    """A transport that gives one answer after the other; `urls` are what it was asked for."""

    def __init__(self, *ends: Answer | Exception) -> None:
        self.urls: list[str] = []
        self._ends = list(ends)

    async def send(self, call: Call, *, timeout_s: float) -> Answer:
        self.urls.append(call.url)
        return await Scripted(self._ends.pop(0)).send(call, timeout_s=timeout_s)

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        return Prepared(partial(self.send, call, timeout_s=timeout_s), lambda _, __: None)


def page(*job_ids: str, after: str | None = None) -> Answer:
    data = [{"id": job_id, "status": "running"} for job_id in job_ids]
    return Answer(status=200, headers={}, body=msgspec.json.encode({"data": data, "next": after}))


def listing(transport: Any) -> HttpProvider:  # noqa: ANN401 - any transport
    recipe = load_recipe("example", {**DOCUMENT, "many": MANY}, "example.toml")
    binding = Binding(recipe, base="http://api.example", params={}, secret=SECRET)
    return HttpProvider(binding, transport, timeout_s=5.0)


async def test_a_list_is_asked_for_until_all_jobs_were_met() -> None:
    """Page by page; what is behind is left alone."""
    pages = Pages(page("x", "a", after="/jobs?p=2"), page("b", after="/jobs?p=3"))
    readings = await listing(pages).poll_many([Job("a"), Job("b")])
    assert pages.urls == ["http://api.example/jobs?limit=2", "http://api.example/jobs?p=2"]
    assert readings.keys() == {"a", "b"}


async def test_an_error_on_any_page_is_the_request_s() -> None:
    """Of the kinds of a poll; nothing is said of the jobs that were met before."""
    pages = Pages(page("a", after="/jobs?p=2"), httpx2.ReadError("broke"))
    exc = await failure(lambda: listing(pages).poll_many([Job("a"), Job("b")]))
    assert (type(exc), str(exc)) == (Outage, "http://api.example: broke")


async def test_a_recipe_says_how_many_jobs_a_request_takes() -> None:
    """One, where it has no request for many."""
    assert (listing(Pages()).batch, provider_over(Pages()).batch) == (9, 1)
    assert listing(Pages()).account == listing(Pages()).account
