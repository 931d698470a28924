"""A RunPod worker: it waits, then answers, or fails."""

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
