"""Asks a provider to end one job, and knows what it said."""

from __future__ import annotations

import msgspec

from creche.core.reading import JobStatus, Reading
from creche.engine.live import LiveTask, Tools, log_about
from creche.engine.ports import Save
from creche.errors import ProviderError, StoreUnavailable

REFUSED = "the provider does not cancel the job; it is minded to its own end"


class Cancelling:
    """The cancel of one job. `agreed` and `refused` are the provider's answer; what it then says is the truth."""

    def __init__(self, live: LiveTask, tools: Tools) -> None:
        self._live = live
        self._tools = tools
        self.agreed = False
        self.refused = False

    @property
    def wanted(self) -> bool:
        """Whether somebody wants the job to end, and the provider has not answered to that."""
        live = self._live
        settled = self.agreed or self.refused or live.cancel_kept is None
        return live.task.cancel_reason is not None and live.task.fetching is None and not settled

    async def ask(self, failures: int) -> None:
        """Ask once, where it is wanted; an error is shown, with how many `failures` in a row there were before."""
        live = self._live
        if not self.wanted or live.task.job is None:
            return
        try:
            if not live.cancel_kept:  # a crash would forget who had the job cancelled
                await self._tools.journal.write(Save(live.task))
                live.cancel_kept = True
            self.agreed = await live.algorithm.provider.cancel(live.task.job)
            live.hear("cancel", "agreed" if self.agreed else "refused")
        except StoreUnavailable:
            return
        except ProviderError as exc:
            live.hear("cancel", str(exc))
            live.stumble(exc, failures)
            return
        self.refused = not self.agreed
        if self.refused:
            log = log_about(live.task)
            log.warning("{}: {}", live.task.id, REFUSED)
            live.change(msgspec.structs.replace(live.task, note=REFUSED))

    def seen(self, reading: Reading) -> Reading:
        """A reading as it is meant: some providers have no word for a job that ended because we asked."""
        if self.agreed and reading.status in self._live.algorithm.provider.cancel_ends:
            return msgspec.structs.replace(reading, status=JobStatus.CANCELLED, to_fetch=False)
        return reading
