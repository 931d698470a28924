"""Where a shipped recipe looks for a job whose create may have arrived, and how it reads what it finds."""

from __future__ import annotations

import pytest

from creche.core.lookup import Search
from creche.errors import AnswerError
from tests.recipes.conftest import NAMES, answer_with, binding_of, task_with

OTHER = {"id": "j-0", "object": "batch", "metadata": {"creche_create": "of another"}}
OURS = {"id": "j-1", "object": "batch", "metadata": {"creche_task": "t-1", "creche_create": "tok"}}
FOREIGN = {"id": "j-9", "object": "batch", "metadata": None}


def openai_search() -> Search:
    """A search in OpenAI's list of batches."""
    return Search(binding_of("openai-batch"), task_with({}))


def test_openai_batches_are_found_by_their_metadata() -> None:
    """Among those of others, on a later page."""
    search = openai_search()
    assert search.call is not None
    assert search.call.url == "https://api.openai.com/v1/batches?limit=100"
    search.take(answer_with(200, {"object": "list", "data": [FOREIGN, OTHER], "last_id": "j-0", "has_more": True}))
    assert str(search.call.url) == "https://api.openai.com/v1/batches?limit=100&after=j-0"
    search.take(answer_with(200, {"object": "list", "data": [OURS], "last_id": "j-1", "has_more": False}))
    found = search.result()
    assert found is not None
    assert found.job == "j-1"


def test_an_openai_batch_is_only_missing_from_the_whole_list() -> None:
    """The last page is empty, and names no next one."""
    search = openai_search()
    search.take(answer_with(200, {"object": "list", "data": [OTHER], "last_id": "j-0", "has_more": False}))
    with pytest.raises(AnswerError, match="the list goes on"):
        search.result()
    search.take(answer_with(200, {"object": "list", "data": [], "last_id": None, "has_more": False}))
    assert search.result() is None


def test_recipes_that_look_send_what_they_look_for() -> None:
    """The token is in the create's body or headers."""
    looking = [name for name in NAMES if binding_of(name).way.repeat == "lookup"]
    assert "openai-batch" in looking
    for name in looking:
        assert "tok" in str(binding_of(name).create_call(task_with({})))
