"""The search for the job of a create that may have arrived."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.core.binding import Binding
from creche.core.exchange import Answer
from creche.core.lookup import SKEW_S, Search
from creche.core.reading import JobStatus, Reading
from creche.core.recipe import load_recipe
from creche.core.task import Sent, Status
from creche.errors import AnswerError, Outage, RecipeError
from creche.testing import make_task

SENT_AT = 1_800_000_000.0
TASK = make_task("t", status=Status.CREATING, sent=Sent(SENT_AT, "w"), token="mine")
LOOKUP = {"url": "/jobs?limit=2", "items": "/data", "tag": "/meta/tag", "id": "/id"}
PAGED = {"next": "/last", "next_param": "after"}
CREATE = {"url": "/jobs", "id": "/id", "repeat": "lookup", "body": {"meta": {"tag": "$token"}}}


def search(**lookup: Any) -> Search:  # noqa: ANN401 - any key of [lookup]
    """A search by a recipe with this table."""
    recipe = load_recipe("r", a_recipe(lookup=LOOKUP | lookup), "r.toml")
    return Search(Binding(recipe, base="https://api.test", params={}, secret=None), TASK)


def asked(found: Search) -> str | None:
    """The URL that is to be asked next."""
    return None if found.call is None else found.call.url


def a_recipe(**tables: Any) -> dict[str, Any]:  # noqa: ANN401 - any table of a recipe
    """A recipe as TOML would give it."""
    poll = {"url": "/jobs/{job}", "status": "/status", "statuses": {"succeeded": ["done"]}}
    return {"create": CREATE, "poll": poll, **tables}


def a_page(*tags: str, last: object = None, **item: object) -> Answer:
    """A page of jobs with these tags; their ids are `job-` and the tag."""
    data = [{"id": f"job-{tag}", "meta": {"tag": tag}, **item} for tag in tags]
    return Answer(status=200, headers={}, body=msgspec.json.encode({"data": data, "last": last}))


def test_a_job_is_found_by_its_create_s_token() -> None:
    """With what later requests need."""
    found = search(keep={"where": "/url"})
    assert asked(found) == "https://api.test/jobs?limit=2"
    found.take(a_page("other", "mine", url="https://api.test/x"))
    assert asked(found) is None
    assert found.result() == Reading(status=JobStatus.WAITING, job="job-mine", keep={"where": "https://api.test/x"})


def test_a_job_that_is_not_in_the_whole_list_is_not_there() -> None:
    """The list has an end, and was seen to it."""
    found = search(**PAGED)
    found.take(a_page("a", "b", last="b"))
    assert asked(found) == "https://api.test/jobs?limit=2&after=b"
    found.take(a_page("c"))
    assert asked(found) is None
    assert found.result() is None


def test_a_list_without_pages_is_whole() -> None:
    """Its recipe says so by naming no next one."""
    found = search()
    found.take(a_page())
    assert found.result() is None


def test_a_list_that_goes_on_proves_nothing() -> None:
    """The job may be on a page that was not asked for."""
    found = search(**PAGED, pages=2)
    found.take(a_page("a", last="a"))
    found.take(a_page("b", last="b"))
    assert asked(found) is None
    with pytest.raises(AnswerError, match="no job with the create's token on 2 pages, and the list goes on"):
        found.result()


@pytest.mark.parametrize(
    ("created", "older"),
    [
        (SENT_AT - SKEW_S - 1, True),
        (SENT_AT - SKEW_S + 1, False),
        ((SENT_AT - SKEW_S - 1) * 1000, True),
        ((SENT_AT - SKEW_S + 1) * 1000, False),
        ("2027-01-15T07:50:00Z", True),
        ("2027-01-15T07:50:00", True),
        ("2027-01-15T08:00:00+00:00", False),
        ("some time", False),
        (None, False),
        (True, False),
    ],
)
def test_who_is_older_than_the_create_ends_the_search(created: object, older: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The newest come first, and a job cannot be older than the request that made it; clocks may differ a little."""
    found = search(**PAGED, created="/created")
    found.take(a_page("b", "a", last="a", created=created))
    assert (asked(found) is None) is older
    if older:
        assert found.result() is None


