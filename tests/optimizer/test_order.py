"""The order of a lane: a permutation in which prompts that share a beginning stand together."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from optimizer.order import prefix_order

TOKENS = st.lists(st.integers(0, 3), max_size=5)  # few tokens, so that prefixes meet often
PROMPTS = st.lists(st.none() | TOKENS, max_size=30)
ANY_TOKENS = st.lists(st.sampled_from([0, 1, 255, 256, 2**31 - 1]), max_size=9)
IDS = pa.list_(pa.int32())


def by_definition(prompts: list[list[int] | None]) -> list[int]:
    """Token by token, ties by place; those without tokens after the others, in their own order."""
    return sorted(range(len(prompts)), key=lambda place: (prompts[place] is None, prompts[place] or [], place))


@given(st.lists(st.none() | TOKENS | ANY_TOKENS, max_size=40))
def test_the_order_is_that_of_comparing_token_by_token(prompts: list[list[int] | None]) -> None:
    assert prefix_order(prompts).tolist() == by_definition(prompts)


@given(st.lists(PROMPTS, max_size=4), st.integers(0, 3))
def test_the_chunks_of_a_column_make_no_difference(chunks: list[list[list[int] | None]], skipped: int) -> None:
    column = pa.chunked_array([pa.array(chunk, IDS) for chunk in chunks], IDS).slice(skipped)
    assert prefix_order(column).tolist() == by_definition(column.to_pylist())


@given(PROMPTS)
def test_the_order_is_a_permutation(prompts: list[list[int] | None]) -> None:
    assert sorted(prefix_order(prompts)) == list(range(len(prompts)))


@given(st.lists(TOKENS, max_size=30))
def test_prompts_that_share_a_prefix_of_any_length_are_contiguous(prompts: list[list[int]]) -> None:
    fed = [prompts[place] for place in prefix_order(prompts)]
    for prompt in prompts:
        for length in range(1, len(prompt) + 1):
            places = [place for place, other in enumerate(fed) if other[:length] == prompt[:length]]
            assert places == list(range(places[0], places[-1] + 1))


@given(PROMPTS)
def test_prompts_without_tokens_come_last_in_their_own_order(prompts: list[list[int] | None]) -> None:
    unknown = [place for place, prompt in enumerate(prompts) if prompt is None]
    assert prefix_order(prompts)[len(prompts) - len(unknown) :].tolist() == unknown


def test_equal_prompts_keep_the_order_of_the_input() -> None:
    assert prefix_order([[2], [1], [2], [1]]).tolist() == [1, 3, 0, 2]


def test_a_prompt_stands_before_the_longer_ones_that_begin_with_it() -> None:
    assert prefix_order([[1, 2, 3], [1], [1, 2]]).tolist() == [1, 2, 0]
