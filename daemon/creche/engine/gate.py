"""What the tasks of one algorithm share on the way to its provider: slots, rates, the breaker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import trio
from loguru import logger

from creche.core.fleet import Limit
from creche.core.limits import Breaker, Rate, Slots
from creche.engine.batches import LOOK_AGAIN_S, Batches
from creche.engine.timetable import Alarm
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

    `shared`: all nodes of a fleet share its limits, and this one has none of them before it was granted a portion.
    `held` are the alarms of those who wait for the breaker, with the seconds by which each lags behind the others when
    it closes. `trouble` is what opened it, for those who have to wait although they met no error of their own.
    `batches` gathers polls where the provider can be asked for many jobs at once.
    """

    def __init__(self, limits: Limits, *, shared: bool = False) -> None:
        self._name = limits.name
        self._limits = limits
        self._shared = shared
        self.slots = Slots(0 if shared and limits.in_flight is not None else limits.in_flight)
        self.creates = Rate(0.0 if shared and limits.creates_per_s is not None else limits.creates_per_s)
        self.polls = Rate(0.0 if shared and limits.polls_per_s is not None else limits.polls_per_s)
        self.breaker = Breaker()
        self.trouble: ProviderError | None = None
        self.batches: Batches | None = None
        self.held: dict[Alarm, float] = {}

    def take_over(self, limits: Limits) -> list[str]:
        """Changed limits, from now on. Returns the tasks that have a slot now.

        The provider may have changed as well, and is not away before it was asked.
        """
        self.breaker, self.trouble = Breaker(), None
        self._limits = limits
        return self.grant({}) if self._shared else self._set(limits.in_flight, limits.creates_per_s, limits.polls_per_s)

    def shares(self) -> list[Limit]:
        """What this node holds and wants of limits that all nodes share."""
        limits, name = self._limits, self._name
        shares = []
        if limits.in_flight is not None:
            held = len(self.slots.holders)
            wanted = held + self.slots.waiting
            shares.append(Limit(name=f"in_flight:{name}", total=limits.in_flight, held=held, wanted=wanted, whole=True))
        # A rate is wanted by who has anything to send, and nobody holds it.
        busy = bool(self.slots.holders or self.slots.waiting)
        for kind, per_s in (("creates", limits.creates_per_s), ("polls", limits.polls_per_s)):
            if per_s is not None:
                shares.append(
                    Limit(name=f"{kind}:{name}", total=per_s, held=0, wanted=per_s if busy else 0, whole=False)
                )
        return shares

    def grant(self, portions: Mapping[str, float]) -> list[str]:
        """This node's portions of the shared limits; one that is not named stays as far as the limit allows.

        Returns the tasks that have a slot now.
        """
        limits, name = self._limits, self._name

        def granted(kind: str, total: float | None, now: float | None) -> float | None:
            return None if total is None else min(total, portions.get(f"{kind}:{name}", now or 0.0))

        in_flight = granted("in_flight", limits.in_flight, self.slots.capacity)
        return self._set(
            None if in_flight is None else int(in_flight),
            granted("creates", limits.creates_per_s, self.creates.per_s),
            granted("polls", limits.polls_per_s, self.polls.per_s),
        )

    def _set(self, in_flight: int | None, creates_per_s: float | None, polls_per_s: float | None) -> list[str]:
        now = trio.current_time()
        self.creates.change(creates_per_s, now)
        self.polls.change(polls_per_s, now)
        return self.slots.resize(in_flight)

    def until(self, rate: Rate, turn: int) -> float:
        """How long to sleep until a turn comes; 0 when it has. A shared rate may change meanwhile, so ask again."""
        wait_s = rate.wait_s(turn, trio.current_time())
        return min(wait_s, LOOK_AGAIN_S) if self._shared else wait_s

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
            for alarm, spread_s in self.held.items():
                alarm.hasten(spread_s)
            logger.bind(algorithm=self._name).info("{}: the provider is back", self._name)
