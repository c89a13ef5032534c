"""The noise floor: the exact interval of a share, and what is said where nothing is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from optimizer.noise_floor import CONFIDENCE, clopper_pearson, noise_floor


def test_it_counts_the_pairs_that_differ() -> None:
    found = noise_floor(np.array([True, False, True, True]))
    assert (found.pairs, found.differ, found.share) == (4, 1, 0.25)
    assert noise_floor([True, False, True, True]) == found


def test_without_pairs_nothing_is_known() -> None:
    assert noise_floor([]).share is None
    assert noise_floor([]).interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("differ", "pairs", "low", "high"), [(0, 300, 0.0, 0.0122), (3, 300, 0.0021, 0.0289), (10, 10, 0.6915, 1.0)]
)
def test_the_interval_is_that_of_the_tables(differ: int, pairs: int, low: float, high: float) -> None:
    assert noise_floor([False] * differ + [True] * (pairs - differ)).interval == pytest.approx((low, high), abs=5e-5)


samples = st.integers(1, 400).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of)))


@given(samples)
def test_the_interval_is_scipys(sample: tuple[int, int]) -> None:
    found, of = sample
    told = binomtest(found, of).proportion_ci(CONFIDENCE, method="exact")
    assert clopper_pearson(found, of, CONFIDENCE) == pytest.approx((told.low, told.high), abs=1e-9)


# Shares below one in 1e12 are left out: SciPy's own binomial overflows at the smallest of them.
@given(st.integers(1, 20), st.just(0.0) | st.floats(1e-12, 1))
def test_it_holds_the_true_share_as_often_as_it_says(of: int, share: float) -> None:
    intervals = (clopper_pearson(found, of, CONFIDENCE) for found in range(of + 1))
    within = [low - 1e-9 <= share <= high + 1e-9 for low, high in intervals]
    holds = binom.pmf(range(of + 1), of, share)[within].sum()
    assert holds >= CONFIDENCE - 1e-6


@given(samples)
def test_the_share_lies_within(sample: tuple[int, int]) -> None:
    found, of = sample
    low, high = clopper_pearson(found, of, CONFIDENCE)
    assert low <= found / of <= high
