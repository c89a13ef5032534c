"""The order of a lane: laws that hold for any prompts, and what each policy does."""

import io
import tempfile
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.kv_simulation import Engine, budget_blocks, simulate
from optimizer.order import plan, policies
from optimizer.order.depth_first import depth_first
from optimizer.order.external_sort import sorted_keys
from optimizer.order.prefix_keys import WORD_BYTES, prefix_keys
from optimizer.order.token_sort import row_sort
from optimizer.order.tree import Places, PrefixTree

BLOCK = 2
TOKENS = st.lists(st.integers(0, 3), max_size=5)  # few tokens, so that prefixes meet often
PROMPTS = st.lists(st.none() | TOKENS, max_size=30)
ANY_TOKENS = st.lists(st.sampled_from([0, 1, 255, 256, 2**31 - 1]), max_size=9)
IDS = pa.list_(pa.int32())
END = 9  # how a chat template ends every prompt, so that none is the beginning of another
# Rows of a lane: a prompt of few blocks, and how long its answer is.
LANES = st.lists(
    st.tuples(st.lists(st.integers(0, 1), max_size=9).map(lambda tokens: (*tokens, END)), st.integers(1, 40)),
    min_size=1,
    max_size=24,
)
Lane = list[tuple[tuple[int, ...], int]]
SLOTS = st.integers(1, 5)
UNTIMED = settings(deadline=None, max_examples=60)


def by_definition(prompts: list[list[int] | None]) -> list[int]:
    """Token by token, ties by place; those without tokens after the others, in their own order."""
    return sorted(range(len(prompts)), key=lambda place: (prompts[place] is None, prompts[place] or [], place))


def every_policy(lane: Lane, slots: int) -> dict[str, list[int]]:
    prompts, lengths = [prompt for prompt, _ in lane], np.array([length for _, length in lane])
    orders = {
        "arrival": policies.arrival(len(lane)),
        "row-sort": policies.row_sort(prompts),
        "system-hash": policies.system_hash([str(prompt[:BLOCK]) for prompt in prompts]),
        "bucketed": policies.bucketed(prompts),
        "prefix": policies.prefix(prompts, BLOCK),
        "longest-first": policies.longest_first(lengths),
        "prefix+longest": policies.prefix_longest(prompts, lengths, slots, BLOCK),
    }
    return {name: order.tolist() for name, order in orders.items()}


def bound(order: Places, lengths: Places, slots: int) -> int:
    """The end that list scheduling bounds, in steps of one slot."""
    fed = lengths[order]
    return int((np.cumsum(fed) - fed + slots * fed).max())


# Laws.


@UNTIMED
@given(LANES, SLOTS)
def test_every_policy_is_a_permutation(lane: Lane, slots: int) -> None:
    for name, order in every_policy(lane, slots).items():
        assert sorted(order) == list(range(len(lane))), name


@UNTIMED
@given(LANES, SLOTS)
def test_prompts_of_one_prefix_group_are_contiguous_at_every_depth(lane: Lane, slots: int) -> None:
    prompts, lengths = [prompt for prompt, _ in lane], np.array([length for _, length in lane])
    tree = policies.tree_of(prompts, BLOCK)
    for order in (policies.prefix(prompts, BLOCK), depth_first(tree, lengths, slots)):
        fed = [prompts[place] for place in order]
        for prompt in prompts:
            for end in range(BLOCK, len(prompt) + 1, BLOCK):
                places = [place for place, other in enumerate(fed) if other[:end] == prompt[:end]]
                assert places == list(range(places[0], places[-1] + 1))


@UNTIMED
@given(LANES, SLOTS)
def test_equal_prompts_are_adjacent(lane: Lane, slots: int) -> None:
    prompts, lengths = [prompt for prompt, _ in lane], np.array([length for _, length in lane])
    fed = [prompts[place] for place in depth_first(policies.tree_of(prompts, BLOCK), lengths, slots)]
    changes = sum(one != other for one, other in pairwise(fed))
    assert changes == len(set(prompts)) - 1


