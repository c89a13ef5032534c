"""Money: what time and tokens cost, and that what is shared out adds up to the bill to the last digit."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from optimizer.cost import USD_STEP, share_out, split_exactly, usd_of_time, usd_of_tokens
from serving.records import Price, Rates, Usage

BY_TIME = Price("a test", "2026-01-01", usd_per_hour=Decimal("3600"))  # a dollar a second
BY_TOKEN = Price("a test", "2026-01-01", input_usd_per_mtok=Decimal("0.15"), output_usd_per_mtok=Decimal("0.60"))
USD = st.decimals(0, 1000, places=12, allow_nan=False, allow_infinity=False)
WEIGHTS = st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda weights: sum(weights) > 0)
USAGES = st.lists(
    st.builds(Usage, st.integers(0, 5000), st.integers(0, 500), st.integers(0, 5000)), min_size=1, max_size=40
)
RATES = st.none() | st.builds(Rates, st.floats(0, 0.1), st.floats(0, 0.1))


def by_weight(weights: list[float]) -> NDArray[np.float64]:
    return np.array(weights) / sum(weights)


def charged(
    seconds: float, price: Price, usages: list[Usage], rates: Rates | None = None
) -> tuple[list[float], list[Decimal]]:
    """Of each row its seconds and its dollars."""
    counts = np.array([(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) for usage in usages])
    charges = share_out(seconds, price, *counts.astype(np.int64).reshape(-1, 3).T, rates)
    return charges.engine_s.tolist(), [steps * USD_STEP for steps in charges.usd_steps.tolist()]


@given(USD, WEIGHTS)
def test_the_parts_add_up_to_the_bill_exactly(usd: Decimal, weights: list[float]) -> None:
    assert int(split_exactly(usd, by_weight(weights)).sum()) * USD_STEP == usd


@given(USD, WEIGHTS)
def test_no_part_is_negative(usd: Decimal, weights: list[float]) -> None:
    assert split_exactly(usd, by_weight(weights)).min() >= 0


@given(USD, WEIGHTS)
def test_a_part_is_within_one_step_of_its_share(usd: Decimal, weights: list[float]) -> None:
    shares = by_weight(weights)
    for part, share in zip(split_exactly(usd, shares).tolist(), shares.tolist(), strict=True):
        # 1e-12 relative is the float arithmetic of the share itself.
        assert abs(part * USD_STEP - usd * Decimal(share)) <= USD_STEP + usd * Decimal("1e-12")


def test_a_cent_that_does_not_divide_goes_to_the_first_rows() -> None:
    # 10 steps over three equal shares: 3 each, and the step that is left to the first.
    assert split_exactly(10 * USD_STEP, np.full(3, 1 / 3)).tolist() == [4, 3, 3]


@given(st.floats(0, 1e5), USAGES, RATES)
def test_charges_add_up_to_the_bill_of_the_span(seconds: float, usages: list[Usage], rates: Rates | None) -> None:
    assert sum(charged(seconds, BY_TIME, usages, rates)[1]) == usd_of_time(BY_TIME, seconds)


@given(st.floats(0, 1e5), USAGES, RATES)
def test_charged_seconds_add_up_to_the_span(seconds: float, usages: list[Usage], rates: Rates | None) -> None:
    assert sum(charged(seconds, BY_TIME, usages, rates)[0]) == pytest.approx(seconds)


def test_a_row_pays_for_its_tokens_at_the_measured_rates() -> None:
    # Row 1: 30 prompt tokens x 0.1 + 0 x 0.5 = 3; row 2: 0 x 0.1 + 2 x 0.5 = 1. So 3/4 and 1/4 of 8 dollars.
    assert charged(8.0, BY_TIME, [Usage(30, 0), Usage(0, 2)], Rates(0.1, 0.5)) == ([6.0, 2.0], [6, 2])


def test_cached_prompt_tokens_weigh_nothing() -> None:
    # 10 prompt tokens of which 8 were cached weigh 2, against 6: a quarter of 4 dollars.
    assert charged(4.0, BY_TIME, [Usage(10, 0, cached_tokens=8), Usage(6, 0)])[1] == [1, 3]


def test_rows_that_used_no_token_share_the_span_equally() -> None:
    assert charged(1.0, BY_TIME, [Usage(0, 0)] * 4)[1] == [Decimal("0.25")] * 4


def test_a_span_in_which_nothing_finished_charges_no_row() -> None:
    assert charged(0.0, BY_TIME, []) == ([], [])


def test_billed_by_tokens_a_row_pays_its_own_whatever_the_time() -> None:
    # 1000 x 0.15/1e6 + 500 x 0.60/1e6 = 0.00015 + 0.00030
    assert charged(99.0, BY_TOKEN, [Usage(1000, 500)])[1] == [Decimal("0.00045")]


def test_time_costs_its_share_of_an_hour() -> None:
    # 0.102640 an hour x 90 s / 3600 s = 0.002566
    assert usd_of_time(Price("a test", "2026-01-01", usd_per_hour=Decimal("0.102640")), 90.0) == Decimal("0.002566")


def test_time_costs_nothing_where_tokens_are_billed() -> None:
    assert usd_of_time(BY_TOKEN, 3600.0) == 0


def test_tokens_cost_their_list_price_by_the_million() -> None:
    # 2e6 x 0.15/1e6 + 1e6 x 0.60/1e6 = 0.30 + 0.60
    assert usd_of_tokens(BY_TOKEN, Usage(2_000_000, 1_000_000)) == Decimal("0.90")


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_money_is_kept_to_the_step_that_the_ledger_holds(prompt_tokens: int, completion_tokens: int) -> None:
    usd = usd_of_tokens(BY_TOKEN, Usage(prompt_tokens, completion_tokens))
    assert usd == usd.quantize(USD_STEP)
