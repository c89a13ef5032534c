"""Constants drawn from few rows towards their priors."""

import numpy as np
import pytest

from optimizer.planner.calibration import NAMES, NONE, Calibration, fit

PLACE = NAMES.index("weight_read")
GROUPS = ("engine:vllm", "version:vllm-v1", "gpu:H100-SXM-80GB")


def read_only(logs: np.ndarray) -> np.ndarray:
    """A row that takes just what reading weights takes."""
    return np.asarray(logs[:, PLACE])


def fitted(rows: int, factor: float) -> Calibration:
    return fit(read_only, np.full(rows, factor), [GROUPS] * rows, np.ones(rows))


def reach(calibration: Calibration) -> float:
    return float(np.exp(read_only(calibration.logs([GROUPS]))[0]))


def test_no_rows_leave_the_priors() -> None:
    assert reach(NONE) == 1


def test_more_rows_pull_further_from_the_prior() -> None:
    near = [reach(fitted(rows, 1.2)) for rows in (1, 6, 60)]
    assert 1 < near[0] < near[1] < near[2] <= 1.2
    assert near[2] == pytest.approx(1.2, abs=0.01)


def test_a_stray_row_moves_little() -> None:
    measured = np.concatenate([np.full(20, 1.1), [5.0]])
    found = fit(read_only, measured, [GROUPS] * 21, np.ones(21))
    assert reach(found) == pytest.approx(1.1, abs=0.02)


def test_what_was_never_seen_shares_what_the_rest_has_in_common() -> None:
    other = ("engine:vllm", "version:vllm-v1", "gpu:L4")
    found = fitted(60, 1.3)
    unseen = float(np.exp(read_only(found.logs([other]))[0]))
    assert 1.1 < unseen < reach(found)


def test_a_group_without_rows_has_no_deviation() -> None:
    assert "gpu:L4" not in fitted(6, 1.2).deviations
