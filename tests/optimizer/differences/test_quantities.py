"""Quantities: one value, however it is written; another value or unit, never the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.differences.quantities import ONES, TENS, quantities, unit_of

COUNTS = st.integers(0, 999_999_999)


def spelled(number: int) -> str:
    """In words, as one says it."""
    for name, power in (("million", 10**6), ("thousand", 1000), ("hundred", 100)):
        if number >= power:
            rest = number % power
            joint = " and " if power == 100 or 0 < rest < 100 else " "
            return f"{spelled(number // power)} {name}" + (f"{joint}{spelled(rest)}" if rest else "")
    if number >= 20:
        ten = next(word for word, value in TENS.items() if value == number // 10 * 10)
        return ten if number % 10 == 0 else f"{ten}-{spelled(number % 10)}"
    return next(word for word, value in ONES.items() if value == number)


@given(COUNTS)
def test_a_number_in_words_is_the_number_in_digits(number: int) -> None:
    assert quantities(f"is {spelled(number)} enough") == quantities(f"is {number} enough") == (str(number),)


@given(COUNTS)
def test_groups_of_three_digits_do_not_change_a_number(number: int) -> None:
    assert quantities(f"is {number:,} enough") == (str(number),)


@given(COUNTS, COUNTS)
def test_two_numbers_are_never_one(one: int, other: int) -> None:
    ways = (str, spelled, "{:,}".format)
    for way in ways:
        for other_way in ways:
            assert (quantities(f"is {way(one)} enough") == quantities(f"is {other_way(other)} enough")) == (
                one == other
            )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_numbers_that_are_counted_off_stay_apart(numbers: list[int]) -> None:
    assert quantities(", ".join(map(spelled, numbers))) == tuple(map(str, numbers))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("two dozen eggs", ("24",)),
        ("a hundred men", ("100",)),
        ("2.5 million people", ("2500000",)),
        ("nineteen eighty-four", ("19", "84")),
        ("the twenty-first of them, the 21st", ("21th", "21th")),
        ("14th July, July 14th, 14 July", ("14", "14", "14")),
        ("half of it, twice", ("1/2", "2 times")),
        ("which one of two", ("2",)),
        ("from -4 to 4", ("-4", "4")),
        ("6e-10 of it", ("6e-10",)),
        ("Python 3.1 or 3.10", ("3.1", "3.10")),
        ("10–15 minutes", ("10", "15 min")),
        ("H₂O, x²", ("2", "2")),
        ("$5, 5 dollars, USD 5", ("5 USD",) * 3),
        ("$5k", ("5k USD",)),
        ("5 km/h", ("5 km/h",)),
        ("5pm, 5 p.m., 5 PM", ("5 pm",) * 3),
        ("37 degrees Celsius, 37°C", ("37 °C",) * 2),
    ],
)
def test_quantities_are_read_with_their_units(text: str, found: tuple[str, ...]) -> None:
    assert quantities(text) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [("mW", "MW"), ("Mb", "MB"), ("mM", "mm"), ("kB", "kb"), ("KB", "kb"), ("mA", "MA"), ("m", "m²"), ("A", "a")],
)
def test_units_that_differ_in_case_or_power_are_two(one: str, other: str) -> None:
    assert quantities(f"is 5 {one} much") != quantities(f"is 5 {other} much")


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("kilometres", "km"),
        ("kilometer", "km"),
        ("KG", "kg"),
        ("Megabytes", "MB"),
        ("µs", "microseconds"),
        ("hours", "h"),
        ("per cent", "%"),
        ("khz", "kHz"),
        ("feet", "foot"),
    ],
)
def test_a_unit_is_one_by_name_and_by_symbol(name: str, symbol: str) -> None:
    assert unit_of(name) == unit_of(symbol) is not None


@pytest.mark.parametrize("word", ["cats", "of", "good", "people", "in", "a"])
def test_a_word_after_a_number_is_no_unit(word: str) -> None:
    assert unit_of(word) is None


@given(st.text())
def test_any_text_has_quantities(text: str) -> None:
    assert all(quantities(text))
