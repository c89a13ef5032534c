"""Bounds from left-out rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.certainty import deviations, mean_factor
from optimizer.planner.interval import MEASURED, Stratum, bounds_of, conformal, stratum


@given(st.integers(0, 10_000))
def test_nine_in_ten_new_rows_fall_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bounds = conformal(list(rng.normal(0.05, 0.1, 400)))
    fresh = np.exp(rng.normal(0.05, 0.1, 4000))
    assert 0.84 < np.mean((fresh > bounds.low) & (fresh < bounds.high)) < 0.96


@pytest.mark.parametrize("name", list(Stratum))
def test_every_stratum_has_bounds_around_the_prediction(name: Stratum) -> None:
    bounds = bounds_of(name)
    assert bounds.low < 1 < bounds.high


def test_the_first_reason_to_doubt_names_the_stratum() -> None:
    assert stratum(vllm=False, moe=True, seen=True, saturation=2.0) is Stratum.OTHER_ENGINE
    assert stratum(vllm=True, moe=True, seen=False, saturation=2.0) is Stratum.MOE_UNSEEN
    assert stratum(vllm=True, moe=False, seen=False, saturation=2.0, offline=True) is Stratum.OFFLINE_UNSEEN
    assert stratum(vllm=True, moe=False, seen=True, saturation=2.0, offline=True) is Stratum.OFFLINE
    assert stratum(vllm=True, moe=False, seen=True, saturation=2.0) is Stratum.SATURATED
    assert stratum(vllm=True, moe=False, seen=False, saturation=0.5) is Stratum.UNSEEN
    assert stratum(vllm=True, moe=False, seen=True, saturation=0.5) is Stratum.SEEN


@pytest.mark.parametrize("unseen", MEASURED)
def test_a_gpu_that_nobody_measured_is_less_sure_on_both_sides(unseen: Stratum) -> None:
    wide, narrow = bounds_of(unseen), bounds_of(MEASURED[unseen])
    assert wide.low < narrow.low
    assert wide.high > narrow.high


@pytest.mark.parametrize("unseen", MEASURED)
def test_what_is_less_sure_takes_longer_in_expectation(unseen: Stratum) -> None:
    wide, narrow = (bounds_of(one) for one in (unseen, MEASURED[unseen]))
    assert mean_factor(*deviations(wide.low, wide.high, 0.0)) > mean_factor(*deviations(narrow.low, narrow.high, 0.0))


def test_that_a_gpu_was_not_measured_adds_to_the_variance_of_a_stratum() -> None:
    found, known = bounds_of(Stratum.OFFLINE_UNSEEN), bounds_of(Stratum.OFFLINE)
    unseen, seen = bounds_of(Stratum.UNSEEN), bounds_of(Stratum.SEEN)
    for side in ("low", "high"):
        wider, narrower, with_it, without = (np.log(getattr(one, side)) ** 2 for one in (found, known, unseen, seen))
        assert wider - narrower == pytest.approx(with_it - without)
