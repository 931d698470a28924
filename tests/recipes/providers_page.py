"""Writes docs/reference/providers.md from recipes and recordings: python -m tests.recipes.providers_page."""

from __future__ import annotations

from pathlib import Path

from creche.cli.recipes import abilities
from tests.recipes.conftest import NAMES, recipe_of
from tests.recipes.test_conformance import recording_of

PAGE = Path(__file__).parent.parent.parent / "docs/reference/providers.md"

HEAD = """# Recipes that come with creche

There are {count} of them. `creche recipes show NAME` prints one: its head tells how it is used and the traps of the
provider. This page is generated (`python -m tests.recipes.providers_page`), and a test compares it.

- *does*: what the recipe can do besides polling. How creates are repeated says [`repeat`](recipes.md#create); without
  it a create whose answer is lost makes the task [`unknown`](../how-to/resolve-unknown.md). *many*: one request asks
  for many jobs.
- *evidence*: what the recipe was written against. *server*: tried with the real one, by `scripts/test-upstreams`.
  *types*: the types of the provider's own SDK, in this version, read the answers that the recipe is tested with, by
  `scripts/test-sdks`. *read*: written from the source of the SDK. *document*: from the provider's pages.
- *not seen*: what nobody has verified yet. Tell us.

Every recipe minds a whole life of a job in the tests, over [recorded answers](recordings.md).

| recipe | for | does | evidence | not seen |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return HEAD.format(count=len(NAMES)) + "".join(f"{_row(name)}\n" for name in NAMES)


def _row(name: str) -> str:
    recipe = recipe_of(name)
    types = {package.replace("==", " ") for package in recording_of(name).sdk}
    evidence = [f"types: {item}" if item in types else item for item in recipe.evidence]
    link = f"[{recipe.title}]({recipe.docs})" if recipe.docs.startswith("https://") else recipe.title
    ends = f" Ends on {recipe.sunset}." if recipe.sunset else ""
    cells = (f"`{name}`", f"{link}{ends}", abilities(recipe), "; ".join(evidence), "; ".join(recipe.unverified))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