@UNTIMED
@given(LANES, st.integers(1, 40), SLOTS)
def test_before_anything_has_finished_groups_keep_the_order_of_arrival(lane: Lane, length: int, slots: int) -> None:
    """At a cold start every row is expected to be as long as max_tokens allows."""
    prompts = [prompt for prompt, _ in lane]
    order = depth_first(policies.tree_of(prompts, BLOCK), np.full(len(lane), length), slots)
    assert order.tolist() == policies.prefix(prompts, BLOCK).tolist()
    firsts = [order[0]] + [place for last, place in pairwise(order) if prompts[last][:BLOCK] != prompts[place][:BLOCK]]
    assert firsts == sorted(firsts)


@given(st.integers(1, 20), SLOTS)
def test_equal_rows_keep_the_order_of_arrival(rows: int, slots: int) -> None:
    order = policies.prefix_longest([(1, 2, 3)] * rows, np.full(rows, 7), slots, BLOCK)
    assert order.tolist() == list(range(rows))


@UNTIMED
@given(LANES, SLOTS)
def test_a_small_cache_finds_for_groups_that_are_together_what_an_unbounded_one_does(lane: Lane, slots: int) -> None:
    prompts, lengths = [prompt for prompt, _ in lane], [length for _, length in lane]
    one_token = [1] * len(lane)  # no answer takes a block from a prefix
    small = Engine(slots, budget_blocks(prompts, one_token, BLOCK, 0.05), BLOCK)
    unbounded = Engine(slots, None, BLOCK)
    ceiling = simulate(prompts, one_token, range(len(lane)), unbounded).hit_tokens
    tree = policies.tree_of(prompts, BLOCK)
    for order in (policies.prefix(prompts, BLOCK), depth_first(tree, np.array(lengths), slots)):
        assert simulate(prompts, one_token, order.tolist(), small).hit_tokens == ceiling


@UNTIMED
@given(LANES, SLOTS)
def test_ours_hits_no_less_than_row_sort_and_system_hash(lane: Lane, slots: int) -> None:
    """But for the blocks that mending the tail is allowed to cost."""
    prompts = [prompt for prompt, _ in lane]
    one_token = [1] * len(lane)
    small = Engine(slots, budget_blocks(prompts, one_token, BLOCK, 0.05), BLOCK)
    orders = every_policy(lane, slots)
    hits = {name: simulate(prompts, one_token, order, small).hit_tokens for name, order in orders.items()}
    assert hits["prefix"] >= max(hits.values())
    allowed = plan.MAX_LOSS * sum(map(len, prompts))
    assert hits["prefix+longest"] >= max(hits["row-sort"], hits["system-hash"]) - allowed


@UNTIMED
@given(LANES, SLOTS)
def test_no_other_order_of_whole_groups_bounds_the_end_better(lane: Lane, slots: int) -> None:
    """Against the same tree with its children in other orders: those of other lengths."""
    prompts, lengths = [prompt for prompt, _ in lane], np.array([length for _, length in lane])
    tree = policies.tree_of(prompts, BLOCK)
    ours = bound(depth_first(tree, lengths, slots), lengths, slots)
    for others in (lengths * 0, -lengths, lengths[::-1].copy(), lengths % 7, np.arange(len(lane))):
        assert ours <= bound(depth_first(tree, others, slots), lengths, slots)


@UNTIMED
@given(LANES, SLOTS)
def test_mending_the_tail_never_makes_the_end_worse_than_whole_groups_do(lane: Lane, slots: int) -> None:
    prompts, lengths = [prompt for prompt, _ in lane], np.array([length for _, length in lane])
    tree = policies.tree_of(prompts, BLOCK)
    mended, whole = (bound(order(tree, lengths, slots), lengths, slots) for order in (plan.prefix_longest, depth_first))
    assert mended <= whole


