"""One simulated job: its state is worked out of its script and its age whenever somebody asks."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from creche.simulator.script import Script

_NEVER_DONE = 0.99  # the progress that a job never passes before its end


class Job(msgspec.Struct, kw_only=True):
    """`output` and `metadata` are JSON, ready to be sent; times are in Unix seconds.

    `asked` counts the requests whose answers the script may spoil.
    """

    id: str
    key: str | None
    script: Script
    output: bytes
    created_at: float
    ends_at: float
    metadata: msgspec.Raw | None = None
    cancelled: bool = False
    asked: dict[str, int] = {}

    def state(self, now: float) -> tuple[str, float]:
        """The word to show, and the progress from 0 to 1."""
        script, half_s = self.script, self.script.run_s / 2
        ran_s = min(now, self.ends_at) - self.created_at - script.queue_s
        word = "running"
        if ran_s < 0:
            word, ran_s = "queued", 0.0
        elif half_s <= ran_s < half_s + script.pause_s:
            word, ran_s = "paused", half_s
        elif ran_s >= half_s:
            ran_s -= script.pause_s
        ended = now >= self.ends_at
        if ended and not self.cancelled:
            return script.end, 1.0
        progress = min(ran_s / script.run_s, _NEVER_DONE) if script.run_s else 0.0
        if word == "running" and script.statuses:
            word = script.statuses[int(progress * len(script.statuses))]
        return ("cancelled" if ended else word), round(progress, 4)

    def show(self, base: str, now: float, *, with_links: bool = False) -> bytes:
        """The job as its creator sees it, as JSON; the links to it are for the create's answer. `base` begins URLs."""
        word, progress = self.state(now)
        view = _View(self.id, word, progress, metadata=self.metadata)
        url = f"{base}/v1/jobs/{self.id}"
        if word == "succeeded":
            view.result_url = f"{url}/result"
            if not self.script.separate_result:
                view.output = msgspec.Raw(self.output)
        elif word in {"failed", "expired"}:
            view.error = {"code": word, "message": self.script.message}
        if with_links:
            view.created_at = datetime.fromtimestamp(self.created_at, UTC).isoformat()
            view.poll_url, view.cancel_url = url, f"{url}/cancel"
        return msgspec.json.encode(view)


class _View(msgspec.Struct, omit_defaults=True):
    id: str
    status: str
    progress: float
    metadata: msgspec.Raw | None = None
    error: dict[str, str] | None = None
    result_url: str | None = None
    output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    created_at: str | None = None
    poll_url: str | None = None
    cancel_url: str | None = None
