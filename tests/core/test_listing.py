"""The five ways in which lists go on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.core.exchange import Answer
from creche.core.listing import Pages
from creche.core.recipe import load_recipe
from creche.core.recipe_steps import ManyStep

FIRST = "https://api.example/jobs?limit=2"


def step(**more: Any) -> ManyStep:  # noqa: ANN401 - any key
    many = {"url": "/jobs", "max": 2, "items": "/items", "id": "/id", **more}
    poll = {"url": "/{job}", "status": "/s", "statuses": {"failed": ["x"]}}
    found = load_recipe("r", {"poll": poll, "many": many}, "r.toml").many
    assert found is not None
    return found


def walk(pages: Pages, first: str, *answers: dict[str, Any]) -> list[str | None]:
    """Where each answer leads; items are counted by their ids."""
    here, urls = first, []
    for answer in answers:
        for item in answer.get("items", []):
            pages.count(item)
        following = pages.behind(Answer(status=200, headers={}, body=msgspec.json.encode(answer)), here)
        urls.append(following)
        here = following or here
    return urls


PAGE = {"items": ["a", "b"]}


@pytest.mark.parametrize(
    ("keys", "first", "answers", "urls"),
    [
        ({"next": "/last", "next_param": "after"}, FIRST, [PAGE | {"last": "b&"}, PAGE], [f"{FIRST}&after=b%26", None]),
        (
            {"next": "/token", "next_param": "page"},
            "https://x/j",
            [{"token": "t"}, {"token": ""}],
            ["https://x/j?page=t", None],
        ),
        ({"next": "/next"}, FIRST, [{"next": "?page=2"}, {"next": None}], ["https://api.example/jobs?page=2", None]),
        ({"next_param": "after", "next_by": "last_id"}, FIRST, [PAGE, {"items": []}], [f"{FIRST}&after=b", None]),
        (
            {"next_param": "offset", "next_by": "offset"},
            FIRST,
            [PAGE, PAGE],
            [f"{FIRST}&offset=2", f"{FIRST}&offset=4"],
        ),
        (
            {"next_param": "offset", "next_by": "offset"},
            f"{FIRST}&offset=10&x=1",
            [PAGE, {"items": ["c"]}, {"items": []}],
            [f"{FIRST}&offset=12&x=1", f"{FIRST}&offset=13&x=1", None],
        ),
        ({"next_param": "page", "next_by": "page"}, FIRST, [PAGE, PAGE], [f"{FIRST}&page=2", f"{FIRST}&page=3"]),
        (
            {"next_param": "page", "next_by": "page"},
            f"{FIRST}&page=0",
            [PAGE, PAGE],
            [f"{FIRST}&page=1", f"{FIRST}&page=2"],
        ),
    ],
    ids=["cursor", "token", "url", "last id", "offset", "offset that is there", "page", "page that is there"],
)
def test_lists_go_on(keys: dict[str, Any], first: str, answers: list[dict[str, Any]], urls: list[str | None]) -> None:
    """Each in its way, with the parameter added to the URL or changed in it; what is not there ends the list."""
    assert walk(Pages(step(**keys), first), first, *answers) == urls


@pytest.mark.parametrize("more", [False, None, 0, ""])
def test_a_list_ends_where_it_says_so(more: object) -> None:
    """`more` counts more than that there could be another page."""
    pages = Pages(step(next_param="after", next_by="last_id", more="/has_more"), FIRST)
    assert walk(pages, FIRST, PAGE | {"has_more": True}, PAGE | {"has_more": more}) == [f"{FIRST}&after=b", None]
    assert walk(Pages(step(next_param="p", next_by="page", more="/m"), FIRST), FIRST, PAGE) == [None]


def test_a_page_that_leads_to_itself_is_the_last() -> None:
    """Or it would be asked for again and again."""
    assert walk(Pages(step(next="/next"), FIRST), FIRST, PAGE | {"next": FIRST}) == [None]


def test_pages_are_counted() -> None:
    """Each that came is one less of those that may be asked for."""
    pages = Pages(step(next_param="page", next_by="page", pages=2), FIRST)
    assert pages.left == 2
    walk(pages, FIRST, PAGE)
    assert pages.left == 1


@pytest.mark.parametrize("value", [{"a": 1}, ["x"], True, "x" * 5000])
def test_a_cursor_that_is_none_ends_the_list(value: object) -> None:
    """Tables, lists and whole novels are no cursors."""
    assert walk(Pages(step(next="/n", next_param="c"), FIRST), FIRST, PAGE | {"n": value}) == [None]
