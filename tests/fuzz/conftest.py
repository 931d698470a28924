"""How much is tried: CRECHE_FUZZ examples for each target, and then others every time; a few in every test run."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = int(os.environ.get("CRECHE_FUZZ", "100"))


def fuzz(test: Any) -> Any:  # noqa: ANN401 - a decorator
    """A property that is tried with so many examples, without a limit of time for each but the test's own."""
    return settings(
        max_examples=EXAMPLES,
        derandomize="CRECHE_FUZZ" not in os.environ,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )(test)
