"""Answers drawn from those to similar prompts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.own_lengths import drawn_like

SEEN = st.lists(
    st.tuples(st.integers(1, 2000), st.integers(1, 512), st.integers(1, 512)).map(
        lambda one: (one[0], one[1], min(one[1], one[2]))
    ),
    min_size=1,
    max_size=60,
)


@given(
    SEEN, st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 1024)), min_size=1, max_size=40), st.integers(0, 9)
)
def test_an_answer_has_a_token_and_no_more_than_it_may(
    seen: list[tuple[int, int, int]], asked: list[tuple[int, int]], seed: int
) -> None:
    prompts, most = (np.array(column, np.int64) for column in zip(*asked, strict=True))
    drawn = drawn_like(np.array(seen, np.int64), prompts, most, np.random.default_rng(seed))
    assert ((drawn >= 1) & (drawn <= most)).all()


def test_each_kind_of_request_has_answers_of_its_own_kind() -> None:
    short, long = [(50, 8, 2)] * 40, [(900, 256, 200)] * 40
    seen = np.array(short + long, np.int64)
    drawn = drawn_like(seen, np.array([55, 850] * 30), np.array([8, 256] * 30), np.random.default_rng(0))
    assert set(drawn[::2].tolist()) == {2}
    assert set(drawn[1::2].tolist()) == {200}


def test_an_answer_that_was_cut_off_goes_on_where_more_is_allowed() -> None:
    seen = np.array([(50, 16, 16)] * 20, np.int64)
    assert set(drawn_like(seen, np.array([50]), np.array([64]), np.random.default_rng(0)).tolist()) == {64}


def test_the_mean_of_what_is_drawn_is_that_of_what_was_seen() -> None:
    draw = np.random.default_rng(1)
    seen = np.stack([np.full(300, 80), np.full(300, 100), draw.integers(1, 99, 300)], axis=1)
    many = drawn_like(seen, np.full(4000, 80), np.full(4000, 100), np.random.default_rng(2), resampled=False)
    assert abs(many.mean() / seen[:, 2].mean() - 1) < 0.25
