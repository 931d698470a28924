"""The files that belong to a result: where they are found, how they are called, who is asked with the credential."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.core.assets import MAX_ASSETS, file_name, urls_in
from creche.core.binding import Binding
from creche.core.reading import JobStatus, Reading
from creche.core.recipe import load_recipe
from creche.core.task import Job
from creche.errors import AnswerError

X = "https://x.example/"


def found(result: object, *pointers: str) -> list[str]:
    raw = result if isinstance(result, bytes) else msgspec.json.encode(result)
    return urls_in(msgspec.Raw(raw), pointers or ("",))


@pytest.mark.parametrize(
    ("result", "urls"),
    [
        (f"{X}1", [f"{X}1"]),
        ([f"{X}2", f"{X}1", f"{X}2"], [f"{X}2", f"{X}1"]),
        ({"b": [{"url": f"{X}2"}], "a": f"{X}1"}, [f"{X}2", f"{X}1"]),
        ([["no", 1, None, True, "ftp://x/1", "data:,x", "HTTPS", f"see {X}"], "http://x/1"], ["http://x/1"]),
        ([X + "a" * 8000, f"{X}1"], [f"{X}1"]),
        (None, []),
        ({}, []),
    ],
)
def test_every_text_that_is_a_url_counts(result: object, urls: list[str]) -> None:
    """Each once, in the order of the result; one without end is none."""
    assert found(result) == urls


def test_pointers_say_where_to_look() -> None:
    """In their order; where nothing stands nothing is found."""
    result = {"a": f"{X}1", "b": {"c": [f"{X}2"]}, "d": f"{X}3"}
    assert found(result, "/b", "/nothing/0", "/a", "/b/c/0") == [f"{X}2", f"{X}1"]


def test_there_is_an_end_to_what_is_saved() -> None:
    """The first of a long list."""
    assert found([f"{X}{number}" for number in range(300)]) == [f"{X}{number}" for number in range(MAX_ASSETS)]


def test_a_result_may_be_nested_deeply() -> None:
    """As deeply as it can be read at all; beyond that it is an error, and no defect of ours."""
    deep: Any = [f"{X}1"]
    for _ in range(700):
        deep = [deep]
    assert found(deep) == [f"{X}1"]
    with pytest.raises(AnswerError, match="nested too deeply"):
        found(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(
    ("url", "media_type", "name"),
    [
        (f"{X}out/heron.PNG?sig=a.b", "text/html", "007.png"),
        (f"{X}out/heron", "image/png; charset=x", "007.png"),
        (f"{X}v1.5/heron", "application/json", "007.json"),
        (f"{X}heron.tar.gz", "x", "007.gz"),
        (f"{X}a.waytoolongending", "no/such", "007"),
        (f"{X}..%2f..%2fetc", "", "007"),
        (f"{X}a.p/../../x", "", "007"),
    ],
)
def test_a_file_is_called_by_its_number(url: str, media_type: str, name: str) -> None:
    """With an ending by the URL, else by the media type; nothing of a URL can lead to another folder."""
    assert file_name(7, url, media_type) == name


def test_files_elsewhere_are_asked_for_without_the_credential() -> None:
    """And only in the public internet; the provider's own are asked for with it."""
    poll = {"url": "/{job}", "status": "/s", "statuses": {"succeeded": ["ok"]}}
    data = {"auth": {"X-Key": "{secret}"}, "headers": {"X-Version": "2"}, "assets": {"urls": ""}, "poll": poll}
    binding = Binding(load_recipe("r", data, "r.toml"), base="https://api.example/v1", params={}, secret="k")

    def calls(*urls: str) -> list[tuple[bool, bool]]:
        reading = Reading(status=JobStatus.SUCCEEDED, result=msgspec.Raw(msgspec.json.encode(urls)))
        asked = binding.asset_calls(Job("j"), reading)
        assert {call.method for call in asked} == {"GET"}
        return [("X-Key" in dict(call.headers), call.public_only) for call in asked]

    assert calls("https://api.example/files/1", f"{X}2") == [(True, False), (False, True)]
    with pytest.raises(AnswerError, match="no public address: not asked"):
        calls("http://169.254.169.254/latest")
