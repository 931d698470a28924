"""Filters of tasks, as listeners and lists name them."""

from __future__ import annotations

from creche.core.query import Query, TaskFilter


def test_equal_filters_are_one_key() -> None:
    """Listeners with the same filter are grouped by it, whatever the order in which its parts were named."""
    parts = (
        ("algorithm", "draw"),
        ("algorithm", "sing"),
        ("label", "a:1"),
        ("label", "b:2"),
        ("user", "u"),
        ("task", "t"),
    )
    known = ("algorithm", "label", "user", "task")
    one, other = (TaskFilter.from_query(Query(fields, known=known)) for fields in (parts, parts[::-1]))
    without = [TaskFilter.from_query(Query(parts[:cut] + parts[cut + 1 :], known=known)) for cut in range(len(parts))]
    assert len({one, other}) == 1
    assert len({one, *without}) == 1 + len(parts)
