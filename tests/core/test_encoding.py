"""How a body is sent: as JSON, as a form or in parts; and the members that a template takes from an object."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.core.binding import Binding
from creche.core.encoding import ENCODINGS
from creche.core.exchange import Call
from creche.core.recipe import load_recipe
from creche.core.task import Job
from creche.core.template import body_fields, fill_body
from creche.errors import AnswerError, CreateRefused
from creche.testing import make_task

TREE = {"a": "x y&=", "n": 7, "half": 0.5, "yes": True, "none": None, "list": ["1", 2], "deep": {"b": [1, "ü"]}}
FIELDS = [
    ("a", "x y&="),
    ("n", "7"),
    ("half", "0.5"),
    ("yes", "true"),
    ("none", "null"),
    ("list", "1"),
    ("list", "2"),
    ("deep", '{"b":[1,"ü"]}'),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def parts(body: bytes, media_type: str) -> list[tuple[str, str]]:
    """Names and texts of the parts, as the standard library reads them."""
    head = f"Content-Type: {media_type}\r\n\r\n".encode()
    message = message_from_bytes(head + body, policy=policy.HTTP)
    assert message.get_content_type() == "multipart/form-data"
    assert message.defects == []
    found = []
    for part in message.iter_parts():
        assert part.get_content_disposition() == "form-data"
        name = part.get_param("name", header="content-disposition")
        text = part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(text, bytes)
        found.append((name, text.decode()))
    return found


def create_call(
    body: object,
    task_input: bytes | None = b"{}",
    *,
    encoding: str = "json",
    params: dict[str, Any] | None = None,
    **create: Any,
) -> Call:  # noqa: ANN401 - any key of [create]
    """What is sent to make a job of an input."""
    recipe = load_recipe(
        "r",
        {
            "params": {name: {} for name in params or {}},
            "create": {"url": "/jobs", "id": "/id", "body": body, "encoding": encoding, **create},
            "poll": {"url": "/jobs/{job}", "status": "/s", "statuses": {"succeeded": ["ok"]}},
        },
        "r.toml",
    )
    binding = Binding(recipe, base="https://api.test", params=params or {}, secret=None)
    return binding.create_call(make_task("t", input=None if task_input is None else msgspec.Raw(task_input)))


# -- encodings -------------------------------------------------------------------------------------------


def test_a_form_has_a_field_for_each_member() -> None:
    """A list has one for each of its items; what is deeper is JSON; numbers and booleans are as in JSON."""
    body, media_type = ENCODINGS["form"](TREE)
    assert media_type == "application/x-www-form-urlencoded"
    assert parse_qsl(body.decode(), strict_parsing=True) == FIELDS


def test_a_multipart_form_has_a_part_for_each_field() -> None:
    """The same fields."""
    assert parts(*ENCODINGS["multipart"](TREE)) == FIELDS


def test_an_empty_object_makes_an_empty_form() -> None:
    """No field, and still a whole body."""
    body, media_type = ENCODINGS["multipart"]({})
    boundary = media_type.partition("boundary=")[2]
    assert (ENCODINGS["form"]({})[0], body) == (b"", f"--{boundary}--\r\n".encode())


@pytest.mark.parametrize("encoding", ["form", "multipart"])
@pytest.mark.parametrize("value", [[], [[]], {}])
def test_a_list_without_items_has_no_field(encoding: str, value: object) -> None:
    """While an empty list within a list, or an empty object, is something."""
    body, media_type = ENCODINGS[encoding]({"x": value, "y": 1})
    found = parts(body, media_type) if encoding == "multipart" else parse_qsl(body.decode())
    assert found == [
        *[("x", msgspec.json.encode(item).decode()) for item in ([value] if value == {} else list(value))],
        ("y", "1"),
    ]  # type: ignore[call-overload]


@given(
    st.dictionaries(TEXTS.filter(lambda name: not set(name) & set('\r\n"\\') and name.isprintable()), TEXTS, max_size=4)
)
def test_every_text_arrives_in_a_form(fields: dict[str, str]) -> None:
    """Whatever its characters."""
    body, _ = ENCODINGS["form"](fields)
    assert parse_qsl(body.decode(), keep_blank_values=True) == list(fields.items())


@pytest.mark.parametrize("text", ["a\r\nb", "--", "\r\n--\r\n", "\n", "\r\n\r\n", "é☃", ""])
def test_every_text_arrives_in_its_part(text: str) -> None:
    """Line ends and dashes too."""
    assert parts(*ENCODINGS["multipart"]({"x": text, "y": "z"})) == [("x", text), ("y", "z")]


@pytest.mark.parametrize(
    ("name", "shown"),
    [('a"; filename="x', "a%22; filename=%22x"), ("a\r\nX-Evil: 1", "a%0D%0AX-Evil: 1"), ("a\nb", "a%0Ab")],
)
def test_a_name_stays_in_its_quotes(name: str, shown: str) -> None:
    """Written as browsers do it: it can neither end its header nor add a parameter."""
    body, media_type = ENCODINGS["multipart"]({name: "x"})
    assert parts(body, media_type) == [(shown, "x")]
    assert b'filename="' not in body
    assert body.count(b"\r\nX-Evil") == 0


def test_no_input_can_forge_a_boundary() -> None:
    """It depends on all that is sent: to name the one of another body is to have one of its own."""
    body, media_type = ENCODINGS["multipart"]({"x": "a"})
    boundary = media_type.partition("boundary=")[2]
    forged = f'a\r\n--{boundary}\r\nContent-Disposition: form-data; name="admin"\r\n\r\n1'
    assert parts(*ENCODINGS["multipart"]({"x": forged})) == [("x", forged)]


def test_the_same_fields_are_the_same_bytes() -> None:
    """A repeated create is the same request, also to a provider that compares."""
    assert ENCODINGS["multipart"](TREE) == ENCODINGS["multipart"](dict(TREE))
    assert ENCODINGS["multipart"](TREE) != ENCODINGS["multipart"]({**TREE, "n": 8})


@pytest.mark.parametrize(
    ("encoding", "media_type"),
    [("json", "application/json"), ("form", "application/x-www-form-urlencoded"), ("multipart", "multipart/form-data")],
)
def test_the_media_type_is_that_of_the_encoding(encoding: str, media_type: str) -> None:
    """Unless the recipe has a header of its own."""
    headers = dict(create_call("$input", b'{"a":1}', encoding=encoding).headers)
    assert headers["Content-Type"].partition(";")[0] == media_type
    own = create_call("$input", b'{"a":1}', encoding=encoding, headers={"content-type": "text/x"})
    assert [value for name, value in own.headers if name.lower() == "content-type"] == ["text/x"]


@pytest.mark.parametrize("encoding", ["form", "multipart"])
@pytest.mark.parametrize("task_input", [b"[1]", b'"text"', b"7", b"null", None])
def test_a_form_needs_an_object(encoding: str, task_input: bytes | None) -> None:
    """An input that is none is refused before anything is sent."""
    with pytest.raises(CreateRefused, match="the input cannot be taken apart"):
        create_call("$input", task_input, encoding=encoding)


@pytest.mark.parametrize("body", ["$kind", {"...": "$kind"}])
def test_a_body_that_cannot_be_written_is_an_error_of_the_request(body: object) -> None:
    """Of a poll, whose body has no input: it counts, and is no defect of ours."""
    poll = {"url": "/{job}", "status": "/s", "statuses": {"succeeded": ["ok"]}, "body": body, "encoding": "form"}
    recipe = load_recipe("r", {"params": {"kind": {}}, "poll": poll}, "r.toml")
    binding = Binding(recipe, base="https://api.test", params={"kind": "x"}, secret=None)
    with pytest.raises(AnswerError, match="the request's body cannot be written"):
        binding.poll_call(Job("j"))


# -- members of an object --------------------------------------------------------------------------------


def filled(template: object, task_input: bytes = b"{}", **values: object) -> bytes:
    return fill_body(template, values, msgspec.Raw(task_input))


def test_an_object_s_members_take_its_place() -> None:
    """Beside those of the template, at any depth."""
    assert filled({"...": "$input", "b": 2}, b'{"a":1}') == b'{"a":1,"b":2}'
    assert filled({"x": {"...": "$input/in", "b": 2}}, b'{"in":{"a":1}}') == b'{"x":{"a":1,"b":2}}'


def test_later_members_count_more() -> None:
    """What stands before the spread is a default, what stands behind it the last word."""
    template = {"first": "ours", "...": "$input", "last": "ours"}
    assert msgspec.json.decode(filled(template, b'{"first":"theirs","last":"theirs","more":1}')) == {
        "first": "theirs",
        "last": "ours",
        "more": 1,
    }


def test_numbers_stay_as_they_were_written() -> None:
    """No member is read and written anew."""
    given_input = b'{"a":1.0,"b":1e2,"c":123456789012345678901234567890,"d":{ "x" : 0.10 }}'
    assert filled({"...": "$input"}, given_input) == given_input


def test_what_is_not_there_has_no_members() -> None:
    """A part of the input that is absent, like any other value."""
    assert filled({"...": "$input/options", "a": 1}) == b'{"a":1}'


def test_the_members_of_the_input_are_no_templates() -> None:
    """Whoever writes an input cannot ask for a parameter."""
    assert filled({"...": "$input"}, b'{"a":"$key","...":"$key"}', key="k") == b'{"a":"$key","...":"$key"}'


@pytest.mark.parametrize("task_input", [b"[1]", b'"text"', b"7", b"null"])
def test_what_is_no_object_has_no_members(task_input: bytes) -> None:
    """The create is refused, and nothing was sent."""
    with pytest.raises(CreateRefused, match="the input cannot be taken apart"):
        create_call({"...": "$input", "a": 1}, task_input)


def test_an_object_within_the_recipe_may_be_spread_too() -> None:
    """Its texts are templates as everywhere."""
    assert filled({"...": {"a": "$n", "b": "$$n"}}, n=3) == b'{"a":3,"b":"$n"}'
    assert body_fields({"...": {"a": "$n", "b": "$$n"}}) == {"n"}


@pytest.mark.parametrize(
    ("text", "sent"), [("$$", "$"), ("$$5", "$5"), ("$$$x", "$$x"), ("5$$", "5$$"), ("a$b", "a$b")]
)
def test_two_dollars_begin_a_text_with_one(text: str, sent: str) -> None:
    """Anywhere else a dollar is a dollar."""
    assert msgspec.json.decode(filled({"x": text})) == {"x": sent}
    assert body_fields({"x": text}) == set()


def test_a_spread_needs_a_known_name() -> None:
    """As any other place of a template."""
    assert body_fields({"...": "$inptu"}) == {"inptu"}
    assert create_call({"...": "$input", "size": "$size"}, b'{"a":1}', params={"size": 3}).body == b'{"a":1,"size":3}'
