"""What every provider must do, be it a recipe or a plug-in: a suite over the recorded answers of its API.

A recording (docs/reference/recordings.md) is one job's life in the words of an API. `checks` makes of it what a test
can be parametrized with:

    @pytest.mark.parametrize("check", checks(RECORDING), ids=str)
    async def test_conformance(check: Check) -> None:
        await check(lambda transport: make_my_provider(transport, secret=SECRET))

Each check gets a provider of its own, over a transport that answers as the recording says and knows of no other
request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from creche.core.exchange import Answer, Call, Prepared
from creche.core.reading import JobStatus, Reading
from creche.core.recording import Answered, Exchange, Recording, Scene, Sent
from creche.core.task import Job, Task
from creche.core.template import MISSING, point
from creche.engine.ports import Provider
from creche.errors import (
    CreateRefused,
    CreateUncertain,
    CredentialsRefused,
    JobNotFound,
    Outage,
    ProviderError,
    Throttled,
)

SECRET = "s3cr3t/+key"  # noqa: S105 - nobody's
"""The secret that the provider under test is to have. It has characters that URLs and JSON write otherwise."""

TOKEN = "0b5e1d3c-7c1f-4b39-9d0a-6b9f0f4a5e77"  # noqa: S105 - likewise
"""The token of the task that is created: where an API takes an id or a key of ours, the recording has this one."""

HOSTILE: dict[str, Answer] = {
    "nothing": Answer(status=200, headers={}, body=b""),
    "null": Answer(status=200, headers={"content-type": "application/json"}, body=b"null"),
    "an empty list": Answer(status=200, headers={"content-type": "application/json"}, body=b"[]"),
    "an empty object": Answer(status=200, headers={"content-type": "application/json"}, body=b"{}"),
    "another object": Answer(status=200, headers={"content-type": "application/json"}, body=b'{"unrelated": 1}'),
    "an HTML page": Answer(status=200, headers={"content-type": "text/html"}, body=b"<html><h1>It works!</h1>"),
    "deep JSON": Answer(status=200, headers={}, body=b"[" * 100_000 + b"]" * 100_000),
    "no UTF-8": Answer(status=200, headers={}, body=b'{"status": "\xff\xfe"}'),
    "a cut answer": Answer(status=200, headers={}, body=b'{"status": "succe'),
}
"""Answers that say nothing about a job, with a good HTTP status."""


class Unexpected(AssertionError):
    """The provider sent a request that the recording does not have."""


class FakeTransport:
    """A provider's server, in memory: each request is answered with what was last set for it. It is a recipe's
    transport and a plug-in's `Http`.

    `calls` are all that were sent. Requests that nothing was set for raise `Unexpected`.
    """

    def __init__(self, base: str) -> None:
        self.calls: list[Call] = []
        self._base = base
        self._answers: list[tuple[Sent, Answer]] = []

    def on(self, request: Sent, answer: Answer) -> None:
        """Answer a request so from now on."""
        self._answers = [row for row in self._answers if row[0] != request] + [(request, answer)]

    async def send(self, call: Call, *, timeout_s: float) -> Answer:  # noqa: ARG002 - nothing takes time here
        """As a transport does."""
        self.calls.append(call)
        differences = []
        for request, answer in reversed(self._answers):
            difference = request.differs(call, self._base)
            if not difference:
                return answer
            differences.append(difference)
        raise Unexpected("; ".join(differences) or f"nothing is known of {call.method} {call.url}")

    async def ask(self, call: Call) -> Answer:
        """As `plugin.Http.ask`."""
        return await self.send(call, timeout_s=1.0)

    async def create(self, call: Call) -> Answer:
        """As `plugin.Http.create`."""
        return await self.send(call, timeout_s=1.0)

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        """As a transport does; every question is somebody's to wait for."""
        return Prepared(partial(self.send, call, timeout_s=timeout_s), lambda _done, _step_s: None)


MakeProvider = Callable[[FakeTransport], Provider]


