"""Templates and pointers."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.core.template import (
    MISSING,
    MissingValue,
    body_fields,
    fill_body,
    fill_text,
    fill_url,
    is_pointer,
    point,
    url_fields,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=12,
)


def places(document: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - any JSON
    """Every pointer into a document, with what it names."""
    found = [("", document)]
    if isinstance(document, dict):
        steps = [(name.replace("~", "~0").replace("/", "~1"), child) for name, child in document.items()]
    elif isinstance(document, list):
        steps = [(str(index), child) for index, child in enumerate(document)]
    else:
        steps = []
    return found + [(f"/{step}{rest}", value) for step, child in steps for rest, value in places(child)]


@given(JSON)
def test_a_pointer_finds_every_part(document: Any) -> None:  # noqa: ANN401 - any JSON
    """With the escapes of RFC 6901."""
    for pointer, value in places(document):
        assert is_pointer(pointer)
        assert point(document, pointer) == value


@given(JSON, st.lists(st.text(max_size=4), max_size=4))
def test_a_pointer_into_nothing_is_missing(document: Any, names: list[str]) -> None:  # noqa: ANN401 - any JSON
    """No document and no pointer raise anything."""
    pointer = "".join(f"/{name.replace('~', '~0').replace('/', '~1')}" for name in names)
    known = [value for place, value in places(document) if place == pointer]
    found = point(document, pointer)
    assert found is MISSING or known == [found] or any(name.isdecimal() for name in names)


@pytest.mark.parametrize(
    ("text", "valid"), [("", True), ("/", True), ("/a~0~1", True), ("a", False), ("/a~", False), ("/~2", False)]
)
def test_a_pointer_is_empty_or_begins_with_a_slash(text: str, valid: bool) -> None:  # noqa: FBT001 - a table of cases
    """A tilde is followed by 0 or 1."""
    assert is_pointer(text) is valid


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_plain_field_stays_within_its_segment(value: str) -> None:
    """Whatever an id holds, it can neither leave its path segment nor add a query."""
    url = fill_url("https://api.example/jobs/{job}/state", {"job": value})
    assert url.isascii()
    parts = urlsplit(url)
    assert (parts.netloc, parts.query, parts.fragment) == ("api.example", "", "")
    assert [unquote(segment) for segment in parts.path.split("/")] == ["", "jobs", value, "state"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_reserved_field_is_still_safe_to_send(value: str) -> None:
    """Slashes and the like are kept; spaces, control characters and non-ASCII never reach the request line."""
    url = fill_url("{+url}", {"url": value})
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url


def test_a_reserved_field_keeps_a_url_as_it_is() -> None:
    """What is percent-encoded already is not encoded again."""
    url = "https://api.example:8443/a/b%20c?x=1&y=%2F#z"
    assert fill_url("{+url}", {"url": url}) == url


def test_header_values_are_filled_without_encoding() -> None:
    """Other braces stay."""
    assert fill_text('Bearer {secret} {"x"}', {"secret": "a b/c"}) == 'Bearer a b/c {"x"}'


@pytest.mark.parametrize("fill", [fill_url, fill_text])
def test_a_value_that_is_not_there_is_named(fill: Any) -> None:  # noqa: ANN401 - two functions of one shape
    """So that the message can say what the recipe asked for."""
    with pytest.raises(MissingValue, match=r"^keep\.url$"):
        fill("/x/{keep.url}", {})


def test_the_fields_of_a_template_are_known_before_it_is_used() -> None:
    """A recipe is checked when it is loaded."""
    assert url_fields("/a/{job}/{+keep.url}?{{x}") == ["job", "keep.url", "x"]
    assert body_fields({"a": ["$input/x", {"b": "$model"}], "c": 1, "d": "plain"}) == {"input", "model"}


def test_the_input_is_passed_on_verbatim() -> None:
    """Byte for byte: spaces, number formats and the order of keys are the client's."""
    given_input = b'{"b": 1.0,  "a":1e2}'
    assert fill_body("$input", {}, msgspec.Raw(given_input)) == given_input
    assert fill_body({"input": "$input"}, {}, msgspec.Raw(given_input)) == b'{"input":' + given_input + b"}"


def test_a_part_of_the_input_can_be_placed() -> None:
    """By pointer; what is not there is left out, with its key."""
    body = fill_body({"p": "$input/a/0", "q": "$input/b", "r": ["$input/c", 1]}, {}, msgspec.Raw(b'{"a":[{"x":1}]}'))
    assert msgspec.json.decode(body) == {"p": {"x": 1}, "r": [1]}


def test_parameters_keep_their_type() -> None:
    """A number stays a number; an absent one is left out; other texts are texts."""
    body = fill_body({"n": "$n", "f": "$f", "none": "$none", "t": "n"}, {"n": 3, "f": False}, None)
    assert msgspec.json.decode(body) == {"n": 3, "f": False, "t": "n"}


def test_a_body_of_nothing_is_null() -> None:
    """A task that came without input still makes a valid body."""
    assert fill_body("$input", {}, None) == b"null"


@given(JSON)
def test_a_body_without_templates_is_sent_as_written(tree: Any) -> None:  # noqa: ANN401 - any JSON
    """Only texts that begin with "$", and the member "...", stand for something else."""
    written = msgspec.json.encode({"x": tree})
    if b"$" not in written and b'"..."' not in written:
        assert fill_body({"x": tree}, {}, None) == written
