"""The recipe format: what is understood, and how mistakes are told."""

from __future__ import annotations

from typing import Any

import pytest
import tomli

from creche.core.reading import JobStatus, Progress, Source
from creche.core.recipe import Recipe, load_recipe
from creche.errors import RecipeError

WHOLE = """
title = "Example"
docs = "https://api.example/docs"
base = "https://api.example/v1"
origins = ["https://files.example"]

[params.model]
about = "which model"

[params.steps]
about = "how many"
default = 20

[headers]
X-Version = "2"

[auth]
Authorization = "Bearer {secret}"

[create]
url = "/jobs"
id = "/id"
keep = { poll = "/urls/get", place = { header = "Location", pattern = "/([0-9]+)$" } }
repeat = "token"
headers = { Idempotency-Key = "{token}" }
busy = [429, 503]
body = { input = "$input", model = "$model", steps = "$steps" }

[poll]
url = "{+keep.poll}"
status = "/status"
statuses = { waiting = ["queued"], succeeded = ["done"], failed = ["error", "crashed"] }
progress = { pointer = "/done", of = "/whole" }
result = "/output"
error = ["/error/message", "/error"]
every = "5s"
first = "1s"
grow = 1.5
up_to = "1m"
rules = [{ then = "lost", http = [410, "5xx"], absent = "/id" }]

[fetch]
url = "/jobs/{job}/result"
format = "jsonl"
after = ["succeeded", "failed"]
failed = 422

[cancel]
method = "DELETE"
url = "/jobs/{job}"
"""


