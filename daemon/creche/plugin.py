"""For providers that no recipe can describe: what a Python plug-in is, and what it is given.

A package declares an entry point of the group `creche.providers`, whose name is what `plugin = "…"` says in config.toml
and whose object is a `Plugin`. Its `make` gives a `Provider`, most easily a subclass of `PluginProvider`. How to write,
test and install one: docs/how-to/write-a-plugin.md, and examples/aws-batch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from creche.core.classify import error_of
from creche.core.exchange import Answer, Call
from creche.core.polling import Rhythm
from creche.core.reading import JobStatus, Reading, Redaction, retry_after_s
from creche.core.recipe_steps import Caps
from creche.core.recipe_tables import Parameter
from creche.core.task import Job, Task
from creche.core.way import Way
from creche.engine.ports import Poll, Provider
from creche.errors import (
    AnswerError,
    CreateRefused,
    CreateUncertain,
    CredentialsRefused,
    JobNotFound,
    Outage,
    PluginError,
    ProviderError,
    Throttled,
)

__all__ = [
    "Answer",
    "AnswerError",
    "Call",
    "Caps",
    "CreateRefused",
    "CreateUncertain",
    "CredentialsRefused",
    "Http",
    "Job",
    "JobNotFound",
    "JobStatus",
    "Outage",
    "Parameter",
    "Plugin",
    "PluginProvider",
    "Poll",
    "Provider",
    "ProviderError",
    "Reading",
    "Redaction",
    "Rhythm",
    "Settings",
    "Task",
    "Throttled",
    "Way",
    "error_of",
    "find_plugin",
    "installed_plugins",
    "retry_after_s",
]

GROUP = "creche.providers"
"""The group of entry points."""


class Http(Protocol):
    """Carries requests to the provider, each within the algorithm's `timeout`, by its proxy."""

    async def ask(self, call: Call) -> Answer:
        """Send what may be sent again: a poll, a fetch, a cancel. Raises `Outage`, `AnswerError`.

        Any answer is returned, whatever its status.
        """

    async def create(self, call: Call) -> Answer:
        """Send a create. Raises `Outage` where certainly nothing arrived, `CreateRefused` for what can never be sent,
        `CreateUncertain` where it cannot be told. Not to be cancelled.
        """


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an algorithm says. `params` have every parameter of the plug-in; `wall` gives Unix seconds."""

    base: str
    params: Mapping[str, Any]
    secret: str | None
    http: Http
    wall: Callable[[], float]

    def __repr__(self) -> str:
        return f"Settings(base={self.base!r})"  # the secret is never shown


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of provider, in Python. `base`, `params`, `caps` and `rhythm` are defaults for the algorithms.

    `names_files`: `Provider.assets_of` gives something, so that `assets = "save"` is of use.
    """

    title: str
    make: Callable[[Settings], Provider]
    name: str = ""
    base: str = ""
    params: Mapping[str, Parameter] = {}
    secret_required: bool = True
    caps: Caps = Caps(in_flight=None, creates_per_s=None, polls_per_s=None)
    rhythm: Rhythm = Rhythm()
    can_create: bool = True
    can_cancel: bool = True
    names_files: bool = False


class PluginProvider:
    """A `Provider` that needs `create`, `poll`, and where there is such a thing `fetch` and `cancel`.

    The rest says what most providers are: creates cannot be repeated, jobs are asked for one by one.
    """

    way = Way()
    told_once = False
    given_once = False
    cancel_deletes = False
    cancel_ends: frozenset[JobStatus] = frozenset()
    batch = 1
    account = ""

    async def create(self, task: Task) -> Reading:  # noqa: ARG002 - for subclasses
        """As `Provider.create`."""
        raise CreateRefused("this plug-in only attaches to jobs that exist")

    async def find(self, task: Task) -> Reading | None:  # noqa: ARG002 - for subclasses
        """As `Provider.find`."""
        raise AnswerError("this plug-in cannot look for jobs")

    async def poll(self, job: Job) -> Reading:  # noqa: ARG002 - for subclasses
        """Ask for a job's state. Raises as `Provider.poll_of`'s questions."""
        raise AnswerError("this plug-in cannot poll")

    def poll_of(self, job: Job) -> Poll:
        """As `Provider.poll_of`: each question is a `poll`."""
        return _EachTime(partial(self.poll, job))

    async def poll_many(self, jobs: Sequence[Job]) -> Mapping[str, Reading]:  # noqa: ARG002 - for subclasses
        """As `Provider.poll_many`."""
        return {}

    async def fetch(self, job: Job, reading: Reading) -> Reading:  # noqa: ARG002 - for subclasses
        """As `Provider.fetch`."""
        return msgspec.structs.replace(reading, to_fetch=False)

    def assets_of(self, job: Job, reading: Reading) -> Sequence[Call]:  # noqa: ARG002 - for subclasses
        """As `Provider.assets_of`."""
        return ()

    async def cancel(self, job: Job) -> bool:  # noqa: ARG002 - for subclasses
        """As `Provider.cancel`."""
        return False


class _EachTime:
    """A `Poll` whose every question is a call; nothing is asked unattended."""

    __slots__ = ("_ask",)

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask

    async def __call__(self) -> Reading:
        reading: Reading = await self._ask()
        return reading

    def repeat(self, done: Callable[[bool], None], *, step_s: float) -> bool:  # noqa: ARG002 - never
        return False

    def abandon(self) -> None:
        """Nothing was left."""


def installed_plugins() -> list[str]:
    """The names of the plug-ins that are installed."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)})


def find_plugin(name: str) -> Plugin:
    """Import an installed plug-in. Raises `PluginError`: not installed, or broken."""
    points = list(importlib.metadata.entry_points(group=GROUP, name=name))
    if not points:
        there = ", ".join(installed_plugins()) or "none"
        raise PluginError(f'no plug-in is called "{name}" (installed: {there})')
    try:
        plugin = points[0].load()
    except Exception as exc:
        raise PluginError(f'plug-in "{name}" cannot be imported: {type(exc).__name__}: {exc}') from exc
    if not isinstance(plugin, Plugin):
        raise PluginError(f'plug-in "{name}": {points[0].value} is no creche.plugin.Plugin')
    return msgspec.structs.replace(plugin, name=name)
