"""How soon the rate is back after a kill under load."""

from __future__ import annotations

import time

from tests.process.running import Daemon

TASKS = 24_000
WINDOW_S = 5.0
ENOUGH = 0.98


def measure(daemon: Daemon) -> int:
    """Print the rates before a SIGKILL and after the restart; 0 if it is back in time."""
    daemon.start()
    task = {"algorithm": "token", "input": {"simulate": {"queue": "0s", "run": "1s"}}}
    for answer in daemon.client.submit_many(task for _ in range(TASKS)):
        assert isinstance(answer, dict), answer
    time.sleep(5)
    before = _rate(daemon)
    daemon.kill()
    started_at = time.monotonic()
    daemon.start()
    ready_s = time.monotonic() - started_at
    rates = []
    while time.monotonic() < started_at + 5:
        rates.append(_rate(daemon, 1.0))
    after = _rate(daemon)
    left = daemon.client.status()["unfinished"]
    print(  # noqa: T201
        f"before the kill {before:.0f} tasks settled per second; ready {ready_s:.1f} s after the restart; "
        f"second by second {', '.join(f'{rate:.0f}' for rate in rates)}; from 5 to 10 s after it {after:.0f} "
        f"({after / before:.1%}); {left} tasks left"
    )
    daemon.end()
    return 0 if after >= ENOUGH * before and left else 1


def _settled(daemon: Daemon) -> int:
    status = daemon.client.status()
    return TASKS - int(status["unfinished"])


def _rate(daemon: Daemon, window_s: float = WINDOW_S) -> float:
    begun, count = time.monotonic(), _settled(daemon)
    time.sleep(window_s)
    return (_settled(daemon) - count) / (time.monotonic() - begun)
