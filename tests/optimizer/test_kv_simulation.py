"""The model of an engine's prefix cache, against what a person counts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.kv_simulation import Engine, KvTooSmall, budget_blocks, chained_blocks, simulate

A, B = (1, 1, 2, 2, 3), (1, 1, 4, 4, 5)  # two full blocks each, the first of them shared
C = (9, 9, 2, 2, 3)  # the second block has A's tokens behind another first one


def engine(slots: int, kv_blocks: int | None) -> Engine:
    return Engine(slots, kv_blocks, 2, step_s=1.0, prefill_s_per_token=0.0, decode_s_per_token=0.0)


def hits(prompts: list[tuple[int, ...]], kv_blocks: int | None, slots: int = 1) -> int:
    return simulate(prompts, [1] * len(prompts), range(len(prompts)), engine(slots, kv_blocks)).hit_tokens


def test_equal_tokens_after_unlike_ones_are_another_block() -> None:
    assert chained_blocks([A, B, C], 2) == [[0, 1], [0, 2], [3, 4]]


def test_hits_are_those_counted_by_hand() -> None:
    # A computes all; B finds the block (1, 1); C finds nothing; A again finds both of its full blocks.
    assert hits([A, B, C, A], None) == 0 + 2 + 0 + 4


def test_a_small_cache_forgets_the_least_recently_freed_block_first() -> None:
    # Three blocks hold one prompt. C takes all of A's, so the second A finds nothing, and the third all of its two.
    assert hits([A, C, A, A], 3) == 4
    # Four blocks: A frees the end of its prompt, then (2 2), then (1 1). C takes the untouched block and the first two
    # of those; (1 1) is left for the A that follows.
    assert hits([A, C, A], 4) == 2


def test_the_last_token_of_a_prompt_is_computed_even_if_its_block_is_known() -> None:
    assert hits([(1, 1, 2, 2), (1, 1, 2, 2)], None) == 2


def test_a_running_prompt_keeps_its_blocks() -> None:
    """Two slots and five blocks: C does not fit beside A, and waits until A has ended."""
    alone = simulate([A, C], [4, 4], [0, 1], engine(2, 5))
    beside = simulate([A, C], [4, 4], [0, 1], engine(2, 8))
    assert (alone.steps, beside.steps) == (8, 4)


def test_who_finds_no_block_for_its_next_token_is_computed_again() -> None:
    # Each has three blocks, the third half empty: the second output token of both needs a fourth, and there is one.
    outcome = simulate([A, C], [5, 5], [0, 1], engine(2, 7))
    assert outcome.preemptions == 1
    assert outcome.steps == 5 + 3  # it had put out two of its five when it was sent back


def test_slots_are_refilled_when_an_answer_ends_and_a_late_long_one_is_a_tail() -> None:
    prompts = [(row,) for row in range(4)]
    early = simulate(prompts, [6, 2, 2, 2], [0, 1, 2, 3], engine(2, None))
    late = simulate(prompts, [6, 2, 2, 2], [1, 2, 3, 0], engine(2, None))
    assert (early.steps, late.steps) == (6, 8)


def test_time_is_that_of_its_steps_its_prompts_and_its_answers() -> None:
    outcome = simulate(
        [A, B], [3, 3], [0, 1], Engine(2, None, 2, step_s=1.0, prefill_s_per_token=10.0, decode_s_per_token=0.1)
    )
    # Five tokens of A and three of B are computed; three steps with two answers each.
    assert outcome.makespan_s == pytest.approx(10.0 * 8 + 3 * (1.0 + 2 * 0.1))


def test_a_prompt_that_can_never_fit_is_named() -> None:
    with pytest.raises(KvTooSmall, match="2 blocks cannot hold the 5 tokens of row 0"):
        simulate([A], [1], [0], engine(1, 2))


def test_the_budget_holds_at_least_the_largest_prompt_and_its_answer() -> None:
    assert budget_blocks([A, B, C], [1, 9, 1], 2, 0.05) == 7


PROMPTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8).map(tuple), min_size=1, max_size=16)


@settings(deadline=None)
@given(PROMPTS, st.integers(1, 5), st.integers(1, 9))
def test_every_answer_ends_whatever_the_cache_and_no_cache_finds_more_than_an_unbounded_one(
    prompts: list[tuple[int, ...]], slots: int, longest: int
) -> None:
    lengths = [1 + row % longest for row in range(len(prompts))]
    room = budget_blocks(prompts, lengths, 2, 0.05)
    small = simulate(prompts, lengths, range(len(prompts)), engine(slots, room))
    unbounded = simulate(prompts, lengths, range(len(prompts)), engine(slots, None))
    assert small.hit_tokens <= unbounded.hit_tokens <= small.prompt_tokens == sum(map(len, prompts))
    assert unbounded.preemptions == 0
    assert unbounded.steps >= max(max(lengths), -(-sum(lengths) // slots))
    assert small.steps >= unbounded.steps