def test_a_list_with_the_oldest_first_is_read_to_its_end() -> None:
    """Whatever its recipe says: the job would be on the last page."""
    found = search(**PAGED, created="/created")
    old, older = SENT_AT - 2 * SKEW_S, SENT_AT - 3 * SKEW_S
    data = [{"id": "a", "created": older}, {"id": "b", "created": old}]
    found.take(Answer(status=200, headers={}, body=msgspec.json.encode({"data": data, "last": "b"})))
    assert asked(found) is not None
    found.take(a_page("mine"))
    assert found.result() is not None


def test_two_jobs_of_one_create_are_nobody_s_choice() -> None:
    """A person must look."""
    found = search()
    page = a_page("mine").body.replace(b"[{", b'[{"id":"job-twin","meta":{"tag":"mine"}},{')
    found.take(Answer(status=200, headers={}, body=page))
    with pytest.raises(AnswerError, match="several jobs carry the token of one create: job-twin, job-mine"):
        found.result()


def test_a_job_without_an_id_cannot_be_minded() -> None:
    """It is there, so a second must not be made."""
    found = search(id="/name")
    with pytest.raises(AnswerError, match="without an id"):
        found.take(a_page("mine"))


@pytest.mark.parametrize(("body", "words"), [(b"{}", "no list of jobs at '/data'"), (b"<html>", "no JSON")])
def test_what_is_no_list_proves_nothing(body: bytes, words: str) -> None:
    """Nor does an error."""
    with pytest.raises(AnswerError, match=words):
        search().take(Answer(status=200, headers={}, body=body))
    with pytest.raises(Outage):
        search().take(Answer(status=503, headers={}, body=b""))


@pytest.mark.parametrize(
    ("tables", "mistake"),
    [
        ({}, 'create: repeat = "lookup" needs the table [lookup], which says how'),
        (
            {"create": CREATE | {"repeat": "none"}, "lookup": LOOKUP},
            'lookup: leave it out, or say [create] repeat = "l',
        ),
        ({"create": CREATE | {"body": "$input"}, "lookup": LOOKUP}, "to be found by"),
        ({"lookup": {"url": "/jobs", "id": "/id"}}, "lookup.tag: missing"),
        ({"lookup": LOOKUP | {"tag": {"header": "X-Tag"}}}, "lookup.tag: expected a pointer"),
        ({"lookup": LOOKUP | {"pages": 2}}, "lookup.pages: leave it out"),
        ({"lookup": LOOKUP | {"url": "/jobs/{job}"}}, '"job" is not a parameter'),
    ],
)
def test_recipes_that_cannot_look(tables: dict[str, Any], mistake: str) -> None:
    """Said when the recipe is read, not when a job may be lost."""
    with pytest.raises(RecipeError) as caught:
        load_recipe("r", a_recipe(**tables), "r.toml")
    assert mistake in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "second"),
    [
        ({"next_by": "last_id", "next_param": "after"}, "after=job-b"),
        ({"next_by": "offset", "next_param": "offset"}, "offset=2"),
        ({"next_by": "page", "next_param": "page"}, "page=2"),
    ],
)
def test_a_list_may_be_walked_by_counting(keys: dict[str, Any], second: str) -> None:
    """It ends with a page that has no items, and then all was seen."""
    found = search(**keys)
    found.take(a_page("a", "b"))
    assert asked(found) == f"https://api.test/jobs?limit=2&{second}"
    found.take(a_page())
    assert asked(found) is None
    assert found.result() is None


@pytest.mark.parametrize("more", [False, None, "absent"])
def test_a_list_may_say_that_there_is_no_more(more: object) -> None:
    """Though it has a cursor: then all was seen."""
    found = search(**PAGED, more="/more")
    page = {"data": [], "last": "x"} | ({} if more == "absent" else {"more": more})
    found.take(Answer(status=200, headers={}, body=msgspec.json.encode(page)))
    assert (asked(found), found.result()) == (None, None)
