"""Bounds from left-out rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.interval import Stratum, bounds_of, conformal, stratum


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
    assert stratum(vllm=True, moe=True, seen=False, saturation=2.0) is Stratum.MOE
    assert stratum(vllm=True, moe=False, seen=True, saturation=2.0) is Stratum.SATURATED
    assert stratum(vllm=True, moe=False, seen=False, saturation=0.5) is Stratum.UNSEEN
    assert stratum(vllm=True, moe=False, seen=True, saturation=0.5) is Stratum.SEEN
