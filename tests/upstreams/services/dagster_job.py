"""A job for Dagster: it waits, then ends well, or fails.

Runs in the environment of requirements-dagster.txt, not in ours.
"""

# mypy: ignore-errors
import time

from dagster import Config, Definitions, OpExecutionContext, job, op


class Work(Config):
    seconds: float = 0.0
    fail: str = ""


@op
def work(context: OpExecutionContext, config: Work) -> None:
    end = time.monotonic() + config.seconds
    while time.monotonic() < end:
        time.sleep(0.05)
    if config.fail:
        raise ValueError(config.fail)
    context.log.info("done")


@job
def pipeline() -> None:
    work()


defs = Definitions(jobs=[pipeline])
