"""The price list: every row says where and when it was read, and an unknown name is an error."""

import re
import tomllib
from datetime import date
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest

from optimizer.prices import UnknownPrice, price_of_hardware

LISTED: dict[str, Any] = tomllib.loads(files("optimizer").joinpath("prices.toml").read_text(encoding="utf-8"))
NAMES = sorted(LISTED["hardware"])


@pytest.mark.parametrize("name", NAMES)
def test_every_price_has_a_source_that_is_spelled_out(name: str) -> None:
    assert "github.com" in price_of_hardware(name).source


@pytest.mark.parametrize("name", NAMES)
def test_every_price_has_the_date_it_was_read(name: str) -> None:
    assert date.fromisoformat(price_of_hardware(name).as_of) >= date(2025, 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_price_bills_time_and_costs_something(name: str) -> None:
    price = price_of_hardware(name)
    assert price.bills_time
    assert price.usd_per_hour is not None
    assert price.usd_per_hour > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_price_is_written_as_text_so_that_no_float_touches_it(name: str) -> None:
    assert isinstance(LISTED["hardware"][name]["usd_per_hour"], str)


def test_a_price_is_exact() -> None:
    assert price_of_hardware("aws/c7a.large").usd_per_hour == Decimal("0.102640")


def test_an_unpriced_machine_is_an_error_not_free() -> None:
    with pytest.raises(UnknownPrice, match=r"price.hardware = 'my-own-box' has no price; known: aws/"):
        price_of_hardware("my-own-box")


def test_a_name_that_nothing_is_near_to_lists_all_that_are_known() -> None:
    with pytest.raises(UnknownPrice, match=re.escape(", ".join(NAMES))):
        price_of_hardware("my-own-box")


def test_a_misspelled_machine_names_the_nearest_one() -> None:
    with pytest.raises(UnknownPrice, match=r"did you mean 'aws/c7a\.large'\?"):
        price_of_hardware("aws/c7a.lagre")