def load(text: str) -> Recipe:
    return load_recipe("example", tomli.loads(text), "example.toml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(text)
    return caught.value.mistakes


def minimal(**poll: Any) -> dict[str, Any]:  # noqa: ANN401 - any TOML
    return {"poll": {"url": "/jobs/{job}", "status": "/s", "statuses": {"succeeded": ["ok"]}, **poll}}


def test_a_whole_recipe_is_understood() -> None:
    """Every kind of value arrives where it belongs."""
    recipe = load(WHOLE)
    assert recipe.create is not None
    assert recipe.fetch is not None
    assert recipe.cancel is not None
    assert recipe.credentials == {"Authorization": "Bearer {secret}"}
    assert recipe.secret_required
    assert recipe.create.keep["place"] == Source(header="location", pattern="/([0-9]+)$")
    assert recipe.create.busy == {429, 503}
    assert recipe.poll.statuses == {
        "queued": JobStatus.WAITING,
        "done": JobStatus.SUCCEEDED,
        "error": JobStatus.FAILED,
        "crashed": JobStatus.FAILED,
    }
    assert recipe.poll.progress == Progress("/done", "/whole")
    assert recipe.poll.rules[0].http == {410, *range(500, 600)}
    assert recipe.poll.rules[0].absent == ("/id",)
    assert (recipe.poll.first_s, recipe.poll.every_s, recipe.poll.grow, recipe.poll.up_to_s) == (1.0, 5.0, 1.5, 60.0)
    assert recipe.fetch.after == {JobStatus.SUCCEEDED, JobStatus.FAILED}
    assert recipe.fetch.failed == {422}
    assert recipe.cancel.method == "DELETE"


def test_a_recipe_needs_no_more_than_a_poll() -> None:
    """One that only attaches to jobs; the rest has defaults."""
    recipe = load_recipe("example", minimal(), "example.toml")
    assert (recipe.create, recipe.fetch, recipe.cancel, recipe.title) == (None, None, None, "example")
    assert (recipe.poll.method, recipe.poll.every_s, recipe.poll.grace_s) == ("GET", 3.0, 10.0)
    assert not recipe.secret_required


def test_all_mistakes_are_told_at_once() -> None:
    """Each with file and place."""
    text = WHOLE.replace('"5s"', "5").replace('title = "Example"', "titel = 1").replace('"token"', '"twice"')
    assert mistakes(text) == [
        'example.toml: create.repeat: expected one of none, token, id, lookup, got "twice"',
        'example.toml: poll.every: expected a duration in quotes such as "3s" or "1h", got 5',
        'example.toml: titel: unknown key (did you mean "title"?)',
    ]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('status = "/status"', 'status = "status"', "poll.status: expected a JSON pointer"),
        ('["error", "crashed"]', '["error", "done"]', 'poll.statuses.failed: "done" is mapped to succeeded already'),
        ('then = "lost"', 'then = "gone"', "poll.rules[0].then: expected one of waiting"),
        (', http = [410, "5xx"], absent = "/id"', "", "poll.rules[0].then: a rule needs a condition"),
        ('"5xx"', '"6xx"', 'poll.rules[0].http: expected HTTP statuses such as 404 or "4xx"'),
        ("410", "true", "poll.rules[0].http: expected HTTP statuses"),
        ('"/([0-9]+)$"', '"("', "create.keep.place: the pattern cannot be read"),
        ('"/([0-9]+)$"', '"x"', "create.keep.place: the pattern needs a (group)"),
        ('header = "Location"', 'heder = "Location"', 'create.keep.place: expected texts for "pointer" or "header"'),
        ('"$model"', '"$modle"', 'create: "$modle" is not a parameter, a kept value or one of'),
        ("{token}", "{tokn}", 'create: "tokn" is not a parameter'),
        ("{+keep.poll}", "{+keep.pol}", 'poll: "keep.pol" is not a parameter'),
        ('body = { input = "$input"', 'body = { input = "$job"', 'create: "$job" is not a parameter'),
        ('id = "/id"', "", "create.id: missing; where the answer has the job's id"),
        ('url = "/jobs"\n', "", "create.url: missing; a path below `base`, or a whole URL"),
        (
            '["succeeded", "failed"]',
            '"waiting"',
            "fetch.after: expected some of cancelled, expired, failed, lost, succeeded",
        ),
        ("default = 20", "default = [20]", "params.steps.default: expected a text, a number or a boolean"),
        ('of = "/whole"', f"of = {10**400}", "poll.progress: expected less, got a table"),
        ('of = "/whole"', 'off = "/whole"', 'poll.progress: expected "pointer" and "of"'),
        ("grow = 1.5", "grow = 0.5", "poll.grow: expected a number of at least 1"),
        ("[cancel]", "[cancle]", "cancle: unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_place(old: str, new: str, complaint: str) -> None:
    """What is wrong, and what is expected there."""
    assert old in WHOLE
    found = mistakes(WHOLE.replace(old, new, 1))
    assert any(line.startswith(f"example.toml: {complaint}") for line in found), found


def test_a_poll_needs_a_way_to_find_the_status() -> None:
    """A status with its words, or rules."""
    with pytest.raises(RecipeError, match="expected `status` with a table `statuses`, or `rules`"):
        load_recipe("example", {"poll": {"url": "/x"}}, "example.toml")


def test_a_recipe_without_a_poll_is_refused() -> None:
    """Every job must be asked for its state."""
    assert "example.toml: poll: missing; every recipe says how to poll" in mistakes("")


def test_an_id_of_our_own_needs_no_place_in_the_answer() -> None:
    """`repeat = "id"`: the job is named by our token."""
    recipe = load_recipe("example", minimal() | {"create": {"url": "/jobs/{token}", "repeat": "id"}}, "example.toml")
    assert recipe.create is not None
    assert recipe.create.id is None


def test_credentials_may_be_optional() -> None:
    """A server of one's own may need none."""
    data = minimal() | {"auth": {"Authorization": "Bearer {secret}", "optional": True}}
    assert not load_recipe("example", data, "example.toml").secret_required


@pytest.mark.parametrize("wrong", [1, "x", [], True, [{}], {"x": []}])
@pytest.mark.parametrize("key", ["params", "headers", "auth", "create", "poll", "many", "origins", "title"])
def test_a_value_of_the_wrong_kind_is_a_mistake(key: str, wrong: object) -> None:
    """Never another exception, whatever stands there."""
    try:
        load_recipe("example", minimal() | {key: wrong}, "example.toml")
    except RecipeError as exc:
        assert all(line.startswith("example.toml: ") for line in exc.mistakes)  # noqa: PT017 - some values are right
