"""Saves the files of a result while their URLs live: the last part of minding a job, and no reason for it to fail."""

from __future__ import annotations

import trio

from creche.core.assets import Asset
from creche.core.exchange import Call
from creche.core.polling import error_wait_s
from creche.core.reading import Reading
from creche.core.task import Job, Succeeded
from creche.engine.live import LiveTask, Tools, log_about
from creche.errors import AnswerError, Outage, ProviderError

ATTEMPTS = 4
"""How often a file is asked for, when the provider is away or the connection breaks."""

AT_ONCE = 4
"""Files of one task that are saved at the same time."""


async def save_assets(live: LiveTask, tools: Tools, job: Job, reading: Reading) -> Succeeded:
    """The success, with every file that its result names, saved or with the reason why not."""
    try:
        calls = live.algorithm.provider.assets_of(job, reading)
    except AnswerError as exc:
        return without_assets(reading, str(exc))
    assets: dict[int, Asset] = {}
    limit = trio.CapacityLimiter(AT_ONCE)

    async def save(number: int, call: Call) -> None:
        async with limit:
            assets[number] = await _save(live, tools, number, call)

    async with trio.open_nursery() as nursery:
        for number, call in enumerate(calls):
            nursery.start_soon(save, number, call)
    return Succeeded(reading.result, reading.partial, assets=tuple(assets[number] for number in sorted(assets)))


def without_assets(reading: Reading, error: str) -> Succeeded:
    """The success, its files not saved."""
    return Succeeded(reading.result, reading.partial, assets=(Asset(url="", error=error),))


async def _save(live: LiveTask, tools: Tools, number: int, call: Call) -> Asset:
    saver = live.algorithm.saver
    assert saver is not None, "the caller has looked"  # noqa: S101
    error: ProviderError
    for attempt in range(1, ATTEMPTS + 1):
        try:
            asset = await saver.save(live.task.id, number, call)
        except Outage as exc:
            error = exc
            if attempt < ATTEMPTS:
                await trio.sleep(error_wait_s(1.0, attempt, exc.retry_after_s, tools.dice()))
        except ProviderError as exc:
            error = exc
            break
        else:
            tools.count("assets", live.algorithm.name, "good")
            return asset
    tools.count("assets", live.algorithm.name, error.code)
    log = log_about(live.task)
    log.warning("{}: file {} of the result is not saved: {}", live.task.id, number, error)
    return Asset(url=call.url, error=str(error))
