"""What the tasks of one algorithm share on the way to its provider: slots, rates, the breaker."""

from __future__ import annotations

from typing import Protocol

import trio
from loguru import logger

from creche.core.limits import Breaker, Rate, Slots
from creche.engine.batches import Batches
from creche.errors import CreateUncertain, Outage, ProviderError, Throttled


class Limits(Protocol):
    """The limits of an algorithm; None means no limit."""

    @property
    def name(self) -> str: ...
    @property
    def in_flight(self) -> int | None: ...
    @property
    def creates_per_s(self) -> float | None: ...
    @property
    def polls_per_s(self) -> float | None: ...


class Gate:
    """One algorithm's gate. It says how long to wait; the waiting is done by the tasks.

    `trouble` is what opened the breaker, for those who have to wait although they met no error of their own. `batches`
    gathers polls where the provider can be asked for many jobs at once.
    """

    def __init__(self, limits: Limits) -> None:
        self._name = limits.name
        self._creates_per_s = limits.creates_per_s
        self._polls_per_s = limits.polls_per_s
        self.slots = Slots(limits.in_flight)
        self.creates = Rate(limits.creates_per_s)
        self.polls = Rate(limits.polls_per_s)
        self.breaker = Breaker()
        self.trouble: ProviderError | None = None
        self.batches: Batches | None = None

    def take_over(self, limits: Limits) -> list[str]:
        """Changed limits, from now on; who waits for a turn has it already. Returns the tasks that have a slot now.

        The provider may have changed as well, and is not away before it was asked.
        """
        self.breaker, self.trouble = Breaker(), None
        if limits.creates_per_s != self._creates_per_s:
            self._creates_per_s, self.creates = limits.creates_per_s, Rate(limits.creates_per_s)
        if limits.polls_per_s != self._polls_per_s:
            self._polls_per_s, self.polls = limits.polls_per_s, Rate(limits.polls_per_s)
        return self.slots.resize(limits.in_flight)

    def failed(self, error: ProviderError) -> None:
        """A request of one of the tasks brought this error; some errors say that the provider is there."""
        away = isinstance(error, Outage | Throttled) or (isinstance(error, CreateUncertain) and not error.answered)
        if not away:
            self.answered()
            return
        self.trouble = error
        if self.breaker.failed(trio.current_time()):
            log = logger.bind(algorithm=self._name)
            log.warning("{}: the provider is away; one task at a time asks whether it is back: {}", self._name, error)

    def answered(self) -> None:
        """A request of one of the tasks was answered."""
        if not self.breaker.calm and self.breaker.answered():
            self.trouble = None
            logger.bind(algorithm=self._name).info("{}: the provider is back", self._name)
