"""The scheduler that jumps over like steps does what a plain one does step by step, and keeps the laws of both."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.kv_simulation import KvTooSmall
from optimizer.planner.schedule import schedule
from optimizer.planner.simulation import Simulation, simulate, timed
from optimizer.planner.workload import Counts, KvBlocks, Requests
from serving.engine_config import Batching
from tests.optimizer.planner.token_by_token import Played, play

EXACT = 1e-9


def affine(prefill: float, prefill_context: float, decodes: float, decode_context: float) -> float:
    return 0.006 + 2e-5 * prefill + 1e-8 * prefill_context + 3e-5 * decodes + 4e-8 * decode_context


def kinked(prefill: float, prefill_context: float, decodes: float, decode_context: float) -> float:
    """A roofline: weights or products, whichever takes longer; then caches, slower where they are small."""
    weights = max(0.004, 2e-5 * (prefill + decodes))
    return weights + 1e-8 * prefill_context + decode_context**0.9 * 1e-6 + max(0.0, decode_context - 500) * 1e-6


@st.composite
def jobs(draw: st.DrawFn, last_token_may_be_shared: bool = True) -> tuple[Requests, Batching, KvBlocks]:
    rows = draw(st.integers(1, 24))

    def column(least: int, most: int) -> Counts:
        return np.array(draw(st.lists(st.integers(least, most), min_size=rows, max_size=rows)), np.int64)

    block_tokens = draw(st.sampled_from([1, 2, 4, 16]))
    prompts, outputs = column(1, 60), column(1, draw(st.sampled_from([1, 5, 80])))
    groups, shared = column(-1, 2), np.minimum(column(0, 60), prompts - (not last_token_may_be_shared))
    requests = Requests(prompts, outputs, groups, shared)
    if draw(st.booleans()):
        requests = Requests(prompts, outputs)
    largest = int((prompts + outputs - 1).max())
    seats = draw(st.integers(1, 12))
    chunked = draw(st.booleans())
    budget = max(seats, draw(st.integers(1, 150))) if chunked else max(seats, largest)
    blocks = -(-largest // block_tokens) + draw(st.integers(0, 3 * largest // block_tokens + 3))
    batching = Batching(seats, budget, chunked, draw(st.sampled_from([True, False, None])))
    return requests, batching, KvBlocks(blocks, block_tokens, draw(st.booleans()))


def both(requests: Requests, batching: Batching, kv: KvBlocks) -> tuple[Simulation, Played]:
    return simulate(requests, batching, kv, affine), play(requests, batching, kv, affine)


# A prompt that is shared to its end computes the block of its last token twice. vLLM finds either copy later, the fast
# scheduler only the first.
@settings(deadline=None, max_examples=400)
@given(jobs(last_token_may_be_shared=False))
def test_jumping_does_what_every_step_of_a_plain_scheduler_does(job: tuple[Requests, Batching, KvBlocks]) -> None:
    fast, slow = both(*job)
    assert fast.steps == len(slow.steps)
    assert fast.preemptions == slow.preemptions
    assert fast.prefix_hit_tokens == slow.prefix_hit_tokens
    assert fast.recomputed_tokens == slow.recomputed_tokens
    assert fast.prefilled_tokens == slow.prefilled_tokens
    assert fast.peak_kv_blocks == max(step.held_blocks for step in slow.steps)
    assert fast.makespan_s == pytest.approx(slow.makespan_s, rel=EXACT)
    assert fast.tail_s == pytest.approx(slow.makespan_s - slow.last_admission_s, rel=1e-6, abs=1e-9)
    for times, of_slow in (
        (fast.first_scheduled_s, slow.first_scheduled_s),
        (fast.first_token_s, slow.first_token_s),
        (fast.finish_s, slow.finish_s),
    ):
        assert times == pytest.approx(np.array(of_slow), rel=EXACT, abs=1e-12)
    assert np.all(np.diff(fast.finish_s[slow.finish_order]) >= 0)


@settings(deadline=None, max_examples=200)
@given(jobs())
def test_jumping_and_going_step_by_step_are_one_schedule(job: tuple[Requests, Batching, KvBlocks]) -> None:
    requests, batching, kv = job
    jumping, stepping = (schedule(requests, batching, kv, every_step=every) for every in (False, True))
    assert np.all(stepping.steps == 1)
    assert jumping.steps.sum() == len(stepping.steps)
    first = np.cumsum(jumping.steps) - jumping.steps
    for name in ("prefill_tokens", "prefill_context_tokens", "decode_sequences", "decode_context_tokens", "sequences"):
        assert np.array_equal(getattr(jumping, name), getattr(stepping, name)[first])
    last = np.cumsum(jumping.steps) - 1
    assert np.array_equal(jumping.held_blocks, stepping.held_blocks[last])
    for name in ("first_token_run", "finish_run"):
        assert np.array_equal(last[getattr(jumping, name)], getattr(stepping, name))
    assert np.array_equal(first[jumping.first_scheduled_run], stepping.first_scheduled_run)


@settings(deadline=None, max_examples=200)
@given(jobs())
def test_a_step_time_with_kinks_is_added_up_to_within_a_thousandth(job: tuple[Requests, Batching, KvBlocks]) -> None:
    requests, batching, kv = job
    jumping, stepping = (
        timed(schedule(requests, batching, kv, every_step=every), requests, kv, kinked) for every in (False, True)
    )
    assert jumping.makespan_s == pytest.approx(stepping.makespan_s, rel=1e-3)
    assert jumping.finish_s == pytest.approx(stepping.finish_s, rel=1e-3)


@settings(deadline=None, max_examples=200)
@given(jobs())
def test_every_token_is_computed_once_but_for_those_lost_to_preemption(
    job: tuple[Requests, Batching, KvBlocks],
) -> None:
    requests, batching, kv = job
    told = simulate(requests, batching, kv, affine)
    assert told.generated_tokens == requests.output_tokens.sum()
    played = schedule(requests, batching, kv)
    computed = told.prefilled_tokens + int((played.steps * played.decode_sequences).sum())
    # The last token of an answer is never put in the cache.
    of_requests = int((requests.prompt_tokens + requests.output_tokens - 1).sum())
    assert computed == of_requests - told.prefix_hit_tokens + told.recomputed_tokens
    assert told.recomputed_tokens >= 0
    if not told.preemptions:
        assert told.prefilled_tokens == told.prompt_tokens - told.prefix_hit_tokens
        assert told.recomputed_tokens == 0
    if requests.prefix_group is None or not kv.prefix_caching:
        assert told.prefix_hit_tokens == 0


@settings(deadline=None, max_examples=200)
@given(jobs())
def test_no_step_passes_the_token_budget_the_seats_or_the_blocks(job: tuple[Requests, Batching, KvBlocks]) -> None:
    requests, batching, kv = job
    played = schedule(requests, batching, kv, every_step=True)
    assert np.all(played.prefill_tokens + played.decode_sequences <= batching.max_num_batched_tokens)
    assert np.all(played.sequences <= batching.max_num_seqs)
    assert np.all(played.decode_sequences <= played.sequences)
    assert np.all((played.held_blocks > 0) & (played.held_blocks <= kv.blocks))
    # Each sequence that decodes looks at tokens that are in blocks which somebody holds, its own but for shared ones.
    if requests.prefix_group is None:
        assert np.all(played.decode_context_tokens <= played.held_blocks * kv.block_tokens)


@settings(deadline=None, max_examples=200)
@given(jobs())
def test_no_job_ends_before_its_longest_answer_or_before_its_seats_and_budget_allow(
    job: tuple[Requests, Batching, KvBlocks],
) -> None:
    requests, batching, kv = job
    told = simulate(requests, batching, kv, affine)
    generated = int(requests.output_tokens.sum())
    tokens = int((requests.prompt_tokens + requests.output_tokens - 1).sum()) - told.prefix_hit_tokens
    assert told.steps >= max(
        requests.output_tokens.max(),
        -(-generated // batching.max_num_seqs),
        -(-tokens // batching.max_num_batched_tokens),
    )
    assert told.makespan_s * (1 + EXACT) >= told.steps * 0.006 + 2e-5 * told.prefilled_tokens
    assert 0 <= told.tail_s <= told.makespan_s
    assert 0 < told.mean_running <= batching.max_num_seqs * (1 + EXACT)
    assert np.all(told.first_scheduled_s < told.first_token_s)
    assert np.all(told.first_token_s <= told.finish_s)
    assert told.finish_s.max() == told.makespan_s
    assert np.all(np.diff(told.first_scheduled_s) >= 0)  # nobody is passed


@settings(deadline=None, max_examples=100)
@given(jobs())
def test_enough_blocks_for_everyone_end_a_job_no_later_and_preempt_nobody(
    job: tuple[Requests, Batching, KvBlocks],
) -> None:
    """Between two sizes that are both too small it is not so: with fewer blocks others run side by side."""
    requests, batching, kv = job
    # Without prefixes: a cache of any size may find more for those who come later.
    requests = replace(requests, prefix_group=None, shared_tokens=None)
    tokens = requests.prompt_tokens + requests.output_tokens
    enough = replace(kv, blocks=int((-(-tokens // kv.block_tokens)).sum()))
    told, roomy = (simulate(requests, batching, each, affine) for each in (kv, enough))
    assert roomy.preemptions == roomy.recomputed_tokens == 0
    assert roomy.prefilled_tokens <= told.prefilled_tokens
    if batching.max_num_seqs >= len(requests) and batching.max_num_batched_tokens >= tokens.sum():
        assert roomy.steps == requests.output_tokens.max()
        assert roomy.steps <= told.steps


def some_job(rows: int, seed: int) -> Requests:
    generator = np.random.default_rng(seed)
    lengths = generator.lognormal(4.0, 0.9, rows)
    return Requests(generator.integers(20, 300, rows), np.clip(lengths, 1, 1000).astype(np.int64))


def test_with_more_blocks_a_job_ends_no_later_on_average() -> None:
    batching = Batching(max_num_seqs=48, max_num_batched_tokens=2048)
    ends = [
        np.mean([simulate(some_job(200, seed), batching, KvBlocks(blocks), affine).makespan_s for seed in range(4)])
        for blocks in (100, 200, 400, 800, 1600)
    ]
    assert ends == sorted(ends, reverse=True)
    assert ends[0] > 2 * ends[-1]


def test_the_longest_first_leave_a_shorter_tail_than_arrival_on_average() -> None:
    batching, kv = Batching(max_num_seqs=32, max_num_batched_tokens=2048), KvBlocks(4000)

    def tail_s(requests: Requests) -> float:
        return simulate(requests, batching, kv, affine).tail_s

    arrival = [some_job(200, seed) for seed in range(8)]
    orders = [np.argsort(-requests.output_tokens, kind="stable") for requests in arrival]
    longest = [
        Requests(requests.prompt_tokens[order], requests.output_tokens[order])
        for requests, order in zip(arrival, orders, strict=True)
    ]
    assert np.mean([tail_s(each) for each in longest]) < 0.5 * np.mean([tail_s(each) for each in arrival])


# Against what a person counts. Each step takes a second.

SYNCHRONOUS = Batching(max_num_seqs=2, max_num_batched_tokens=8, async_scheduling=False)


def in_steps(
    prompts: list[int], outputs: list[int], batching: Batching, kv: KvBlocks, shared: list[int] | None = None
) -> Simulation:
    groups = None if shared is None else np.zeros(len(prompts), np.int64)
    requests = Requests(np.array(prompts), np.array(outputs), groups, None if shared is None else np.array(shared))
    return simulate(requests, batching, kv, lambda *_: 1.0)


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks() -> None:
    told = in_steps([20], [3], SYNCHRONOUS, KvBlocks(100))
    assert told.first_token_s[0] == 3  # 8, 8 and 4 tokens
    assert told.finish_s[0] == 5


def test_who_decodes_leaves_the_rest_of_the_budget_to_prompts() -> None:
    told = in_steps([8, 8], [4, 1], SYNCHRONOUS, KvBlocks(100))
    assert told.first_token_s.tolist() == [1, 3]  # 7 tokens beside the one that decodes, then the last
    assert told.finish_s.tolist() == [4, 3]


def test_a_seat_is_free_in_the_next_step_or_with_async_scheduling_in_the_one_after() -> None:
    told = in_steps([1, 1, 1], [2, 2, 2], SYNCHRONOUS, KvBlocks(100))
    assert (told.first_scheduled_s[2], told.tail_s) == (2, 2)
    # Nothing is computed in the step that learns of the end, so here it takes no time; beside others it would.
    late = replace(SYNCHRONOUS, async_scheduling=True)
    assert in_steps([1, 1, 1], [2, 2, 2], late, KvBlocks(100)).first_scheduled_s[2] == 2
    assert in_steps([1, 1, 1], [5, 2, 2], late, KvBlocks(100)).first_scheduled_s[2] == 3


def test_later_requests_find_the_full_blocks_of_a_prefix_that_the_first_computed() -> None:
    kv = KvBlocks(100, block_tokens=2)
    told = in_steps([7, 7, 7], [1, 1, 1], Batching(3, 100), kv, shared=[5, 5, 5])
    assert told.prefix_hit_tokens == 2 * 4  # two full blocks each, even in the same step
    assert told.peak_kv_blocks == 2 + 3 * 2


def test_the_last_token_of_a_prompt_is_computed_even_if_all_of_it_is_shared() -> None:
    told = in_steps([4, 4], [1, 1], Batching(1, 100), KvBlocks(100, block_tokens=2), shared=[4, 4])
    assert told.prefix_hit_tokens == 2


def test_a_prefix_that_nobody_holds_is_evicted_from_its_end_when_its_blocks_are_needed() -> None:
    def hits(blocks: int) -> int:
        groups = np.array([0, -1, 0])
        requests = Requests(np.array([7, 9, 7]), np.array([1, 1, 1]), groups, np.array([6, 0, 6]))
        kv = KvBlocks(blocks, block_tokens=2)
        return simulate(requests, Batching(1, 100), kv, affine).prefix_hit_tokens

    # The first leaves three blocks that can be found. The second takes five.
    assert [hits(blocks) for blocks in (8, 7, 6, 5)] == [6, 4, 2, 0]


def test_who_finds_no_block_sends_the_youngest_back_to_be_computed_again() -> None:
    kv = KvBlocks(5, block_tokens=2, prefix_caching=False)
    told = in_steps([4, 4], [4, 4], SYNCHRONOUS, kv)
    # Both hold two blocks; the third block of the first is the fifth, so the second goes, with one token put out. It
    # has a prompt of five tokens when the first has ended and its blocks are free.
    assert told.preemptions == 1
    assert told.finish_s.tolist() == [4, 7]
    assert told.recomputed_tokens == 4
    # With caching it finds the first of its two blocks; the first request took the other for its seventh token.
    kept = in_steps([4, 4], [4, 4], SYNCHRONOUS, replace(kv, prefix_caching=True))
    assert (kept.recomputed_tokens, kept.prefilled_tokens) == (2, 4 + 4 + 3)


def test_nobody_passes_a_request_that_does_not_fit() -> None:
    told = in_steps([4, 8, 1], [3, 1, 1], Batching(3, 100, async_scheduling=False), KvBlocks(5, block_tokens=2))
    assert told.first_scheduled_s.tolist() == [0, 3, 3]


def test_a_request_that_never_fits_is_named() -> None:
    with pytest.raises(KvTooSmall, match="2 blocks cannot hold the 33 tokens of row 1"):
        in_steps([1, 30], [1, 4], SYNCHRONOUS, KvBlocks(2))


def test_limits_that_vllm_refuses_are_refused() -> None:
    with pytest.raises(ValueError, match="at least max_num_seqs"):
        in_steps([1], [1], Batching(9, 8), KvBlocks(9))
    with pytest.raises(ValueError, match="without chunked prefill, 10 tokens of row 0"):
        in_steps([10], [1], Batching(8, 8, chunked_prefill=False), KvBlocks(9))


def test_a_job_without_requests_takes_no_time() -> None:
    told = in_steps([], [], SYNCHRONOUS, KvBlocks(9))
    assert (told.makespan_s, told.steps, told.rate_tokens_per_s) == (0.0, 0, 0.0)


def test_the_rate_is_that_of_the_middle() -> None:
    """64 answers of 100 tokens on 8 seats: eight waves, and in every step 8 tokens."""
    batching = Batching(8, 4096, async_scheduling=False)
    told = in_steps([10] * 64, [100] * 64, batching, KvBlocks(999))
    assert told.rate_tokens_per_s == pytest.approx(8)
    assert (told.mean_running, told.steps) == (8, 800)
