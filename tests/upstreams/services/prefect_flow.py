"""A flow for Prefect, served as the deployment "shout/test": it waits, then answers, or fails.

Runs in the environment of requirements-prefect.txt, not in ours.
"""

# mypy: ignore-errors
import time

from prefect import flow


@flow(retries=0)
def shout(question: str = "", seconds: float = 0.0, fail: str = "") -> str:
    """In capitals."""
    time.sleep(seconds)
    if fail:
        raise ValueError(fail)
    return question.upper()


if __name__ == "__main__":
    shout.serve(name="test", print_starting_message=False)
