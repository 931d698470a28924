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
from creche.core.task import Job
from creche.errors import AnswerError, CreateRefused
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
    found = []
    for part in message.iter_parts():
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        found.append((str(part.get_param("name", header="content-disposition")), payload.decode()))
    return found


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


@pytest.mark.parametrize("encoding", ["form", "multipart"])
@pytest.mark.parametrize("task_input", [[1], "text", 7, None, b'{"a":' * 100_000 + b"1" + b"}" * 100_000])
def test_an_input_that_is_no_object_makes_no_form(encoding: str, task_input: object) -> None:
    """Nor one that is nested without end: the create is refused before anything is sent."""
    with pytest.raises(CreateRefused, match="the input cannot be taken apart"):
        call("$input", task_input, encoding)


@pytest.mark.parametrize(
    ("body", "encoding"), [("$model", "form"), ("text", "multipart"), ([1], "form"), ({"...": "$model"}, "json")]
)
def test_a_body_that_cannot_be_written_is_no_defect_of_ours(body: object, encoding: str) -> None:
    """The recipe is wrong: a create is refused, a poll counts as one that failed."""
    poll = {"url": "/{job}", "status": "/s", "statuses": {"failed": ["x"]}, "body": body, "encoding": encoding}
    recipe = load_recipe("r", {"params": {"model": {}}, "poll": poll}, "r.toml")
    binding = Binding(recipe, base="https://x.example", params={"model": "m"}, secret=None)
    with pytest.raises(AnswerError, match=r"^the request's body cannot be written: Expected `object`"):
        binding.poll_call(Job("j"))
    with pytest.raises(CreateRefused, match=r"^the request's body cannot be written: Expected `object`"):
        call(body, {}, encoding)


@pytest.mark.parametrize("name", ['a"; filename="x', "a\r\nX-Evil: 1", "a\nb"])
def test_the_name_of_a_part_stays_in_its_quotes(name: str) -> None:
    """Percent-encoded as browsers do it: it can neither end its header nor add a parameter to it."""
    sent = call("$input", {name: "x"}, "multipart")
    shown = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    assert parts_of(sent) == [(shown, "x")]


@pytest.mark.parametrize("text", ["a\r\nb", "--", "\r\n--\r\n", "\n", "\r\n\r\n", "é☃", ""])
def test_every_text_arrives_in_its_part(text: str) -> None:
    """Line ends and dashes too."""
    assert parts_of(call("$input", {"x": text, "y": "z"}, "multipart")) == [("x", text), ("y", "z")]


def test_the_members_of_an_input_are_no_templates() -> None:
    """Whoever writes an input cannot ask for a parameter."""
    written = b'{"a":"$model","...":"$model"}'
    assert call({"...": "$input"}, written).body == written
