"""A flow for a Prefect server: it waits, then answers, or fails. Run as a program, it serves itself as a deployment.

Its answer is an artifact of the run, since the server's API does not show what a flow returns. Runs in the environment of
requirements-prefect.txt, not in ours.


Runs in the environment of requirements-prefect.txt, not in ours.
"""

# mypy: ignore-errors
# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import time

from prefect import flow  # type: ignore[import-not-found]  # not in our environment
from prefect.artifacts import create_markdown_artifact  # type: ignore[import-not-found]  # not in our environment


@flow
def think(question: str, seconds: float = 0.0, fail: str = "") -> str:
    """Wait for `seconds`, then answer with the question in capitals; with `fail` raise that instead."""
    time.sleep(seconds)
    if fail:
        raise ValueError(fail)
    answer = question.upper()
    create_markdown_artifact(answer, key="answer")
    return answer


if __name__ == "__main__":
    think.serve(name="served", pause_on_shutdown=False, print_starting_message=False)
