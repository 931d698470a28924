"""The files of the dashboard: how they are served, and that they keep to its policy; scripts/test-browser runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import creche
from creche.core.exchange import Peer, Request
from creche.edges.api_dashboard import INDEX, Dashboard

FOLDER = Path(creche.__file__).parent / "dashboard"
SCRIPTS = sorted(FOLDER.glob("*.js"))
PAGE = (FOLDER / INDEX).read_text(encoding="utf-8")


def request(**headers: str) -> Request:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    peer = Peer(address="a:1", local=False)
    return Request(method="GET", path="/", query=(), headers=headers, body=b"", peer=peer)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_every_file_is_served_with_the_policy(path: Path) -> None:
    """As it lies there, with its type; a browser that has it is told so."""
    dashboard = Dashboard()
    response = dashboard.answer(request(), path.name)
    headers = dict(response.headers)
    assert (response.status, response.body) == (200, path.read_bytes())
    assert response.content_type != "application/json"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    again = dashboard.answer(request(if_none_match=headers["ETag"]), path.name)
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("name", ["other.js", "../config.py", "..", ""])
def test_nothing_else_is_served(name: str) -> None:
    """Only what was there at the start."""
    assert Dashboard().answer(request(), name).status == 404


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    """The policy would not let it run."""
    assert re.findall(r"<script(?![^>]*src=\"/dashboard/)|<style|\sstyle=|\son\w+=|javascript:", PAGE) == []
    assert re.findall(r"https?://|\"//", PAGE) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_markup_of_texts(path: Path) -> None:
    """Elements are made one by one, so that what a task says is always text."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text) == []
    assert re.findall(r"\"https?://(?!www\.w3\.org/2000/svg)", text) == []


def test_scripts_find_what_they_look_for() -> None:
    """Every part of the page that a script asks for by id is there, and every file that it imports."""
    known = set(re.findall(r'\bid="([\w-]+)"', PAGE))
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        asked = set(re.findall(r'\bby\("([\w-]+)"\)', text)) | {
            f"ask{part}" for part in re.findall(r'\bpart\("([\w-]*)"\)', text)
        }
        assert asked - known == set(), path.name
        assert {name for name in re.findall(r'from "\./([\w.]+)"', text) if not (FOLDER / name).exists()} == set()


def test_every_file_is_used() -> None:
    """By the page, or by one that it uses."""
    texts = [PAGE, *(path.read_text(encoding="utf-8") for path in SCRIPTS)]
    unused = [
        path.name for path in FOLDER.iterdir() if path.name != INDEX and not any(path.name in text for text in texts)
    ]
    assert unused == []
