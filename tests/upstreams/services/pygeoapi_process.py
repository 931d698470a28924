"""A process for pygeoapi: it waits, then answers, or fails.

Runs in the environment of requirements-pygeoapi.txt, not in ours.
"""

# mypy: ignore-errors
from __future__ import annotations

import time
from typing import Any

from pygeoapi.process.base import BaseProcessor, ProcessorExecuteError

_TEXT = {"schema": {"type": "string"}, "minOccurs": 0, "maxOccurs": 1}

METADATA = {
    "version": "1.0.0",
    "id": "shout",
    "title": "Shout",
    "description": "A question in capitals.",
    "jobControlOptions": ["sync-execute", "async-execute"],
    "outputTransmission": ["value"],
    "inputs": {
        "question": {"title": "question", **_TEXT},
        "seconds": {"title": "seconds", "schema": {"type": "number"}, "minOccurs": 0, "maxOccurs": 1},
        "fail": {"title": "fail", **_TEXT},
    },
    "outputs": {"answer": {"title": "answer", "schema": {"type": "object", "contentMediaType": "application/json"}}},
}


class Shout(BaseProcessor):
    def __init__(self, definition: dict[str, Any]) -> None:
        super().__init__(definition, METADATA)

    def execute(self, data: dict[str, Any], outputs: object = None) -> tuple[str, dict[str, str]]:  # noqa: ARG002
        time.sleep(data.get("seconds", 0))
        if data.get("fail"):
            raise ProcessorExecuteError(data["fail"])
        return "application/json", {"answer": str(data["question"]).upper()}