# The tree.


@given(st.lists(PROMPTS, max_size=4))
def test_the_tree_is_the_same_however_its_column_comes(chunks: list[list[list[int] | None]]) -> None:
    whole = PrefixTree.of_columns([pa.array([prompt for chunk in chunks for prompt in chunk], IDS)], io.BytesIO, BLOCK)
    parts = PrefixTree.of_columns([pa.array(chunk, IDS) for chunk in chunks], io.BytesIO, BLOCK)
    assert whole.node_of_row.tolist() == parts.node_of_row.tolist()
    assert whole.depth.tolist() == parts.depth.tolist()


@UNTIMED
@given(LANES)
def test_a_prompt_hangs_at_the_deepest_block_that_it_shares(lane: Lane) -> None:
    prompts = [prompt for prompt, _ in lane]
    tree = policies.tree_of(prompts, BLOCK)
    for row, prompt in enumerate(prompts):
        others = [other for place, other in enumerate(prompts) if place != row]
        if prompt not in others:  # equal prompts have a node of their own below
            shared = max(
                (common // BLOCK for common in (length_in_common(prompt, other) for other in others)), default=0
            )
            assert tree.depth[tree.node_of_row[row]] == shared


def length_in_common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next(
        (at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right),
        min(len(one), len(other)),
    )


@UNTIMED
@given(LANES, st.data())
def test_the_tree_of_some_rows_orders_them_as_a_tree_of_their_own(lane: Lane, data: st.DataObject) -> None:
    prompts, lengths = [prompt for prompt, _ in lane], np.array([length for _, length in lane])
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(lane) - 1), min_size=1))))
    some = policies.tree_of(prompts, BLOCK).of(rows)
    alone = policies.tree_of([prompts[row] for row in rows], BLOCK)
    ordered = [depth_first(tree, lengths[rows], 2) for tree in (some, alone)]
    assert bound(ordered[0], lengths[rows], 2) <= bound(ordered[1], lengths[rows], 2)
    assert sorted(ordered[0]) == sorted(ordered[1])


def test_an_empty_lane_has_an_empty_order() -> None:
    assert policies.prefix_longest([], np.empty(0, np.int64), 4).tolist() == []


def test_prompts_of_which_no_tokens_are_known_keep_the_order_of_arrival() -> None:
    tree = PrefixTree.of_columns([pa.array([None] * 4, IDS)], io.BytesIO)
    assert plan.prefix_longest(tree, np.full(4, 9), 2).tolist() == [0, 1, 2, 3]


