"""Reading TOML tables: all mistakes at once, each with its place."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.core.document import (
    MAX_DURATION_S,
    Table,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
    scalar,
    suggestion,
)


def read(data: dict[str, Any], reader: Callable[[Table], object]) -> tuple[object, list[str]]:
    mistakes: list[str] = []
    return reader(Table(data, "", mistakes, "f.toml")), mistakes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3s", 3.0), ("500ms", 0.5), ("1h30m", 5400.0), ("2d", 172800.0), ("0.5s", 0.5), ("1m500ms", 60.5), ("0s", 0.0)],
)
def test_a_duration_is_numbers_with_units(text: str, seconds: float) -> None:
    """Parts add up."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "3", "s", "3 s", "-3s", "3s ", "3s\n", "3S", "1e3s", ".5s", "5.s", "3s5", "3w", "nan"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    """A number without a unit above all: seconds and milliseconds are too easily mistaken."""
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(days=st.integers(0, 99), hours=st.integers(0, 99), minutes=st.integers(0, 99), seconds=st.integers(0, 99))
def test_a_duration_means_what_it_says(days: int, hours: int, minutes: int, seconds: int) -> None:
    """Every part counts with its unit."""
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == expected


@given(st.floats(0, MAX_DURATION_S) | st.integers(0, 10**6).map(lambda ms: ms * 0.001))
def test_a_duration_can_be_written_again(seconds: float) -> None:
    """What is written means exactly the same time."""
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["0s", "50ms", "1.5s", "3s", "90m", "26h", "30d"])
def test_a_duration_is_written_as_a_person_would(text: str) -> None:
    """In the largest unit that needs no fraction."""
    assert format_duration(parse_duration(text)) == text


@given(st.integers(1, 1 << 40))
def test_a_size_can_be_written_again(size_bytes: int) -> None:
    """What is written means exactly the same size."""
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.text(max_size=20))
def test_no_text_breaks_the_parsers(text: str) -> None:
    """Either a number comes back, or a ValueError."""
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except ValueError as exc:
            assert str(exc).startswith("expected")  # noqa: PT017 - either way is right


@pytest.mark.parametrize(("text", "size"), [("512B", 512), ("64KiB", 65536), ("4 MiB", 4 << 20), ("1GiB", 1 << 30)])
def test_a_size_is_a_number_with_a_binary_unit(text: str, size: int) -> None:
    """The units of config.toml."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4", "4MB", "4mib", "-1B", "1.5MiB"])
def test_anything_else_is_no_size(text: str) -> None:
    """Decimal units above all: they are too easily mistaken for binary ones."""
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "per_s"), [("10/s", 10.0), ("600/m", 10.0), ("0.5/s", 0.5), ("36/h", 0.01)])
def test_a_rate_is_a_number_per_unit(text: str, per_s: float) -> None:
    """Per second, minute or hour."""
    assert parse_rate(text) == pytest.approx(per_s)


@pytest.mark.parametrize("text", ["", "10", "10/", "10 / s", "/s", "0/s", "-1/s", "1e3/s", "10/d", "10/s\n", "nan/s"])
def test_anything_else_is_no_rate(text: str) -> None:
    """None at all is said by leaving it empty, not by 0, which could mean either."""
    with pytest.raises(ValueError, match="expected a rate"):
        parse_rate(text)


@given(st.decimals("0.001", 999_999, places=3), st.sampled_from("smh"))
def test_a_rate_can_be_written_again(number: Decimal, unit: str) -> None:
    """What is written is read as exactly the same rate."""
    per_s = parse_rate(f"{number}/{unit}")
    assert parse_rate(format_rate(per_s)) == per_s


def test_a_rate_is_written_in_the_first_unit_that_makes_it_a_whole_number() -> None:
    """No limit is empty."""
    assert [format_rate(parse_rate(text)) for text in ("10/s", "600/m", "90/h")] == ["10/s", "10/s", "90/h"]
    assert format_rate(None) == ""


def test_a_near_miss_is_guessed() -> None:
    """What resembles a known word is suggested; for the rest all known words are listed."""
    assert suggestion("evry", ["every", "first"]) == ' (did you mean "every"?)'
    assert suggestion("zzz", ["every", "first"]) == " (known: every, first)"
    assert suggestion("zzz", []) == ""


