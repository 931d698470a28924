"""How bodies are written: inputs among fixed members, forms, and parts of forms."""

from __future__ import annotations

import email.parser
import email.policy
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest

from creche.core.binding import Binding
from creche.core.exchange import Call
from creche.core.recipe import load_recipe
from creche.errors import CreateRefused
from creche.testing import make_task


def call(body: object, task_input: object, encoding: str = "json", **create: Any) -> Call:  # noqa: ANN401 - any key
    raw = task_input if isinstance(task_input, bytes) else msgspec.json.encode(task_input)
    recipe = {
        "params": {"model": {"default": "m"}, "steps": {"default": 4}},
        "create": {"url": "/jobs", "id": "/id", "body": body, "encoding": encoding, **create},
        "poll": {"url": "/{job}", "status": "/s", "statuses": {"failed": ["x"]}},
    }
    binding = Binding(
        load_recipe("r", recipe, "r.toml"), base="https://x.example", params={"model": "m", "steps": 4}, secret=None
    )
    return binding.create_call(make_task("t", input=msgspec.Raw(raw)))


def json_of(body: object, task_input: object) -> object:
    return msgspec.json.decode(call(body, task_input).body or b"")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"...": "$input", "deferred": True}, {"prompt": "p", "model": "own", "deferred": True}),
        ({"...": "$input", "model": "$model"}, {"prompt": "p", "model": "m"}),
        ({"model": "$model", "...": "$input"}, {"model": "own", "prompt": "p"}),
        ({"input": {"...": "$input"}, "steps": "$steps"}, {"input": {"prompt": "p", "model": "own"}, "steps": 4}),
        ({"...": "$input/nothing", "x": 1}, {"x": 1}),
    ],
)
def test_an_input_among_fixed_members(body: object, expected: object) -> None:
    """What comes later counts more; a part of the input that is not there brings nothing."""
    assert json_of(body, {"prompt": "p", "model": "own"}) == expected


def test_members_of_the_input_stay_as_they_were_written() -> None:
    """A number keeps its digits, and a text its escapes."""
    sent = call({"...": "$input", "x": 1}, rb'{"seed": 1.50, "text": "\u00e9", "big": 12345678901234567890123}')
    assert sent.body == rb'{"seed":1.50,"text":"\u00e9","big":12345678901234567890123,"x":1}'


@pytest.mark.parametrize("task_input", [3, "text", [1], None])
def test_an_input_that_is_no_object_cannot_be_spread(task_input: object) -> None:
    """The task is refused, with what is expected."""
    with pytest.raises(CreateRefused, match="Expected `object`"):
        call({"...": "$input"}, task_input)


def test_a_text_that_begins_with_two_dollars_is_itself() -> None:
    """With one of them less."""
    assert json_of({"price": "$$5", "query": "$$input", "a": "b$c"}, {}) == {
        "price": "$5",
        "query": "$input",
        "a": "b$c",
    }


def test_a_form_has_a_field_for_each_member() -> None:
    """A list is several fields; what is deeper is written as JSON."""
    sent = call(
        {"...": "$input", "steps": "$steps"}, {"a b": "ü&=", "tags": ["x", "y"], "on": True, "deep": {"k": [1]}}, "form"
    )
    assert dict(sent.headers)["Content-Type"] == "application/x-www-form-urlencoded"
    fields = [("a b", "ü&="), ("tags", "x"), ("tags", "y"), ("on", "true"), ("deep", '{"k":[1]}'), ("steps", "4")]
    assert parse_qsl((sent.body or b"").decode()) == fields


def parts_of(sent: Call) -> list[tuple[str, str]]:
    """Read by a parser that others wrote."""
    head = f"Content-Type: {dict(sent.headers)['Content-Type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + (sent.body or b""))
    return [
        (str(part.get_param("name", header="content-disposition")), part.get_content()) for part in message.iter_parts()
    ]


def test_a_multipart_form_has_a_part_for_each_member() -> None:
    """As RFC 7578 has it, with nothing but texts."""
    sent = call({"config": "$input", "model": "$model"}, {"url": "https://x"}, "multipart")
    assert parts_of(sent) == [("config", '{"url":"https://x"}'), ("model", "m")]


def test_a_part_cannot_be_forged() -> None:
    """Who writes an input cannot know the boundary, which is made of it; and line breaks in names are encoded."""
    first = call({"text": "$input/text"}, {"text": "x"}, "multipart")
    boundary = dict(first.headers)["Content-Type"].partition("boundary=")[2]
    forged = f'x\r\n--{boundary}\r\nContent-Disposition: form-data; name="admin"\r\n\r\ntrue'
    assert parts_of(call({"text": "$input/text"}, {"text": forged}, "multipart")) == [("text", forged)]
    odd = call("$input", {'a"\r\nX-Evil: 1': "v"}, "multipart")
    assert b'name="a%22%0D%0AX-Evil: 1"' in (odd.body or b"")


def test_a_repeated_create_is_written_in_the_same_bytes() -> None:
    """Its boundary, too."""
    assert call("$input", {"a": "b"}, "multipart") == call("$input", {"a": "b"}, "multipart")


def test_a_content_type_of_the_recipe_stays() -> None:
    """Some APIs want a version in it."""
    sent = call("$input", {}, headers={"content-type": "application/vnd.api+json"})
    assert [value for name, value in sent.headers if name.lower() == "content-type"] == ["application/vnd.api+json"]
