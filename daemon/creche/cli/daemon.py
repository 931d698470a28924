"""`creche serve` and `simulate`: what runs here instead of talking to a daemon."""

from __future__ import annotations

import os
from pathlib import Path

import click

from creche.cli import Exit
from creche.cli.arguments import CONFIG_FILE


@click.command("serve")
@CONFIG_FILE
def serve_command(config: Path | None) -> int:
    """Run the daemon in the foreground until SIGTERM or SIGINT."""
    from creche.service import run  # noqa: PLC0415 - the whole daemon

    return run(config)


@click.command("simulate")
@click.option("--port", type=click.IntRange(0, 65535), default=8790, show_default=True, help="0 takes a free one.")
@click.option("--key", help="The API key to demand. Default: none.")
@click.option("--seed", type=int, default=0, show_default=True, help="What chance does follows from it.")
def simulate_command(port: int, key: str | None, seed: int) -> Exit:
    """Run a provider on loopback to rehearse with, until interrupted: latencies, outages, lost replies, odd answers."""
    import trio  # noqa: PLC0415 - takes long to import

    from creche.simulator import serve  # noqa: PLC0415 - as above

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            url = await nursery.start(lambda task_status: serve(port=port, key=key, seed=seed, task_status=task_status))
            click.echo(url)

    code = Exit.OK
    try:
        trio.run(run)
    except* KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except* OSError as group:
        # The loop's own words for it are longer; the system's say it.
        numbers = [exc.errno for exc in group.exceptions if isinstance(exc, OSError)]
        click.echo(f"creche: cannot listen on port {port}: {os.strerror(numbers[0] or 0)}", err=True)
        code = Exit.NOT_SUCCEEDED
    return code