@pytest.mark.parametrize(
    ("reader", "value", "complaint"),
    [
        (lambda t: t.text("k"), 7, "expected a text in quotes, got 7"),
        (lambda t: t.flag("k"), "yes", 'expected true or false, got "yes"'),
        (lambda t: t.integer("k", 1), True, "expected a whole number, got true"),
        (lambda t: t.integer("k", 1), 1.5, "expected a whole number, got 1.5"),
        (lambda t: t.integer("k", 1, at_least=1), 0, "expected a number of at least 1, got 0"),
        (lambda t: t.integer("k", 1, at_most=9), 10, "expected a number of at most 9, got 10"),
        (lambda t: t.number("k", 1.0), float("nan"), "expected a number of at least 0, got nan"),
        (lambda t: t.integer("k", 1), 10**13, f"expected a number of at most {10**12}, got {10**13}"),
        (lambda t: t.integer("k", 1), 10**400, f"expected a number of at most {10**12}, got a longer number"),
        (lambda t: t.number("k", 1.0), 10**400, "expected less, got a longer number"),
        (lambda t: t.value("k", 1, scalar), 1 << 64, "expected a number of at most 64 bits, got a longer number"),
        (lambda t: t.value("k", 1, scalar), float("inf"), "expected a finite number, got inf"),
        (lambda t: t.size("k", 1), "1025GiB", 'expected a size of at most 1024GiB, got "1025GiB"'),
        (lambda t: t.text("k"), ["x"], "expected a text in quotes, got a list"),
        (lambda t: t.number("k", 1.0), True, "expected a number of at least 0, got true"),
        (lambda t: t.duration("k", 1.0), 3, 'expected a duration in quotes such as "3s" or "1h", got 3'),
        (lambda t: t.duration("k", 1.0, at_least_s=1.0), "1ms", 'expected at least 1s, got "1ms"'),
        (lambda t: t.size("k", 1), 3, 'expected a size in quotes such as "4MiB", got 3'),
        (lambda t: t.size("k", 1), "0B", 'expected at least 1 bytes, got "0B"'),
        (lambda t: t.choice("k", "a", ("a", "b")), "c", 'expected one of a, b, got "c"'),
        (lambda t: t.texts("k"), ["a", 1], "expected a list of texts, got a list"),
        (lambda t: t.text_map("k"), {"a": 1}, "expected a table of texts, got a table"),
        (lambda t: t.table("k").keys(), "a", 'expected a table, got "a"'),
        (lambda t: t.tables("k"), [1], "expected an array of tables, got a list"),
    ],
)
def test_a_wrong_value_is_a_mistake_with_its_place(
    reader: Callable[[Table], object], value: object, complaint: str
) -> None:
    """File, key, what was expected, and what stands there."""
    _, mistakes = read({"k": value}, reader)
    assert mistakes == [f"f.toml: k: {complaint}"]


def test_after_a_mistake_the_default_stands_in() -> None:
    """Reading goes on, so that all mistakes are found at once."""
    value, mistakes = read({"a": 1, "b": 2}, lambda t: (t.text("a", "x"), t.duration("b", 3.0)))
    assert value == ("x", 3.0)
    assert len(mistakes) == 2


def test_an_absent_key_gives_the_default() -> None:
    """And is no mistake unless it is required."""
    assert read({}, lambda t: (t.text("a", "x"), t.flag("b", default=True), t.size("c", 9))) == (("x", True, 9), [])
    assert read({}, lambda t: t.required("a", "a name")) == (None, ["f.toml: a: missing; a name"])


def test_a_key_that_nobody_asked_for_is_a_mistake() -> None:
    """With a suggestion among those that were asked for."""

    def reader(table: Table) -> None:
        table.text("every")
        table.close(also=["other"])

    assert read({"evry": "1s", "other": 1}, reader)[1] == ['f.toml: evry: unknown key (did you mean "every"?)']


def test_places_are_dotted_paths() -> None:
    """Through tables and arrays of tables, with quotes where TOML needs them."""

    def reader(table: Table) -> None:
        table.table("a b").table("c").text("d")
        table.tables("rows")[1].text("x")

    _, mistakes = read({"a b": {"c": {"d": 1}}, "rows": [{}, {"x": 1}]}, reader)
    assert [line.split(": ")[1] for line in mistakes] == ['"a b".c.d', "rows[1].x"]
