"""A RunPod worker: it waits, then answers, or fails.

Runs in the environment of requirements-runpod.txt, not in ours.
"""

# mypy: ignore-errors
from __future__ import annotations

import time
from typing import Any

import runpod


def handler(job: dict[str, Any]) -> dict[str, Any]:
    work = job["input"]
    time.sleep(work.get("seconds", 0))
    if work.get("fail"):
        raise ValueError(work["fail"])
    return {"answer": work["question"].upper()}


runpod.serverless.start({"handler": handler})
