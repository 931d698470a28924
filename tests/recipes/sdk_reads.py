"""Has the types of a provider's own SDK read the recorded answers. Runs in an environment with the SDK, and not ours.

`python sdk_reads.py RECORDING…` resolves the `as` of each answer, `package.module:Name`, and gives it the answer's
body: a type that pydantic knows validates it, anything else is called with it.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def answers(node: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any JSON
    """All answers of a recording that name a type."""
    if isinstance(node, dict):
        if isinstance(node.get("as"), str) and "body" in node:
            yield node
        for child in node.values():
            yield from answers(child)
    elif isinstance(node, list):
        for child in node:
            yield from answers(child)


def read(shape: str, body: Any) -> None:  # noqa: ANN401 - any JSON
    """Raises whatever the SDK raises."""
    module, _, name = shape.partition(":")
    reader: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    if hasattr(reader, "parse_obj") and not hasattr(reader, "model_validate"):
        reader.parse_obj(body)  # pydantic 1
    elif hasattr(reader, "model_validate") or typing.get_origin(reader) is not None:
        pydantic = importlib.import_module("pydantic")  # not every SDK has it
        pydantic.TypeAdapter(reader).validate_python(body)
    else:
        reader(body)


def main(paths: list[str]) -> int:
    """The number of recordings with an answer that its SDK does not read."""
    failed = 0
    for path in map(Path, paths):
        complaints, count = [], 0
        for answer in answers(json.loads(path.read_bytes())):
            count += 1
            try:
                read(answer["as"], answer["body"])
            except Exception as exc:  # noqa: BLE001 - whatever an SDK raises
                complaints.append(
                    f"{path.name}: {answer['as']} does not read {json.dumps(answer['body'])[:200]}: {exc}"
                )
        print(f"{path.name}: {count} answers read by the SDK" if not complaints else "\n".join(complaints))  # noqa: T201
        failed += bool(complaints) or not count
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
