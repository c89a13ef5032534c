"""Expected lengths: from what has finished among the prompts that begin alike, else what max_tokens allows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optimizer.order.policies import tree_of
from optimizer.output_lengths import LEAST_SEEN, UNKNOWN, expected_output_tokens, length_quantiles

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), max_size=40)


@given(PAIRS, st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_a_quantile_is_the_least_length_that_its_share_does_not_pass(
    pairs: list[tuple[int, int]], quantile: float
) -> None:
    groups, lengths = (np.array([pair[part] for pair in pairs], np.int64) for part in (0, 1))
    found = length_quantiles(groups, lengths, quantile)
    assert found.groups.tolist() == sorted(set(groups.tolist()))
    for group, seen, length in zip(*found, strict=True):
        own = sorted(lengths[groups == group].tolist())
        assert seen == len(own)
        assert length == next(one for one in own if sum(other <= one for other in own) >= quantile * len(own))


# Two templates of four blocks of two tokens, ten questions each.
PROMPTS = [(template,) * 8 + (row,) for template in (1, 2) for row in range(10)]
TREE = tree_of(PROMPTS, 2)
MAX_TOKENS = np.full(20, 100)


def observed(**finished: list[int]) -> np.ndarray:
    lengths = np.full(20, UNKNOWN)
    for name, values in finished.items():
        first = {"first": 0, "second": 10}[name]
        lengths[first : first + len(values)] = values
    return lengths


def test_before_anything_has_finished_max_tokens_is_expected() -> None:
    assert expected_output_tokens(TREE, MAX_TOKENS, observed()).tolist() == [100] * 20


def test_rows_are_expected_to_be_as_long_as_those_that_begin_alike() -> None:
    expected = expected_output_tokens(TREE, MAX_TOKENS, observed(first=[5] * LEAST_SEEN, second=[70] * LEAST_SEEN))
    assert expected[LEAST_SEEN:10].tolist() == [5] * 2
    assert expected[10 + LEAST_SEEN :].tolist() == [70] * 2


def test_a_group_of_which_too_few_have_finished_takes_the_lanes_quantile() -> None:
    expected = expected_output_tokens(TREE, MAX_TOKENS, observed(first=[*range(1, 9)], second=[50]), quantile=0.5)
    assert expected[9] == 4  # of 1..8
    assert expected[19] == 5  # of 1..8 and 50


def test_an_observed_length_stands_for_itself() -> None:
    lengths = observed(first=[*range(1, 11)])
    assert expected_output_tokens(TREE, MAX_TOKENS, lengths)[:10].tolist() == lengths[:10].tolist()


def test_max_tokens_caps_what_is_expected() -> None:
    caps = np.where(np.arange(20) == 9, 3, 100)
    assert expected_output_tokens(TREE, caps, observed(first=[60] * 9))[9] == 3
