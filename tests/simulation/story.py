"""What happened in a world, for whoever must understand why something in it is wrong."""

from __future__ import annotations

from collections.abc import Callable


class Violation(Exception):
    """Something that must always hold did not. `task` is the task concerned, if it is one."""

    def __init__(self, invariant: str, found: str, task: str | None = None) -> None:
        super().__init__(f"{invariant}: {found}")
        self.task = task


class Story:
    """Lines with the world's time; `tell` is cheap, and `about` makes them readable."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.lines: list[tuple[float, str | None, str]] = []
        self.violation: Violation | None = None

    def tell(self, text: str, task: str | None = None) -> None:
        """One thing that happened; what is about no task concerns all."""
        self.lines.append((self._now(), task, text))

    def accuse(self, violation: Violation) -> None:
        """For what was seen from within the daemon, which must not be disturbed by it; the first counts."""
        self.violation = self.violation or violation

    def about(self, task: str | None) -> str:
        """The story of one task, or the whole."""
        return "\n".join(
            f"{at:10.3f}  {text}" for at, about, text in self.lines if task is None or about in {None, task}
        )
