"""A BentoML service with one real task: it trains a small logistic regression, in plain Python.

Runs in the environment of requirements-bentoml.txt, not in ours.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import math
import time

import bentoml  # type: ignore[import-not-found]  # not in our environment

STEPS = 200
RATE = 0.5


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@bentoml.service(workers=1)
class Trainer:
    """Fits `label ~ sigmoid(weights · point + bias)` by gradient descent."""

    @bentoml.task
    def train(
        self,
        points: list[list[float]],
        labels: list[int],
        seconds: float = 0.0,
        fail: bool = False,  # noqa: FBT001, FBT002 - BentoML takes the parameters of the request from here
    ) -> dict[str, float | list[float]]:
        """Train, at least `seconds` long; with `fail` it raises after that time."""
        time.sleep(seconds)
        if fail:
            raise RuntimeError("asked to fail")
        weights, bias = [0.0] * len(points[0]), 0.0
        for _ in range(STEPS):
            for point, label in zip(points, labels, strict=True):
                guess = _sigmoid(sum(w * x for w, x in zip(weights, point, strict=True)) + bias)
                weights = [w + RATE * (label - guess) * x for w, x in zip(weights, point, strict=True)]
                bias += RATE * (label - guess)
        right = sum(
            (sum(w * x for w, x in zip(weights, point, strict=True)) + bias > 0) == bool(label)
            for point, label in zip(points, labels, strict=True)
        )
        return {"weights": weights, "bias": bias, "accuracy": right / len(points)}
