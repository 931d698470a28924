"""How soon the rate is back after a kill under load."""

from __future__ import annotations

import time

from tests.process.running import Daemon, Json

TASKS = 24_000
IN_FLIGHT = 600
"""So many jobs at a time: there is always one to begin where one ends, and the rate has a bound."""

WINDOW_S = 5.0
ENOUGH = 0.98


def measure(daemon: Daemon) -> int:
    """Print the rates before a SIGKILL and after the restart; 0 if it is back in time."""
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace('recipe = "token.toml"', f'recipe = "token.toml"\nin_flight = {IN_FLIGHT}'))
    daemon.start()
    for answer in daemon.client.submit_many(_task(number) for number in range(TASKS)):
        assert isinstance(answer, dict), answer
    time.sleep(5)
    before = _rate(daemon)
    daemon.kill()
    killed_at = time.monotonic()
    daemon.start()
    ready_s = time.monotonic() - killed_at
    rates = [_rate(daemon, 1.0)]
    while time.monotonic() < killed_at + 5:
        rates.append(_rate(daemon, 1.0))
    after = _rate(daemon)
    left = int(daemon.client.status()["unfinished"])
    print(  # noqa: T201
        f"before the kill {before:.0f} tasks settled per second; ready {ready_s:.1f} s after the restart; "
        f"then second by second {', '.join(f'{rate:.0f}' for rate in rates)}; in the {WINDOW_S:g} s that follow "
        f"{after:.0f} ({after / before:.1%}); {left} tasks left"
    )
    daemon.end()
    return 0 if after >= ENOUGH * before and left > 0 else 1


def _task(number: int) -> Json:
    # From half a second to one and a half, so that they do not go in step when all begin at once.
    script = {"queue": "0s", "run": f"{500 + 618 * number % 1000}ms"}
    return {"algorithm": "token", "input": {"simulate": script}}


def _settled(daemon: Daemon) -> int:
    return TASKS - int(daemon.client.status()["unfinished"])


def _rate(daemon: Daemon, window_s: float = WINDOW_S) -> float:
    begun, count = time.monotonic(), _settled(daemon)
    time.sleep(window_s)
    return (_settled(daemon) - count) / (time.monotonic() - begun)
