"""The commands about messages of webhooks: what is pending, what was given up, and sending it again."""

from __future__ import annotations

import click

from creche.cli import Exit
from creche.cli.app import Settings, common_options
from creche.cli.output import print_json, print_table, warn
from creche.client import Json


@click.group("webhooks")
def webhooks_command() -> None:
    """List messages that are yet to be delivered, and send them again."""


@webhooks_command.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many.")
@common_options
@click.pass_obj
def list_command(settings: Settings, /, limit: int) -> None:
    """List messages: those that were given up, the newest first, and then those that are pending."""
    answer = settings.client().webhooks(limit)
    if settings.json:
        for delivery in answer["deliveries"]:
            print_json(delivery)
        return
    if answer["deliveries"]:
        print_table(("message", "attempts", "next", "error"), map(_row, answer["deliveries"]))
    click.echo(f"{answer['pending']} pending, {answer['given_up']} given up")


@webhooks_command.command("retry")
@click.argument("ids", metavar="[MESSAGE]...", nargs=-1)
@common_options
@click.pass_obj
def retry_command(settings: Settings, /, ids: tuple[str, ...]) -> Exit:
    """Send messages again now: these, or all that were given up."""
    found = settings.client().retry_webhooks(ids or None)
    if settings.json:
        print_json(found)
    elif not ids:
        click.echo(f"{len(found)} are sent again")
    missing = [one for one in ids if one not in found]
    for one in missing:
        warn(f"message {one}: it is not there; it was delivered, or never was")
    return Exit.REFUSED if missing else Exit.OK


def _row(delivery: Json) -> tuple[object, ...]:
    next_at = delivery.get("due_at", "given up")
    return delivery["id"], delivery.get("attempts", 0), next_at, delivery.get("error", "")
