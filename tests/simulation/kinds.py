"""The kinds of provider in the simulated worlds: one recipe each, for every class of create and way to a result."""

from __future__ import annotations

from typing import NamedTuple

SECRET = "s3cret"

MAX_INLINE = 1024
"""Results beyond this many bytes are files."""


class Kind(NamedTuple):
    """One algorithm and its provider. `anew`: by configuration a second job is risked where nobody can tell."""

    name: str
    repeat: str
    fetch: str = ""
    once: bool = False
    many: bool = False
    cancel: bool = True
    anew: bool = False

    @property
    def recipe(self) -> str:
        """The recipe's text."""
        create = {
            "none": 'url = "/jobs"',
            "token": 'url = "/jobs"\nrepeat = "token"\nheaders = { Idempotency-Key = "{token}" }',
            "id": 'method = "PUT"\nurl = "/jobs/{token}"\nrepeat = "id"\nexists = [409]',
            "lookup": 'url = "/jobs"\nrepeat = "lookup"',
        }[self.repeat]
        parts = [
            _EVERY_RECIPE.replace("NAME", self.name).replace("CREATE", create),
            "once = true\n" if self.once else "",
            _STATUSES,
            _LOOKUP if self.repeat == "lookup" else "",
            _FETCH if self.fetch else "",
            "once = true\n" if self.fetch == "once" else "",
            _MANY if self.many else "",
            _CANCEL if self.cancel else "",
        ]
        return "".join(parts)


_EVERY_RECIPE = """
base = "https://NAME.sim"
[auth]
Authorization = "Bearer {secret}"
[params.form]
default = "a"
[create]
CREATE
id = "/id"
body = { input = "$input", task = "$task", tag = "$token", form = "$form" }
[poll]
url = "/jobs/{job}"
status = "/status"
result = "/result"
error = ["/error"]
keep = { result = "/result_url" }
"""
_STATUSES = """
[poll.statuses]
waiting = ["queued"]
processing = ["running"]
paused = ["paused"]
succeeded = ["done"]
failed = ["failed"]
cancelled = ["cancelled"]
expired = ["expired"]
"""
_LOOKUP = """
[lookup]
url = "/jobs"
items = "/jobs"
tag = "/tag"
id = "/id"
created = "/created"
next = "/next"
next_param = "after"
pages = 20
"""
_FETCH = """
[fetch]
url = "{+keep.result}"
"""
_MANY = """
[many]
method = "POST"
url = "/many"
body = { ids = "$ids" }
max = 3
items = "/jobs"
id = "/id"
"""
_CANCEL = """
[cancel]
url = "/jobs/{job}/cancel"
agreed = [200, 404]
"""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("token", "token", many=True),
        Kind("ident", "id", fetch="again"),
        Kind("plain", "none"),
        Kind("gamble", "none", cancel=False, anew=True),
        Kind("listed", "lookup", fetch="once"),
        Kind("told", "token", once=True),
    )
}
