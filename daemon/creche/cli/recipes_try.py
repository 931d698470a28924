"""`creche recipes try`: what a recipe sends and how it reads, before anything depends on it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import trio

from creche.cli import Exit
from creche.cli.app import Settings
from creche.cli.arguments import parse_json, read_text
from creche.cli.output import clean, print_json, warn
from creche.config_recipes import read_recipe
from creche.conformance import SECRET, Check, FakeTransport, checks
from creche.core.binding import Binding
from creche.core.exchange import Answer, Call, Prepared
from creche.core.polling import End, Fetch, Poller, outcome_of
from creche.core.reading import Reading
from creche.core.recipe import Recipe
from creche.core.recording import load_recording
from creche.core.task import Job, Outcome, Succeeded, Task
from creche.edges.http_provider import HttpProvider
from creche.edges.upstream import Upstream
from creche.errors import CrecheError, ProviderError

TIMEOUT_S = 30.0
SHOWN_BYTES = 2000
"""Of a body that was sent or answered."""


def run(settings: Settings, name: str, *, answers: Path | None, live: bool, **options: Any) -> Exit:  # noqa: ANN401
    """What the command does. Raises `RecipeError`, `RecordingError`, `click.UsageError`."""
    recipe = read_recipe(name, Path()).load()
    if answers is not None:
        return _replay(settings, recipe, answers)
    params = _params(recipe, options["params"], optional=not live)
    base = options["base"] or recipe.base
    task_input = _input(options["data"], options["file"])
    if not live:
        _show_requests(settings, Binding(recipe, base=base, params=params, secret="***"), task_input)  # noqa: S106
        return Exit.OK
    secret = _secret(recipe, options["secret_env"])
    if not base:
        raise click.UsageError("the recipe names no base: say --base URL")
    if task_input is None and options["job"] is None:
        raise click.UsageError("say what to create with --data or --input, or which job to mind with --job")
    binding = Binding(recipe, base=base, params=params, secret=secret)
    return trio.run(_live, settings, binding, task_input, options["job"])


# -- what would be sent --------------------------------------------------------------------------------


def _show_requests(settings: Settings, binding: Binding, task_input: msgspec.Raw | None) -> None:
    recipe = binding.recipe
    steps = (recipe.create, recipe.lookup, recipe.poll)
    kept = {name for step in steps if step is not None for name in step.keep}
    job = Job("JOB", {name: f"KEPT-{name}" for name in kept})
    makers: list[tuple[str, Callable[[], Call | None]]] = [("poll", lambda: binding.poll_call(job))]
    if recipe.create is not None:
        task = _task(task_input or msgspec.Raw(b"{}"))
        makers.insert(0, ("create", lambda: binding.create_call(task)))
        if recipe.lookup is not None:
            lookup = recipe.lookup
            makers.insert(1, ("lookup", lambda: binding.lookup_call(lookup.url, task)))
    if recipe.many is not None:
        many = recipe.many
        makers.append(("many", lambda: binding.many_call(many.url, ["JOB", "JOB2"])))
    if recipe.fetch is not None:
        makers.append(("fetch", lambda: binding.fetch_call(job)))
    if recipe.cancel is not None:
        makers.append(("cancel", lambda: binding.cancel_call(job)))
    for name, make in makers:
        try:
            call = make()
        except CrecheError as exc:
            warn(f"{name}: {exc}")
            continue
        if call is not None:
            _show_call(settings, name, call)


def _show_call(settings: Settings, name: str, call: Call) -> None:
    body = (call.body or b"").decode("utf-8", "replace")
    if settings.json:
        print_json({"step": name, "method": call.method, "url": call.url, "headers": dict(call.headers), "body": body})
        return
    click.echo(f"{name}\n  {call.method} {call.url}")
    for header, value in call.headers:
        click.echo(f"  {header}: {clean(value)}")
    if body:
        click.echo(f"  {clean(body[:SHOWN_BYTES])}")


# -- recorded answers -----------------------------------------------------------------------------------


def _replay(settings: Settings, recipe: Recipe, path: Path) -> Exit:
    """The suite that the shipped recipes must pass, over a recording."""
    try:
        recording = load_recording(path.read_bytes(), str(path))
    except OSError as exc:
        raise click.UsageError(f"cannot read {path}: {exc.strerror}") from exc
    params = _defaults(recipe) | recording.params
    base = recording.base or recipe.base

    def make(transport: FakeTransport) -> HttpProvider:
        return HttpProvider(Binding(recipe, base=base, params=params, secret=SECRET), transport, timeout_s=TIMEOUT_S)

    failed = 0
    suite = checks(recording, base=base, status=recipe.poll.status)
    for check in suite:
        problem = trio.run(_problem, check, make)
        failed += bool(problem)
        if settings.json:
            print_json({"check": check.name, "problem": problem or None})
        elif problem:
            click.echo(f"{check.name}: {clean(problem)}")
    if not settings.json:
        click.echo(f"{recipe.name}: {len(suite) - failed} of {len(suite)} checks good")
    return Exit.NOT_SUCCEEDED if failed else Exit.OK


async def _problem(check: Check, make: Callable[[FakeTransport], HttpProvider]) -> str:
    try:
        await check(make)
    except (AssertionError, CrecheError) as exc:
        return str(exc) or "it does not hold"
    return ""


# -- one live job ------------------------------------------------------------------------------------------


class _Spy:
    """A transport that shows what goes through it, but for headers, which hold the key."""

    def __init__(self, upstream: Upstream, binding: Binding) -> None:
        self._upstream = upstream
        self._binding = binding
        self._last: tuple[object, ...] | None = None

    async def send(self, call: Call, *, timeout_s: float) -> Answer:
        answer = await self._upstream.send(call, timeout_s=timeout_s)
        gist = (call.method, call.url, answer.status, answer.body)
        if gist != self._last:  # most polls say what the last one said
            hide = self._binding.redaction.hide_in_bytes
            click.echo(f"{call.method} {hide(call.url.encode(), at_most=SHOWN_BYTES)}")
            click.echo(f"  {answer.status} {clean(hide(answer.body, at_most=SHOWN_BYTES))}")
        self._last = gist
        return answer

    def prepare(self, call: Call, *, timeout_s: float) -> Prepared:
        return Prepared(lambda: self.send(call, timeout_s=timeout_s), lambda _done, _step_s: None)


async def _live(settings: Settings, binding: Binding, task_input: msgspec.Raw | None, job_id: str | None) -> Exit:
    upstream = Upstream()
    provider = HttpProvider(binding, _Spy(upstream, binding), timeout_s=TIMEOUT_S)
    try:
        job, reading = Job(job_id or ""), None
        if job_id is None:
            assert task_input is not None, "the caller has looked"  # noqa: S101
            reading = await provider.create(_task(task_input))
            job = Job(reading.job or "", reading.keep)
            click.echo(f"job {clean(job.id)}; to interrupt this does not end it")
        outcome = await _mind(provider, binding.recipe, job, reading)
    finally:
        await upstream.aclose()
    if settings.json:
        print_json(msgspec.to_builtins(outcome))
    else:
        click.echo(clean(msgspec.json.encode(outcome).decode()))
    return Exit.OK if isinstance(outcome, Succeeded) else Exit.NOT_SUCCEEDED


async def _mind(provider: HttpProvider, recipe: Recipe, job: Job, reading: Reading | None) -> Outcome:
    rhythm = recipe.rhythm
    poller, poll, began = Poller(rhythm), provider.poll_of(job), trio.current_time()
    if reading is None or reading.status.running:
        await trio.sleep(rhythm.first_s)
        reading = None
    while True:
        try:
            reading = reading or await poll()
            decision = poller.good(reading, dice=random.random())  # noqa: S311 - spreads load, keeps no secret
            if isinstance(decision, Fetch):
                reading = await provider.fetch(job, reading)
                return outcome_of(reading, None)
        except ProviderError as exc:
            warn(f"{exc} ({exc.code})")
            decision = poller.bad(exc, dice=0.5, age_s=trio.current_time() - began)
        assert not isinstance(decision, Fetch), "an error brings no reading"  # noqa: S101
        if isinstance(decision, End):
            return decision.outcome
        if reading is not None and reading.keep:
            job = Job(job.id, {**job.keep, **reading.keep})
            poll = provider.poll_of(job)
        reading = None
        await trio.sleep(decision.seconds)


# -- what the command line says ---------------------------------------------------------------------------


def _task(task_input: msgspec.Raw) -> Task:
    return Task(id="try", algorithm="try", input=task_input, token=os.urandom(16).hex(), user="try", accepted_at=0.0)


def _input(data: str | None, file: Path | None) -> msgspec.Raw | None:
    if data is not None and file is not None:
        raise click.UsageError("say --data or --input, not both")
    if file is not None:
        return msgspec.Raw(json.dumps(parse_json(read_text(file), str(file))).encode())
    return None if data is None else msgspec.Raw(json.dumps(parse_json(data, "--data")).encode())


def _defaults(recipe: Recipe) -> dict[str, Any]:
    return {name: row.default for name, row in recipe.params.items() if row.default is not None}


def _params(recipe: Recipe, pairs: tuple[str, ...], *, optional: bool) -> dict[str, Any]:
    """The parameters; those that are missing stand for themselves where nothing is sent."""
    params = _defaults(recipe)
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in recipe.params:
            known = ", ".join(recipe.params) or "none"
            raise click.UsageError(f'--param: expected NAME=VALUE of a parameter of the recipe ({known}), got "{pair}"')
        default = recipe.params[name].default
        params[name] = text if default is None or isinstance(default, str) else parse_json(text, f"--param {name}")
    for name, row in recipe.params.items():
        if name not in params:
            if not optional:
                raise click.UsageError(f"--param {name}=… is missing: {row.about}")
            params[name] = name.upper()
    return params


def _secret(recipe: Recipe, variable: str | None) -> str | None:
    if variable is not None:
        if not os.environ.get(variable):
            raise click.UsageError(f"--secret-env: the environment has no {variable}")
        return os.environ[variable]
    if recipe.secret_required:
        raise click.UsageError("the recipe needs a key: say in --secret-env which environment variable has it")
    return None
