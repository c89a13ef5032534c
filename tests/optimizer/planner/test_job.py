"""Lengths by their percentiles, and what is computed of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.job import ATOMS, Job, TokenCounts, Wish

SEEN = {50: 100.0, 90: 300.0, 99: 800.0}


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=500))
def test_counted_lengths_keep_their_mean(lengths: list[int]) -> None:
    counts = TokenCounts.of(lengths)
    # Slices differ by one length at most, and all count alike.
    assert counts.mean == pytest.approx(np.mean(lengths), rel=0.15)
    assert counts.atoms[0] >= min(lengths)
    assert counts.longest <= max(lengths)
    assert len(counts.atoms) <= ATOMS


def test_a_multiple_of_the_slices_keeps_its_mean_exactly() -> None:
    lengths = np.random.default_rng(0).integers(1, 999, 10 * ATOMS)
    assert TokenCounts.of(lengths.tolist()).mean == pytest.approx(lengths.mean())


@given(mean=st.floats(20, 2000))
def test_percentiles_keep_the_mean_and_the_shape(mean: float) -> None:
    counts = TokenCounts.of_percentiles(mean, SEEN)
    assert counts.mean == pytest.approx(mean, rel=0.01)
    median, ninety = np.quantile(counts.atoms, [0.5, 0.9])
    assert ninety / median == pytest.approx(3.0, rel=0.2)


def test_a_mean_alone_is_one_length() -> None:
    assert TokenCounts.of_percentiles(77, {}) == TokenCounts.fixed(77)
    assert TokenCounts.fixed(77).variation == 0.0


def test_drawn_lengths_have_the_mean() -> None:
    counts = TokenCounts.of_percentiles(150, SEEN)
    drawn = counts.drawn(50_000, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(150, rel=0.02)
    assert drawn.min() >= 1


def test_a_sequence_holds_more_than_the_mean_where_outputs_differ() -> None:
    """Long outputs are over-represented among those that run: (E[i o] + E[o^2] / 2) / E[o]."""
    alike = Job(10, TokenCounts.fixed(100), TokenCounts.fixed(200))
    uneven = Job(10, TokenCounts.fixed(100), TokenCounts((1.0, 399.0)))
    assert alike.lengths.held == pytest.approx(200)
    assert uneven.lengths.held > 250


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: TokenCounts(()),
        lambda: TokenCounts((0.5,)),
        lambda: TokenCounts((3.0, 2.0)),
        lambda: TokenCounts.of_percentiles(10, {50: 20, 90: 10}),
        lambda: Job(0, TokenCounts.fixed(1), TokenCounts.fixed(1)),
        lambda: Job(1, TokenCounts.fixed(1), TokenCounts.fixed(1), shared_prefix=1.0),
        lambda: Job(1, TokenCounts.fixed(1), TokenCounts.fixed(1), acceptance=1.0),
        lambda: Wish(deadline_s=0),
        lambda: Wish(weights=()),
        lambda: Wish(on_demand=False),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        wrong()  # type: ignore[operator]