@given(st.lists(TOKENS | ANY_TOKENS, max_size=40))
def test_keys_begin_alike_as_far_as_prompts_share_blocks(prompts: list[list[int]]) -> None:
    keys = list(prefix_keys(pa.array(prompts, IDS), BLOCK))
    for prompt, key in zip(prompts, keys, strict=True):
        assert len(key) == WORD_BYTES * (len(prompt) // BLOCK + 1)
        for other, another in zip(prompts, keys, strict=True):
            shared = length_in_common(tuple(prompt), tuple(other)) // BLOCK
            assert (key == another) == (prompt == other)
            assert key[: WORD_BYTES * shared] == another[: WORD_BYTES * shared]


def test_keys_of_prompts_that_are_hashed_in_slices_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = pa.array([list(range(row % 7)) if row % 5 else None for row in range(60)], IDS)
    whole = list(prefix_keys(prompts, BLOCK))
    monkeypatch.setattr("optimizer.order.prefix_keys.SLICE_TOKENS", 5)
    assert list(prefix_keys(prompts, BLOCK)) == whole


@given(st.lists(st.binary(max_size=9), max_size=60), st.integers(1, 2000))
def test_keys_are_sorted_the_same_through_files_as_in_memory(keys: list[bytes], run_bytes: int) -> None:
    ordered = sorted((key, place) for place, key in enumerate(keys))
    assert list(sorted_keys(keys, tempfile.TemporaryFile, run_bytes)) == ordered


# Lengths and tails.


def test_among_single_prompts_the_longest_goes_first() -> None:
    prompts = [(row, row, row) for row in range(5)]
    assert policies.prefix_longest(prompts, np.array([3, 9, 1, 9, 4]), 2).tolist() == [1, 3, 4, 0, 2]


def test_a_group_that_is_all_long_goes_before_one_with_a_longer_answer_and_much_short_work() -> None:
    long = [(1, 1, row) for row in range(4)]
    mixed = [(2, 2, row) for row in range(60)]
    lengths = np.array([90] * 4 + [100] + [10] * 59)
    order = policies.prefix_longest([*long, *mixed], lengths, 4, BLOCK)
    assert order.tolist() == list(range(64))
    assert bound(order, lengths, 4) < bound(np.r_[order[4:], order[:4]], lengths, 4)


def test_a_late_long_answer_of_every_group_is_taken_out_of_the_last_groups() -> None:
    rows = [(group, group, group, group, row) for group in range(400) for row in range(21)]
    lengths = np.array([300 if row[-1] == 0 else 8 for row in rows])
    tree = policies.tree_of(rows, BLOCK)
    before, after = (order(tree, lengths, 64) for order in (depth_first, plan.prefix_longest))
    assert len(plan.late_rows(before, lengths, 64)) > 0
    assert len(plan.late_rows(after, lengths, 64)) == 0
    assert max(lengths[after[-64:]]) == 8
    ahead = np.zeros(len(rows), np.bool_)
    ahead[plan.late_rows(before, lengths, 64)] = True
    assert plan.blocks_lost(tree, ahead) <= plan.MAX_LOSS * tree.blocks_of_row.sum()


def test_what_is_fed_twice_never_costs_more_than_its_limit() -> None:
    """Groups of two long prompts: to take one out costs a third of all blocks at once."""
    rows = [(*([group] * 60), row) for group in range(10) for row in range(2)]
    lengths = np.array([1000 if row[-1] else 1 for row in rows])
    tree = policies.tree_of(rows, BLOCK)
    assert plan.prefix_longest(tree, lengths, 5).tolist() == depth_first(tree, lengths, 5).tolist()


# The orders of others.


@given(st.lists(st.none() | TOKENS | ANY_TOKENS, max_size=40))
def test_row_sort_compares_token_by_token(prompts: list[list[int] | None]) -> None:
    assert row_sort(prompts).tolist() == by_definition(prompts)


@given(st.lists(PROMPTS, max_size=4), st.integers(0, 3))
def test_the_chunks_of_a_column_make_no_difference(chunks: list[list[list[int] | None]], skipped: int) -> None:
    column = pa.chunked_array([pa.array(chunk, IDS) for chunk in chunks], IDS).slice(skipped)
    assert row_sort(column).tolist() == by_definition(column.to_pylist())


def test_system_hash_is_fnv_1a_of_32_bits_and_stable() -> None:
    # Of the algorithm's own test vectors: "" 811c9dc5, "a" e40c292c, "b" e70c2de5, "foobar" bf9cf968.
    assert policies.system_hash(["b", "a", "foobar", "", "a"]).tolist() == [3, 2, 1, 4, 0]


def test_buckets_are_cut_where_little_is_shared_and_the_largest_goes_first() -> None:
    small = [(1, 1, 1, row) for row in range(16)]
    large = [(2, 2, 2, row) for row in range(40)]
    assert policies.bucketed([*small, *large]).tolist() == [*range(16, 56), *range(16)]


def test_buckets_of_few_rows_are_one() -> None:
    rows = [(3, row) for row in range(5)] + [(1, 1, row) for row in range(5)]
    assert policies.bucketed(rows).tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
