"""What a recipe says about each kind of request, once it is checked. How it is written: `core.recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from creche.core.reading import JobStatus, Progress, Rule, Source
from creche.core.way import Repeat

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
FORMATS = ("json", "jsonl", "text", "binary")
NEXT_BY = ("value", "last_id", "offset", "page")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What all requests have in common."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Any
    encoding: str


class CreateStep(Step, frozen=True, kw_only=True):
    """`repeat`: what can be done about a create that may have arrived (`core.way`), for `repeat_within_s` after it.

    `exists`, and `exists_pattern` in the body: there is a job of this id. `tells_state`: the answer is read like a
    poll's.
    """

    id: Source | None
    keep: Mapping[str, Source]
    repeat: Repeat
    repeat_within_s: float
    busy: frozenset[int]
    exists: frozenset[int]
    exists_pattern: str
    tells_state: bool


class PollStep(Step, frozen=True, kw_only=True):
    """How to ask, and how to read the answer. Times in seconds.

    `once`: an end is told only once, result and all. `wait_s`: for how long the provider may hold the request.
    """

    status: str | None
    statuses: Mapping[str, JobStatus]
    ignore_case: bool
    rules: tuple[Rule, ...]
    keep: Mapping[str, Source]
    progress: Progress | None
    result: str
    error: tuple[str, ...]
    retry_after: Source | None
    first_s: float
    every_s: float
    grow: float
    up_to_s: float
    grace_s: float
    wait_s: float
    once: bool


class ListStep(Step, frozen=True, kw_only=True):
    """What is common to requests for a list. `items` is where they are in the answer.

    `next` is a value for the query parameter `next_param`, or a URL where that is empty. Without it the parameter is
    counted on, as `next_by` says. `more`: the list ends where this is false or absent. No more than `pages` are asked
    for.
    """

    items: str
    next: str | None
    next_param: str
    next_by: str
    more: str | None
    pages: int


class ManyStep(ListStep, frozen=True, kw_only=True):
    """One request about many jobs, by their ids or as a list of what there is, and where its answer has each of them.

    `max` jobs at most per request. What an item says is read as a poll's answer; `item` is where the latter has what
    the former is, and `whole` is False where items tell less of an end.
    """

    max: int
    separator: str
    keyed_by_id: bool
    id: Source | None
    item: str
    whole: bool


class LookupStep(ListStep, frozen=True, kw_only=True):
    """The list in which a job is looked for whose create may have arrived: the item whose `tag` is the task's token.

    Items come newest first; `created` is where they say when they were made. A job may be missing from the list for
    `appears_within_s` after its create. `empty`: HTTP statuses that mean an empty list.
    """

    tag: Source
    id: Source
    keep: Mapping[str, Source]
    created: str | None
    empty: frozenset[int]
    appears_within_s: float


class FetchStep(Step, frozen=True, kw_only=True):
    """The second request. `after`: which ends need it; `failed`: HTTP statuses by which the job itself has failed;
    `once`: the result is given out only once.
    """

    after: frozenset[JobStatus]
    result: str
    error: tuple[str, ...]
    format: str
    failed: frozenset[int]
    once: bool


class CancelStep(Step, frozen=True, kw_only=True):
    """`agreed`: HTTP statuses after which no further request is needed.

    `deletes`: the request also removes a job that is over, result and all. `ends_as`: how a job that was cancelled
    ends, besides `cancelled`.
    """

    agreed: frozenset[int]
    deletes: bool
    ends_as: frozenset[JobStatus]


class Assets(msgspec.Struct, frozen=True, kw_only=True):
    """Files that belong to a result. `urls`: pointers into the result, to their URLs or to whatever holds these.

    `url`: a template of the URL of the one file that there is.
    """

    urls: tuple[str, ...]
    url: str


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """What an account of the provider may do, as far as the provider says: an algorithm's limits, if not its own."""

    in_flight: int | None
    creates_per_s: float | None
    polls_per_s: float | None
