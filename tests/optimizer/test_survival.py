"""How long answers will be, told from those that have finished and those that have not."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.survival import Lengths, deviation, mean_beyond, survival

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=50)


@given(lengths=LENGTHS)
def test_with_nothing_under_way_it_is_the_plain_mean_and_deviation(lengths: list[int]) -> None:
    passing = survival(Counter(lengths), [], 60)
    assert mean_beyond(passing)[0] == pytest.approx(np.mean(lengths))
    assert deviation(passing) == pytest.approx(np.std(lengths), abs=1e-6)


@given(lengths=LENGTHS, ages=st.lists(st.integers(0, 70), max_size=50), most=st.integers(1, 60))
def test_it_is_a_share_that_falls_from_all_to_none_at_the_limit(lengths: list[int], ages: list[int], most: int) -> None:
    passing = survival(Counter(lengths), ages, most)
    assert passing[0] == 1.0
    assert passing[most] == 0.0
    assert (np.diff(passing) <= 1e-12).all()


@given(lengths=LENGTHS, ages=st.lists(st.integers(0, 59), max_size=50))
def test_what_is_under_way_makes_answers_no_shorter(lengths: list[int], ages: list[int]) -> None:
    alone = mean_beyond(survival(Counter(lengths), [], 60))[0]
    assert mean_beyond(survival(Counter(lengths), ages, 60))[0] >= alone - 1e-9


def test_an_answer_that_has_passed_a_length_is_expected_to_get_what_those_before_it_got_beyond() -> None:
    beyond = mean_beyond(survival({2: 2, 10: 2}, [], 10))
    assert beyond[0] == 6
    assert beyond[2] == 8
    assert beyond[9] == 1
    assert beyond[10] == 0


def test_nothing_that_finished_tells_of_answers_as_long_as_their_limit() -> None:
    assert mean_beyond(survival({}, [5, 5], 20))[0] == 20


def test_the_first_to_finish_of_many_that_began_together_do_not_mislead_it() -> None:
    generator = random.Random(0)
    lengths = [min(400, 1 + int(generator.expovariate(0.01))) for _ in range(4000)]
    cut = sorted(lengths)[len(lengths) // 5]
    finished, ages = Counter(length for length in lengths if length <= cut), [cut for length in lengths if length > cut]
    assert sum(length * count for length, count in finished.items()) / finished.total() < 0.2 * np.mean(lengths)
    assert mean_beyond(survival(finished, ages, 400))[0] == pytest.approx(np.mean(lengths), rel=0.1)


@pytest.mark.parametrize("most", [60, 4096, 100_000])
def test_long_limits_are_told_as_well_as_short_ones(most: int) -> None:
    generator = random.Random(1)
    lengths = [generator.randint(1, most) for _ in range(3000)]
    told = Lengths(Counter(lengths), [], most)
    assert told.beyond(0) == pytest.approx(np.mean(lengths), rel=0.01)
    assert told.beyond(most // 2) == pytest.approx(most / 4, rel=0.1)
    assert told.beyond(2 * most) == 0
    assert told.deviation == pytest.approx(np.std(lengths), rel=0.01)


@given(lengths=LENGTHS, age=st.integers(0, 59), chance=st.floats(0, 0.999))
def test_what_is_drawn_ends_within_the_limit_and_has_the_mean_that_is_told(
    lengths: list[int], age: int, chance: float
) -> None:
    told = Lengths(Counter(lengths), [], 60)
    assert 0 <= told.drawn(chance, age) <= 60 - age
    drawn = [told.drawn((place + 0.5) / 600, 0) for place in range(600)]
    assert np.mean(drawn) == pytest.approx(told.beyond(0), abs=0.2)
