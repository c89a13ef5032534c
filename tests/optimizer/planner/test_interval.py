"""Bounds from left-out rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.certainty import deviations, mean_factor
from optimizer.planner.interval import MEASURED, Stratum, bounds_of, conformal, conformal_of_cells, doubt, stratum


@given(st.integers(0, 10_000))
def test_nine_in_ten_new_rows_fall_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bounds = conformal(list(rng.normal(0.05, 0.1, 400)))
    fresh = np.exp(rng.normal(0.05, 0.1, 4000))
    assert 0.84 < np.mean((fresh > bounds.low) & (fresh < bounds.high)) < 0.96


def test_a_cell_of_many_rows_does_not_set_the_bounds_alone() -> None:
    logs, cells = [0.01] * 98 + [0.5] * 4, ["large"] * 98 + ["small"] * 4
    assert conformal(logs).high == pytest.approx(np.exp(0.01))
    assert conformal_of_cells(logs, cells).high == pytest.approx(np.exp(0.5))


def test_cells_of_one_size_count_as_rows_do() -> None:
    logs = [float(log) for log in np.random.default_rng(7).normal(0, 0.1, 400)]
    cells = [str(place % 8) for place in range(400)]
    of_cells, of_rows = conformal_of_cells(logs, cells, 0.9), conformal(logs, 0.9)
    assert of_cells.low == pytest.approx(of_rows.low, rel=0.01)
    assert of_cells.high == pytest.approx(of_rows.high, rel=0.01)


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
    wide, narrow = (
        mean_factor(*deviations(bounds.low, bounds.high, 0.0)) for bounds in map(bounds_of, (unseen, MEASURED[unseen]))
    )
    assert wide * doubt(unseen) > narrow * doubt(MEASURED[unseen]) == narrow


def test_that_a_gpu_was_not_measured_adds_to_the_variance_of_a_stratum() -> None:
    found, known = bounds_of(Stratum.OFFLINE_UNSEEN), bounds_of(Stratum.OFFLINE)
    unseen, seen = bounds_of(Stratum.UNSEEN), bounds_of(Stratum.SEEN)
    for side in ("low", "high"):
        wider, narrower, with_it, without = (np.log(getattr(one, side)) ** 2 for one in (found, known, unseen, seen))
        assert wider - narrower == pytest.approx(with_it - without)
