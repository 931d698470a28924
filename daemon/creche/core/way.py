"""How the creates of an algorithm go, and what can be done about one of which nobody knows whether it arrived."""

from __future__ import annotations

import math
from typing import Literal, get_args

import msgspec

Repeat = Literal["none", "token", "id", "lookup"]
"""`none`: nothing can be done. `token`: it is repeated, the provider knows it by an idempotency key. `id`: likewise, by
the job's id, which is ours. `lookup`: the job is looked for in a list of the provider's, by a tag that is ours.
"""

REPEATS: tuple[Repeat, ...] = get_args(Repeat)


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How creates go.

    `digest` is equal for two ways by which the same task would be sent to the same place in the same form: only then is
    a second create a repetition of the first. Empty where that is not known. `within_s` is how long the provider
    remembers a create. A job may be missing from the list for `appears_within_s` after its create.
    """

    repeat: Repeat = "none"
    digest: str = ""
    within_s: float = math.inf
    appears_within_s: float = 0.0