class Check(NamedTuple):
    """One thing that must hold of a provider; raises `AssertionError` where it does not."""

    name: str
    run: Callable[[MakeProvider], Awaitable[None]]

    def __str__(self) -> str:
        return self.name

    async def __call__(self, make: MakeProvider) -> None:
        await self.run(make)


def checks(recording: Recording, *, base: str = "", status: str | None = None) -> list[Check]:
    """All that a recording can tell. `base` is where its URLs begin, if it does not say so itself.

    `status` is a pointer to the provider's status word, where polls have one: then words that nobody knows are tried.
    """
    return list(_Suite(recording, recording.base or base, status).checks())


class _Suite:
    def __init__(self, recording: Recording, base: str, status: str | None) -> None:
        self._recording = recording
        self._base = base
        self._status = status

    def checks(self) -> Iterator[Check]:
        recording = self._recording
        for number, scene in enumerate(recording.scenes, 1):
            yield Check(f"scene {number}: {scene.means}", partial(self._scene, scene))
        yield Check("the whole life", self._life)
        yield Check("the secret stays with the provider", self._secret)
        if recording.cancel is not None:
            yield Check("cancel", self._cancel)
            for status, error in ((401, CredentialsRefused), (429, Throttled), (503, Outage)):
                yield Check(f"cancel: HTTP {status}", partial(self._cancel_error, status, error))
        if recording.create is not None:
            yield from self._create_checks(recording.create)
        if recording.lookup:
            yield Check("lookup", self._lookup)
        if recording.many is not None:
            yield Check("many", self._many)
        yield from self._poll_checks()

    def _create_checks(self, create: Exchange) -> Iterator[Check]:
        recording = self._recording
        yield Check("create", self._create)
        errors: list[tuple[str, Sequence[Answered], type[ProviderError]]] = [
            ("busy", recording.busy or [_error(429)], Throttled),
            ("refused", recording.refused or [_error(400)], CreateRefused),
            ("credentials", [*recording.credentials, _error(401), _error(403)], CredentialsRefused),
            ("uncertain", [_error(408), _error(500), _error(502), _error(504)], CreateUncertain),
        ]
        for name, answers, error in errors:
            for number, answer in enumerate(answers, 1):
                yield Check(f"create: {name} {number}", partial(self._create_error, create, answer.answer(), error))
        for name, hostile in HOSTILE.items():
            yield Check(f"create: {name}", partial(self._hostile_create, create, hostile))

    def _poll_checks(self) -> Iterator[Check]:
        recording = self._recording
        for number, answer in enumerate(recording.unknown_job or [_error(404)], 1):
            yield Check(f"poll: unknown job {number}", partial(self._unknown_job, answer.answer()))
        errors = ((401, CredentialsRefused), (429, Throttled), (502, Outage), (503, Outage), (504, Outage))
        for status, error in errors:
            yield Check(f"poll: HTTP {status}", partial(self._poll_error, status, error))
        for name, hostile in HOSTILE.items():
            yield Check(f"poll: {name}", partial(self._no_end, hostile))
        if self._status is not None:
            for scene in recording.scenes:
                body = scene.answer.body
                if body is not msgspec.UNSET and point(body, self._status) not in (MISSING, None):
                    yield Check("poll: unknown word", partial(self._unknown_word, scene))
                    for odd in ([], {}, 3.5, "", ["x"], {"x": 1}):
                        changed = msgspec.structs.replace(scene.answer, body=_with(body, self._status, odd))
                        yield Check(f"poll: status {odd!r}", partial(self._no_end, changed.answer()))
                    break

    # -- the checks ------------------------------------------------------------------------------------------

    async def _begun(self, make: MakeProvider) -> tuple[Provider, FakeTransport, Job]:
        """A provider whose job runs."""
        recording, transport = self._recording, FakeTransport(self._base)
        provider = make(transport)
        keep = recording.keep
        if recording.create is not None:
            transport.on(recording.create.request, recording.create.answer.answer())
            reading = await provider.create(self._task())
            keep = {**keep, **reading.keep}
        return provider, transport, Job(recording.job, keep)

    def _task(self) -> Task:
        task_input = msgspec.Raw(msgspec.json.encode(self._recording.input))
        return Task(id="t-1", algorithm="a", input=task_input, token=TOKEN, accepted_at=0.0)

    async def _create(self, make: MakeProvider) -> None:
        provider, transport, _ = await self._begun(make)
        reading = await provider.create(self._task())
        assert reading.job == self._recording.job, f"the job is {reading.job!r}"
        first, second = (call for call in transport.calls if call.method == transport.calls[0].method)
        assert (first.url, first.body) == (second.url, second.body), "a repetition is another request"
        repeatable = provider.way.repeat in {"token", "id"}
        assert first.fresh or (repeatable and first.method != "GET"), "it may be lost in a connection that is closing"

    async def _scene(self, scene: Scene, make: MakeProvider) -> None:
        provider, transport, job = await self._begun(make)
        transport.on(self._recording.poll, scene.answer.answer())
        reading = await provider.poll_of(job)()
        await self._agrees(scene, reading, provider, transport, job)

    async def _agrees(
        self, scene: Scene, reading: Reading, provider: Provider, transport: FakeTransport, job: Job
    ) -> None:
        assert reading.known, f"the word {reading.provider_status!r} is not known"
        if reading.to_fetch:
            if scene.fetch is not None:
                transport.on(scene.fetch.request, scene.fetch.answer.answer())
            reading = await provider.fetch(job, reading)
        else:
            assert scene.fetch is None, "nothing is fetched"
        assert reading.status is scene.means, f"it means {reading.status}"
        assert reading.partial is scene.partial, f"partial is {reading.partial}"
        if scene.message is not None:
            assert reading.message == scene.message, f"the message is {reading.message!r}"
        if scene.progress is not None:
            assert reading.progress == scene.progress, f"the progress is {reading.progress}"
        if scene.result is not msgspec.UNSET:
            result = msgspec.json.decode(reading.result)
            assert result == scene.result, f"the result is {reading.result!r}"

    async def _life(self, make: MakeProvider) -> None:
        """What runs is polled, one and the same question, until the first good end."""
        provider, transport, job = await self._begun(make)
        poll = provider.poll_of(job)
        for scene in self._recording.scenes:
            if scene.means.running:
                transport.on(self._recording.poll, scene.answer.answer())
                for _ in range(2):
                    assert (await poll()).status is scene.means
        good = [scene for scene in self._recording.scenes if scene.means is JobStatus.SUCCEEDED]
        assert good, "the recording has no success"
        transport.on(self._recording.poll, good[0].answer.answer())
        await self._agrees(good[0], await poll(), provider, transport, job)

    async def _secret(self, make: MakeProvider) -> None:
        """The credential is in headers, none of which is shown, and in no URL; an echo of it is not repeated."""
        provider, transport, job = await self._begun(make)
        echo = Answer(status=400, headers={}, body=f"bad key {SECRET}".encode())
        transport.on(self._recording.poll, echo)
        try:
            shown = (await provider.poll_of(job)()).message
        except ProviderError as exc:
            shown = str(exc)
        assert SECRET not in shown, "the secret is shown"
        assert all(SECRET not in call.url for call in transport.calls), "the secret is in a URL"

    async def _cancel(self, make: MakeProvider) -> None:
        cancel = self._recording.cancel
        assert cancel is not None, "it was looked at before"
        provider, transport, job = await self._begun(make)
        transport.on(cancel.request, cancel.answer.answer())
        agreed = await provider.cancel(job)
        assert agreed is cancel.agreed, f"agreed is {agreed}"

    async def _cancel_error(self, status: int, error: type[ProviderError], make: MakeProvider) -> None:
        cancel = self._recording.cancel
        assert cancel is not None, "it was looked at before"
        provider, transport, job = await self._begun(make)
        transport.on(cancel.request, _error(status).answer())
        await _raises(error, lambda: provider.cancel(job))

    async def _create_error(
        self, create: Exchange, answer: Answer, error: type[ProviderError], make: MakeProvider
    ) -> None:
        transport = FakeTransport(self._base)
        transport.on(create.request, answer)
        await _raises(error, lambda: make(transport).create(self._task()))

    async def _hostile_create(self, create: Exchange, answer: Answer, make: MakeProvider) -> None:
        """A good status, and no job: it cannot be told whether there is one, unless its id is ours."""
        transport = FakeTransport(self._base)
        transport.on(create.request, answer)
        provider = make(transport)
        try:
            reading = await provider.create(self._task())
        except (CreateUncertain, CreateRefused):
            return
        assert provider.way.repeat == "id", f"a job was made: {reading.job!r}"
        assert reading.status.running, f"it is over: {reading.status}"

    async def _lookup(self, make: MakeProvider) -> None:
        transport = FakeTransport(self._base)
        for exchange in self._recording.lookup:
            transport.on(exchange.request, exchange.answer.answer())
        found = await make(transport).find(self._task())
        assert found is not None, "the job is not found"
        assert found.job == self._recording.job, f"another is found: {found.job!r}"

    async def _many(self, make: MakeProvider) -> None:
        many = self._recording.many
        assert many is not None, "it was looked at before"
        transport = FakeTransport(self._base)
        for exchange in many.pages:
            transport.on(exchange.request, exchange.answer.answer())
        provider = make(transport)
        assert len(many.jobs) <= provider.batch, f"at most {provider.batch} jobs are asked for at once"
        found = await provider.poll_many([Job(job_id) for job_id in many.jobs])
        assert {job_id: reading.status for job_id, reading in found.items()} == many.jobs

    async def _unknown_job(self, answer: Answer, make: MakeProvider) -> None:
        provider, transport, job = await self._begun(make)
        transport.on(self._recording.poll, answer)
        try:
            reading = await provider.poll_of(job)()
        except JobNotFound:
            return
        gone = {JobStatus.LOST, JobStatus.EXPIRED}
        assert reading.status in gone, f"a job that is not known is {reading.status}"

    async def _poll_error(self, status: int, error: type[ProviderError], make: MakeProvider) -> None:
        provider, transport, job = await self._begun(make)
        transport.on(self._recording.poll, _error(status).answer())
        raised = await _raises(error, provider.poll_of(job))
        assert raised.retry_after_s == 7.0, "Retry-After is not heard"  # noqa: PLR2004

    async def _no_end(self, answer: Answer, make: MakeProvider) -> None:
        """An answer that says nothing ends nothing."""
        provider, transport, job = await self._begun(make)
        transport.on(self._recording.poll, answer)
        try:
            reading = await provider.poll_of(job)()
        except ProviderError:
            return
        assert reading.status.running or reading.status is JobStatus.LOST, f"the job is {reading.status}"

    async def _unknown_word(self, scene: Scene, make: MakeProvider) -> None:
        assert self._status is not None, "it was looked at before"
        provider, transport, job = await self._begun(make)
        body = _with(scene.answer.body, self._status, "levitating")
        transport.on(self._recording.poll, msgspec.structs.replace(scene.answer, body=body).answer())
        reading = await provider.poll_of(job)()
        assert (reading.status, reading.known) == (JobStatus.PROCESSING, False), f"it is {reading}"


async def _raises(error: type[ProviderError], ask: Callable[[], Awaitable[Any]]) -> ProviderError:
    try:
        answer = await ask()
    except error as exc:
        return exc
    raise AssertionError(f"expected {error.__name__}, got {answer!r}")


def _error(status: int) -> Answered:
    return Answered(status=status, headers={"Retry-After": "7"}, body={"error": {"message": "no"}})


def _with(body: Any, pointer: str, value: Any) -> Any:  # noqa: ANN401 - any JSON
    """A copy of a JSON document with another value at a pointer, which is there."""
    if not pointer:
        return value
    changed = msgspec.json.decode(msgspec.json.encode(body))
    parent, _, last = pointer.rpartition("/")
    holder = point(changed, parent)
    key = last.replace("~1", "/").replace("~0", "~")
    holder[int(key) if isinstance(holder, list) else key] = value
    return changed
