"""`creche recipes`: what comes with creche, and help for who writes one. Needs no daemon."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from creche.cli import Exit
from creche.cli.app import Settings, common_options
from creche.cli.output import print_fields, print_json, print_table, warn
from creche.config_recipes import read_recipe, shipped_recipes
from creche.errors import RecipeError

if TYPE_CHECKING:
    from creche.core.recipe import Recipe

SUNSET_DAYS = 90
"""From how many days before its end an API is warned of."""


@click.group("recipes")
def recipes_command() -> None:
    """List, show, check and try recipes: how to talk to one kind of provider."""


@recipes_command.command("list")
@common_options
@click.pass_obj
def list_command(settings: Settings, /) -> None:
    """List the recipes that come with creche."""
    recipes = [read_recipe(name, Path()).load() for name in shipped_recipes()]
    if settings.json:
        for recipe in recipes:
            print_json(summary(recipe))
        return
    rows = ((recipe.name, recipe.title, abilities(recipe), recipe.sunset) for recipe in recipes)
    print_table(("name", "for", "does", "ends"), rows)


@recipes_command.command("show")
@click.argument("name")
@common_options
@click.pass_obj
def show_command(settings: Settings, /, name: str) -> None:
    """Show a recipe: NAME of one that comes with creche, or a file. Its head tells how it is used, and its traps."""
    text = read_recipe(name, Path())
    if settings.json:
        print_json(summary(text.load()))
    else:
        click.echo(text.text, nl=False)


@recipes_command.command("check")
@click.argument("names", nargs=-1, required=True, metavar="FILE...")
@common_options
@click.pass_obj
def check_command(settings: Settings, /, names: tuple[str, ...]) -> Exit:
    """Check recipes: every mistake is told at once, with its place and what is expected there."""
    code = Exit.OK
    for name in names:
        try:
            recipe = read_recipe(name, Path()).load()
        except RecipeError as exc:
            code = Exit.CONFIG
            for mistake in exc.mistakes:
                warn(mistake)
            continue
        if settings.json:
            print_json(summary(recipe))
        else:
            _explain(name, recipe)
        for warning in warnings(recipe, datetime.now(UTC).date()):
            warn(f"{name}: {warning}")
    return code


def _explain(name: str, recipe: Recipe) -> None:
    click.echo(f"{name}: good")
    needs = ", ".join(param for param, row in recipe.params.items() if row.default is None)
    secret = (
        "a secret" if recipe.secret_required else "a secret, if the provider wants one" if recipe.credentials else ""
    )
    rows = [("for", recipe.title), ("does", abilities(recipe)), ("params", needs), ("secret", secret)]
    print_fields([(f"  {key}", value) for key, value in rows])


def abilities(recipe: Recipe) -> str:
    """What a recipe can do besides polling, in the words of its tables."""
    create = recipe.create
    words = ["attaches only" if create is None else "creates"]
    if create is not None and create.repeat != "none":
        words[0] += f" (repeat: {create.repeat})"
    named = {"many": recipe.many, "fetches": recipe.fetch, "assets": recipe.assets, "cancels": recipe.cancel}
    return ", ".join([*words, *(word for word, step in named.items() if step is not None)])


def warnings(recipe: Recipe, today: date) -> list[str]:
    """What is allowed, and should be known."""
    found = []
    if recipe.sunset:
        left = (date.fromisoformat(recipe.sunset) - today).days
        if left < SUNSET_DAYS:
            when = f"ends on {recipe.sunset}" if left > 0 else f"has ended on {recipe.sunset}"
            found.append(f"the provider's API {when}")
    if recipe.create is not None and recipe.create.repeat == "none":
        found.append("a create whose answer is lost cannot be repeated: such a task becomes `unknown`")
    if recipe.cancel is None:
        found.append("no [cancel]: a cancel is recorded, and the job goes on to its own end")
    return found


def summary(recipe: Recipe) -> dict[str, Any]:
    """A recipe in short, for JSON."""
    create = recipe.create
    return {
        "name": recipe.name,
        "title": recipe.title,
        "docs": recipe.docs,
        "base": recipe.base,
        "params": {name: {"about": row.about, "default": row.default} for name, row in recipe.params.items()},
        "secret": "required" if recipe.secret_required else "optional" if recipe.credentials else "none",
        "repeat": None if create is None else create.repeat,
        "many": recipe.many is not None,
        "fetch": recipe.fetch is not None,
        "assets": recipe.assets is not None,
        "cancel": recipe.cancel is not None,
        "evidence": list(recipe.evidence),
        "unverified": list(recipe.unverified),
        "sunset": recipe.sunset or None,
    }


@recipes_command.command("try")
@click.argument("name", metavar="FILE")
@click.option(
    "--answers", type=click.Path(path_type=Path, dir_okay=False), help="Replay a recording of the API's answers."
)
@click.option("--live", is_flag=True, help="Make one job at the provider and mind it to its end. It is paid for.")
@click.option("--job", help="With --live: mind this job, which exists, and make none.")
@click.option("--data", help="The job's content, as JSON.")
@click.option("--input", "file", type=click.Path(path_type=Path, allow_dash=True), help="The same from a file, or - .")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated.")
@click.option("--base", help="Where the provider is; else where the recipe says.")
@click.option("--secret-env", metavar="NAME", help="With --live: the environment variable that has the provider's key.")
@common_options
@click.pass_obj
def try_command(settings: Settings, /, **options: Any) -> Exit:  # noqa: ANN401 - click's options
    """Show the requests that a recipe would send; or replay recorded answers; or mind one live job.

    Without --answers or --live nothing is sent. The key is never shown.
    """
    from creche.cli.recipes_try import run  # noqa: PLC0415 - nobody else needs what it imports

    return run(settings, **options)
