"""The certificate: the bound of an audit is exact, and holds as often as it says, whatever the rows are."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from optimizer.certificate import Certificate, audits_needed, drawn, most_wrong

DELTAS = st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.3])


@given(st.integers(1, 400), st.data(), DELTAS)
def test_the_bound_is_the_largest_number_that_chance_could_have_hidden(
    rows: int, data: st.DataObject, delta: float
) -> None:
    audited = data.draw(st.integers(0, rows))
    found = data.draw(st.integers(0, min(audited, 6)))
    possible = [wrong for wrong in range(found, rows - (audited - found) + 1)]
    hidden = [wrong for wrong in possible if hypergeom.cdf(found, rows, wrong, audited) > delta]
    ties = [wrong for wrong in possible if hypergeom.cdf(found, rows, wrong, audited) == pytest.approx(delta, rel=1e-6)]
    assume(not ties)
    assert most_wrong(rows, audited, found, delta) == max(hidden, default=found)


@pytest.mark.parametrize(
    ("rows", "audits"), [(1_000, (777, 348, 161, 60)), (10_000, (617, 291, 147, 59)), (100_000, (595, 298, 149, 59))]
)
def test_audits_are_as_many_as_the_table_says(rows: int, audits: tuple[int, ...]) -> None:
    """By scipy's hypergeometric distribution, for 0.5, 1, 2 and 5 % at 95 %."""
    assert tuple(audits_needed(rows, share, 0.05) for share in (0.005, 0.01, 0.02, 0.05)) == audits


@given(st.integers(1, 5_000), st.floats(0.001, 0.5), DELTAS)
def test_one_audit_less_would_not_certify(rows: int, max_wrong: float, delta: float) -> None:
    audits = audits_needed(rows, max_wrong, delta)
    assert Certificate(rows, audits, 0, max_wrong, delta).certified
    assert audits == 0 or not Certificate(rows, audits - 1, 0, max_wrong, delta).certified


@given(st.integers(1, 2_000), st.integers(0, 2_000), DELTAS)
def test_the_more_wrong_ones_are_found_the_more_there_can_be(rows: int, audited: int, delta: float) -> None:
    bounds = [most_wrong(rows, min(audited, rows), found, delta) for found in range(min(audited, rows, 8) + 1)]
    assert all(one <= other for one, other in pairwise(bounds))


def test_an_audit_of_all_rows_leaves_nothing_to_chance() -> None:
    assert [most_wrong(50, 50, found, 0.01) for found in (0, 7)] == [0, 7]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([0.01, 0.02, 0.05, 0.1]), st.integers(1, 3), st.integers(0, 2**32))
def test_a_promise_is_broken_no_more_often_than_it_says(max_wrong: float, times: int, seed: int) -> None:
    """400 draws from a set in which just more rows are wrong than are promised, which is where it is hardest."""
    rows = 600 * times
    wrong = int(max_wrong * rows) + 1 + seed % 3
    audits = audits_needed(rows, max_wrong, 0.05)
    generator = np.random.default_rng(seed)
    found = generator.hypergeometric(wrong, rows - wrong, audits, size=400)
    broken = sum(
        Certificate(rows, audits, int(count), max_wrong, 0.05).certified
        and wrong - count > max_wrong * (rows if audits <= rows / 20 else rows - audits)
        for count in found
    )
    assert broken / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(0, 2**56 - 1), st.data())
def test_a_draw_is_made_again_by_its_seed_and_a_longer_one_begins_with_it(
    rows: set[int], seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(rows)))
    population = np.array(list(rows))
    chosen = drawn(population, count, seed)
    assert len(set(chosen.tolist())) == count
    assert set(chosen.tolist()) <= rows
    assert drawn(population[::-1], len(rows), seed)[:count].tolist() == chosen.tolist()
