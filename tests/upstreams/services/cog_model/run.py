"""A model for Cog: it waits, then answers, or fails.

Runs in the environment of requirements-cog.txt, not in ours.
"""

# mypy: ignore-errors
import time

from cog import BasePredictor, Input


class Runner(BasePredictor):
    """Says a question louder."""

    def predict(
        self,
        question: str = Input(description="what to shout", default=""),
        seconds: float = Input(description="how long to wait", default=0.0),
        fail: str = Input(description="what to fail with", default=""),
    ) -> str:
        """In capitals."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)
        if fail:
            raise ValueError(fail)
        return question.upper()
