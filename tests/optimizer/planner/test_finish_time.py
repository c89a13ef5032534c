"""Draws of output lengths, and when a job of them ends."""

import numpy as np
import pytest

from optimizer.planner.finish_time import FinishDistribution, finish_distribution, sampled_outputs
from optimizer.planner.workload import Counts, KvBlocks, Requests
from serving.engine_config import Batching

SEEN = np.array([4, 8, 64])
TIMES_SEEN = np.array([6, 3, 1])
BATCHING, KV = Batching(max_num_seqs=8, max_num_batched_tokens=512), KvBlocks(500)


def affine(prefill: float, prefill_context: float, decodes: float, decode_context: float) -> float:
    return 0.01 + 1e-4 * prefill + 1e-4 * decodes + 1e-7 * decode_context


def draw(generator: np.random.Generator) -> Counts:
    return sampled_outputs(SEEN, 60, generator, TIMES_SEEN)


def some_requests() -> Requests:
    return Requests(np.full(60, 20), np.ones(60, np.int64))


def test_lengths_are_drawn_as_often_as_they_were_seen() -> None:
    drawn = sampled_outputs(SEEN, 20_000, np.random.default_rng(1), TIMES_SEEN)
    shares = [np.mean(drawn == length) for length in SEEN]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.015)


def test_without_counts_each_length_that_was_seen_is_one() -> None:
    drawn = sampled_outputs(np.array([1, 1, 1, 9]), 20_000, np.random.default_rng(1))
    assert np.mean(drawn == 9) == pytest.approx(0.25, abs=0.015)


def test_one_seed_is_one_draw() -> None:
    first, second = (sampled_outputs(SEEN, 50, np.random.default_rng(7), TIMES_SEEN) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_finish_distribution_is_the_same_for_a_seed_and_another_for_another() -> None:
    first, again, other = (
        finish_distribution(some_requests(), draw, BATCHING, KV, affine, draws=5, seed=seed).makespans_s
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(set(first.tolist())) == 5  # each draw is one of its own


def test_lengths_that_are_known_end_at_one_time() -> None:
    known = finish_distribution(some_requests(), lambda _: np.full(60, 10), BATCHING, KV, affine, draws=3)
    assert known.quantile_s(0.05) == known.quantile_s(0.95)


def test_quantiles_and_the_chance_to_meet_a_deadline_are_of_the_draws() -> None:
    ended = FinishDistribution(np.array([1.0, 2.0, 3.0, 4.0]))
    assert ended.quantile_s(0.5) == 2.5
    assert [ended.share_by(deadline_s) for deadline_s in (0.5, 1.0, 3.5, 4.0)] == [0.0, 0.25, 0.75, 1.0]


def test_more_even_lengths_make_a_surer_end() -> None:
    def spread_s(lengths: list[int]) -> float:
        ended = finish_distribution(
            some_requests(),
            lambda generator: sampled_outputs(np.array(lengths), 60, generator),
            BATCHING, KV, affine, draws=24,
        )  # fmt: skip
        return ended.quantile_s(0.9) - ended.quantile_s(0.1)

    assert spread_s([19, 20, 21]) < spread_s([1, 20, 39]) / 4
