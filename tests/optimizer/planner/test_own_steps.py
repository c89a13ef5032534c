"""The times of a step's parts, fitted from sums over steps."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.own_steps import StepTimes, fitted, scaled, unexplained
from serving.records import StepEvidence

TRUE = StepTimes(0.006, 0.0009, 2e-8, 0.0008, 3e-7)


def steps(count: int, seed: int) -> list[list[float]]:
    """Prefill, mixed and decode steps, as a job has them."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        prefill = float(draw.integers(0, 2) * draw.integers(1, 2048))
        sequences = float(draw.integers(0 if prefill else 1, 65))
        found.append([1.0, prefill, prefill * draw.integers(1, 800), sequences, sequences * draw.integers(1, 900)])
    return found


def evidence(parts: list[list[float]], seconds: list[float]) -> StepEvidence:
    pairs = list(combinations_with_replacement(range(5), 2))
    return StepEvidence(
        sum(seconds),
        tuple(sum(step[place] for step in parts) for place in range(5)),
        tuple(sum(step[a] * step[b] / took for step, took in zip(parts, seconds, strict=True)) for a, b in pairs),
    )


def taken(parts: list[list[float]], times: StepTimes) -> list[float]:
    return [times.of(step) for step in parts]


def test_steps_without_noise_give_their_parts_back() -> None:
    parts = steps(200, 1)
    found = fitted(evidence(parts, taken(parts, TRUE)))
    for name in StepTimes.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-4)


@given(st.integers(0, 2**16), st.floats(0.0, 0.3))
def test_no_part_takes_less_than_nothing_and_the_whole_adds_up(seed: int, noise: float) -> None:
    parts = steps(100, seed)
    wild = np.exp(np.random.default_rng(seed).normal(0, noise, len(parts)))
    seconds = [took * factor for took, factor in zip(taken(parts, TRUE), wild.tolist(), strict=True)]
    seen = evidence(parts, seconds)
    found = fitted(seen)
    assert min(found.of(row) for row in np.eye(5).tolist()) >= 0.0
    assert found.of(seen.totals) == pytest.approx(seen.seconds)


def test_a_part_that_was_never_seen_takes_nothing() -> None:
    parts = [[1.0, 0.0, 0.0, float(size), float(100 * size)] for size in range(1, 40)]
    found = fitted(evidence(parts, taken(parts, TRUE)))
    assert (found.prompt_token_s, found.attended_token_s) == (0.0, 0.0)
    assert found.seconds(*(np.array([value]) for value in (0.0, 0.0, 10.0, 1000.0)))[0] == pytest.approx(
        TRUE.of([1, 0, 0, 10, 1000]), rel=1e-6
    )


def test_what_steps_do_not_tell_is_the_share_that_noise_has() -> None:
    parts = steps(400, 3)
    wild = np.exp(np.random.default_rng(3).normal(0, 0.1, len(parts)))
    seconds = [took * factor for took, factor in zip(taken(parts, TRUE), wild.tolist(), strict=True)]
    seen = evidence(parts, seconds)
    assert 0.05 < unexplained(seen, fitted(seen)) < 0.15
    exact = evidence(parts, taken(parts, TRUE))
    assert unexplained(exact, fitted(exact)) < 1e-3


def test_evidence_of_two_runs_fits_like_that_of_one() -> None:
    parts = steps(120, 5)
    seconds = taken(parts, TRUE)
    both = evidence(parts[:60], seconds[:60]) + evidence(parts[60:], seconds[60:])
    assert both.products == pytest.approx(evidence(parts, seconds).products)
    assert fitted(both * 0.5).step_s == pytest.approx(TRUE.step_s, rel=1e-4)


def test_a_slower_machine_scales_every_part() -> None:
    assert scaled(TRUE, 1.5).of([1, 100, 5000, 8, 800]) == pytest.approx(1.5 * TRUE.of([1, 100, 5000, 8, 800]))
