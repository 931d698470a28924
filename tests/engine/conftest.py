"""How the property tests run: the same examples every time, and no deadline that a busy machine could miss."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("creche", deadline=None, derandomize=True, max_examples=60, stateful_step_count=30)
settings.load_profile("creche")
