"""The algorithms under test: one for every class of create, against `creche simulate`."""

from __future__ import annotations

from pathlib import Path

import creche

SHIPPED = (Path(creche.__file__).parent / "recipes" / "simulator.toml").read_text(encoding="utf-8")

_CREATE = """\
headers = { Idempotency-Key = "{token}" }
repeat = "token"
body = "$input"
"""
_RESULT = 'result = "/output"\n'
_FETCH = '\n[fetch]\nurl = "{+keep.result}"\n'
_LOOKUP = """
[lookup]
url = "/v1/jobs?limit=100"
items = "/jobs"
tag = "/metadata/create"
id = "/id"
created = "/created_at"
next = "/last"
next_param = "after"
pages = 50
appears_within = "0s"
"""
_TAGGED = 'body = { prompt = "$input/prompt", simulate = "$input/simulate", metadata = { create = "$token" } }\n'


def _recipe(create: str, *, fetch: bool = False, lookup: bool = False) -> str:
    assert _CREATE in SHIPPED
    assert _RESULT in SHIPPED
    text = SHIPPED.replace(_CREATE, create)
    if fetch:
        text = text.replace(_RESULT, _RESULT + 'keep = { result = "/result_url" }\n') + _FETCH
    return text + (_LOOKUP if lookup else "")


RECIPES = {
    "token": _recipe(_CREATE),
    "fetched": _recipe(_CREATE, fetch=True),
    "none": _recipe('repeat = "none"\nbody = "$input"\n'),
    "lookup": _recipe(f'repeat = "lookup"\n{_TAGGED}', lookup=True),
}
"""The text of each recipe. `none` is the only one of which a create that may have arrived waits for a person."""


def config(base: str, store: Path) -> str:
    """The daemon's configuration."""
    algorithms = "".join(
        f'[algorithms.{name}]\nrecipe = "{name}.toml"\nbase = "{base}"\npoll_every = "200ms"\n' for name in RECIPES
    )
    return (
        '[socket]\npath = "creche.sock"\n[tcp]\nenabled = false\n'
        f'[store]\npath = "{store}"\n[log]\nformat = "json"\n{algorithms}'
    )
