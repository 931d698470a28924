"""Whatever is read from outside is understood or refused in words: nothing else happens."""

from __future__ import annotations

import copy
import json
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli
from hypothesis import given
from hypothesis import strategies as st

from creche.config import load
from creche.core import wire
from creche.core.recipe import load_recipe
from creche.engine.feed import Feed
from creche.engine.journal import Journal
from creche.errors import ConfigError, InvalidRequest, RecipeError
from creche.testing import MemoryStore
from tests.fuzz.conftest import fuzz

ROOT = Path(__file__).parent.parent.parent
RECIPES = {path.stem: tomllib.loads(path.read_text()) for path in (ROOT / "daemon/creche/recipes").glob("*.toml")}
EXAMPLE = tomllib.loads((ROOT / "config.toml").read_text())

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["$", "{x}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
toml_values = st.recursive(
    st.booleans() | st.integers(-(2**31), 2**31) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 - any tree
    """The path of everything in it."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = [(*path, key) for key, _ in inner]
    return found + [deeper for key, value in inner for deeper in places(value, (*path, key))]


def changed(data: st.DataObject, tree: dict[str, Any]) -> dict[str, Any]:
    """A copy in which one to three things are gone, something else, or somewhere else."""
    tree = copy.deepcopy(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(tree) or [("new",)]))
        parent: Any = tree
        with suppress(KeyError, IndexError, TypeError):
            for key in path[:-1]:
                parent = parent[key]
            match data.draw(st.sampled_from(["drop", "change", "rename"])):
                case "drop":
                    del parent[path[-1]]
                case "change":
                    parent[path[-1]] = data.draw(toml_values)
                case _:
                    parent[data.draw(st.text(max_size=10))] = parent.pop(path[-1])
    return tree


@fuzz
@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_bodies(body: bytes) -> None:
    """Of a submit, a decision, a list of messages."""
    for type_ in (wire.TaskIn, wire.ResolveIn):
        with suppress(InvalidRequest):
            wire.decode(body, type_)


@fuzz
@given(st.data())
def test_tasks_with_a_mistake(data: st.DataObject) -> None:
    """Nearly right ones."""
    task = {"algorithm": "a", "input": {"x": [1, {"y": "z"}]}, "labels": {"a": "b"}, "deadline": "1h", "priority": 3}
    with suppress(InvalidRequest):
        wire.decode(json.dumps(changed(data, task)).encode(), wire.TaskIn)


@fuzz
@given(st.data())
def test_recipes_with_a_mistake(data: st.DataObject) -> None:
    """Each that comes with creche, changed a little."""
    name = data.draw(st.sampled_from(sorted(RECIPES)))
    with suppress(RecipeError):
        load_recipe(name, changed(data, RECIPES[name]), name)


def as_toml(tree: dict[str, Any]) -> str:
    """The tree as TOML, all of it inline."""

    def value(node: Any) -> str:  # noqa: ANN401 - any tree
        if isinstance(node, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {value(inner)}" for key, inner in node.items()) + "}"
        if isinstance(node, list):
            return "[" + ", ".join(map(value, node)) + "]"
        return json.dumps(node)

    return "\n".join(f"{json.dumps(key)} = {value(node)}" for key, node in tree.items())


@fuzz
@given(st.data())
def test_configurations_with_a_mistake(tmp_path_factory: Any, data: st.DataObject) -> None:  # noqa: ANN401 - a fixture
    """The example, changed a little; and text that is none."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    text = data.draw(st.text(max_size=60) | st.just(as_toml(changed(data, EXAMPLE))))
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with suppress(ConfigError):
        load(path, {"HOME": "/", "X": "y"})


@fuzz
@given(st.text(max_size=60) | st.from_regex(r"\A[0-9a-f]{12}-[0-9]{1,40}\Z"))
def test_cursors(cursor: str) -> None:
    """A place in the feed, or -1 for one that is none: it asks for a resync."""
    store = MemoryStore()
    feed = Feed(Journal(store, run_write=None, run_read=None), identity=store.identity, floor=0, head=5)  # type: ignore[arg-type]
    position = feed.position(cursor)
    assert position is not None
    assert -1 <= position <= 5


@fuzz
@given(st.text(max_size=100))
def test_toml_is_read_by_two_alike(text: str) -> None:
    """What we read with tomli the standard library reads too; a guard for the locked version."""

    def read(module: Any) -> Any:  # noqa: ANN401 - modules of one form
        try:
            return module.loads(text)
        except module.TOMLDecodeError:
            return None

    assert repr(read(tomli)) == repr(read(tomllib))
