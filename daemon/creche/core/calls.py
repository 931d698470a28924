"""Writes the requests of one account by its recipe: URLs, headers with the credential, bodies. Sends nothing.

Whose URL it is decides about the credential: the origin of `base`, and those in the recipe's `origins`, see it. Answers
may name other URLs; those are asked without, and only where the whole internet could ask them too.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from creche.core.encoding import ENCODINGS
from creche.core.exchange import Call
from creche.core.reading import Redaction, as_text
from creche.core.recipe import Recipe
from creche.core.recipe_steps import Step
from creche.core.task import Job, Task
from creche.core.template import MissingValue, body_fields, fill_text, fill_tree, fill_url
from creche.errors import AnswerError

_DEFAULT_PORTS = {"http": 80, "https": 443}

RENEW_PART = 0.5
"""After which part of a token's life the next one is made: what was sent with the old one is answered long before."""


class Calls:
    """Writes requests. `params` hold every parameter of the recipe; `secret` is never shown.

    A credential that is made from the secret (a JWT) is good for a while: `renew` makes the next one, and is to be
    called from `renew_at` on, in Unix seconds. What was written before goes on with the old one.
    """

    def __init__(self, recipe: Recipe, *, base: str, params: Mapping[str, Any], secret: str | None) -> None:
        self.base = base.rstrip("/")
        self.params = dict(params)
        self._recipe = recipe
        self._secret = secret
        self._texts = {name: as_text(value) for name, value in params.items()}
        steps = (recipe.create, recipe.lookup, recipe.poll, recipe.many, recipe.fetch, recipe.cancel)
        self._headers = {id(step): _merged(recipe, step) for step in steps if step is not None}
        self._trusted = {origin_of(url) for url in (base, *recipe.origins)}
        self._inward = not _is_public(base)
        self._jwt = ""
        self._credentials: list[tuple[str, str]] = []
        self.redaction = Redaction(None)
        """For whatever is said about a request and its answer."""
        self.renew_at = math.inf
        self.renew(0.0)
        if recipe.jwt is not None and secret:
            self.renew_at = 0.0

    def renew(self, now: float) -> None:
        """Make the credential anew."""
        shown = [self._jwt]
        if self._secret and self._recipe.jwt is not None:
            self._jwt = self._recipe.jwt.mint(self.params, self._secret, now)
            self.renew_at = now + RENEW_PART * self._recipe.jwt.lives_s
        values = {"secret": self._secret or "", "jwt": self._jwt}
        headers = self._recipe.credentials.items() if self._secret else ()
        self._credentials = [(name, fill_text(value, values)) for name, value in headers]
        self.redaction = Redaction(self._secret, [*shown, self._jwt, *(value for _, value in self._credentials)])

    def headers_of(self, step: Step) -> tuple[tuple[str, str], ...]:
        """The templates of a step's headers, without the credential."""
        return self._headers[id(step)]

    def names(self, *, job: Job | None = None, task: Task | None = None) -> dict[str, str]:
        """What templates may name, as texts."""
        names = dict(self._texts)
        if job is not None:
            names["job"] = job.id
            names.update((f"keep.{name}", value) for name, value in job.keep.items())
            if self._recipe.poll.wait_s:
                names["wait"] = as_text(self._recipe.poll.wait_s)
        if task is not None:
            names |= {"task": task.id, "token": task.token}
            if task.user is not None:
                names["user"] = task.user
        return names

    def about_job(self, step: Step, job: Job) -> Call:
        """A request about a job. Raises `AnswerError` where the provider never named what it needs."""
        try:
            return self.write(step, self.names(job=job))
        except MissingValue as exc:
            raise AnswerError(f'the request needs "{exc.args[0]}", which no answer of the provider named') from exc

    def write(
        self,
        step: Step,
        names: Mapping[str, str],
        task_input: msgspec.Raw | None = None,
        *,
        target: str = "",
        ids: Sequence[str] = (),
    ) -> Call:
        """The request of a step, at its own URL or at `target`, a template as well. `ids` are for the body.

        Raises `MissingValue` for a name that stands for nothing, `msgspec.DecodeError` for an input that is not what
        the body needs, and `AnswerError` for a URL that must not be asked, or a body that cannot be written.
        """
        headers = [(name, fill_text(value, names)) for name, value in self._headers[id(step)]]
        body = None
        if step.body is not None:
            typed = {**names, **self.params} | ({"ids": ids} if ids else {})
            try:
                body, media_type = ENCODINGS[step.encoding](fill_tree(step.body, typed, task_input))
            except msgspec.DecodeError as exc:
                if "input" in body_fields(step.body):
                    raise
                raise AnswerError(f"the request's body cannot be written: {exc}") from exc
            if not any(name.lower() == "content-type" for name, _ in headers):
                headers.append(("Content-Type", media_type))
        return self.at(self.whole(fill_url(target or step.url, names)), step.method, headers, body)

    def whole(self, url: str) -> str:
        """A path below `base` as a URL."""
        return self.base + url if url.startswith("/") else url

    def at(self, url: str, method: str, headers: list[tuple[str, str]], body: bytes | None = None) -> Call:
        """A request at a URL, with the credential if that is the provider's own. Raises `AnswerError`."""
        trusted = origin_of(url) in self._trusted
        public_only = not trusted and not self._inward
        if public_only and not _is_public(url):
            raise AnswerError(f"the provider names a URL on {_host_of(url)!r}, which is no public address: not asked")
        return Call(
            method=method,
            url=url,
            headers=(*headers, *self._credentials) if trusted else tuple(headers),
            body=body,
            public_only=public_only,
        )


def _merged(recipe: Recipe, step: Step) -> tuple[tuple[str, str], ...]:
    """Header templates of one step: ours, then the recipe's, then the step's; names differ by more than case."""
    ours = {"Accept": "application/json", "User-Agent": "creche"}
    merged = {name.lower(): (name, value) for name, value in ({**ours, **recipe.headers, **step.headers}).items()}
    return tuple(merged.values())


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port (RFC 6454); a URL that cannot be read has an origin that equals no other."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", url, None


def _host_of(url: str) -> str:
    return origin_of(url)[1]


def _is_public(url: str) -> bool:
    """Whether a URL's host may be in the public internet: by its looks, for nobody asks a name server here.

    What cannot be sent at all is for the transport to refuse.
    """
    scheme, host, _ = origin_of(url)
    host = host.removesuffix(".")
    if scheme not in _DEFAULT_PORTS or not re.fullmatch(r"[a-z0-9._:-]+", host):
        return scheme != "http+unix"
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        # Names of one label, and these, are of the machine or the house. What ends in a number is an address after all.
        inward = "." not in host or host.endswith((".localhost", ".local", ".internal", ".home.arpa"))
        return not inward and not re.search(r"\.([0-9]+|0x[0-9a-f]*)$", host)
