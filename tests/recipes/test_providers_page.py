"""The page of all recipes is that which is generated."""

from __future__ import annotations

from tests.recipes.providers_page import PAGE, page


def test_the_page_is_up_to_date() -> None:
    """docs/reference/providers.md is what the recipes say now."""
    assert PAGE.read_text(encoding="utf-8") == page()
