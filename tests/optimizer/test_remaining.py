"""What an engine still has to compute, by parts of its steps."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.remaining import MOST_PLAYED, Group, remaining
from optimizer.survival import Lengths


def of(length: int, waiting: int, ages: tuple[int, ...] = ()) -> Group:
    return Group(Lengths({length: 10}, [], length), waiting, ages)


def test_one_after_another_each_takes_its_steps() -> None:
    parts = remaining([of(10, 4)], 1, prompts=0, prompt_tokens=100, found_share=0)
    assert parts.steps == 40
    assert parts.sequences == 40
    assert parts.context == pytest.approx(4 * (10 * 100 + 10 * 10 / 2))


def test_side_by_side_they_share_steps_and_the_last_one_ends_it() -> None:
    assert remaining([of(10, 4)], 4, 0, 100, 0).steps == 10
    assert remaining([of(10, 5)], 4, 0, 100, 0).steps == 20
    assert remaining([of(10, 64), of(500, 1)], 65, 0, 100, 0).steps == 500


def test_what_is_under_way_has_the_rest_to_go_and_looks_back_further() -> None:
    parts = remaining([of(10, 0, (4,))], 4, 0, prompt_tokens=100, found_share=0)
    assert parts.steps == parts.sequences == 6
    assert parts.context == pytest.approx(6 * (100 + 4) + 6 * 6 / 2)


def test_a_token_of_a_prompt_looks_back_at_what_is_cached_as_well() -> None:
    assert remaining([], 1, prompts=100, prompt_tokens=100, found_share=0).attended == 100 * 50
    assert remaining([], 1, prompts=50, prompt_tokens=100, found_share=0.5).attended == 50 * 75


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=8, max_size=60),
    slots=st.integers(1, 64),
    waiting=st.integers(1, 500),
)
def test_the_end_comes_no_sooner_than_all_slots_could_bring_it(lengths: list[int], slots: int, waiting: int) -> None:
    parts = remaining([Group(Lengths(Counter(lengths), [], 300), waiting, [])], slots, 0, 10, 0)
    assert parts.steps >= parts.sequences / slots - 1e-6
    assert parts.steps <= parts.sequences / slots + 300


def test_of_very_many_some_stand_for_all() -> None:
    generator = random.Random(0)
    lengths = Lengths(Counter(generator.randint(1, 100) for _ in range(500)), [], 100)
    few, many = (remaining([Group(lengths, count, [])], 64, 0, 50, 0) for count in (MOST_PLAYED, 100 * MOST_PLAYED))
    assert many.sequences == pytest.approx(100 * few.sequences, rel=0.01)
    assert many.context == pytest.approx(100 * few.context, rel=0.01)
    assert many.steps == pytest.approx(100 * few.steps, rel=0.05)
