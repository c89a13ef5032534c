"""Batches that are kept full: Little's law, limits, and jobs of many and of few requests."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.planner.steady_state import (
    Scheduling,
    cycle,
    fixed,
    job_seconds,
    room,
    spread,
    uneven_tail_seconds,
    wave_seconds,
)
from tests.optimizer.planner.plans import cost

inputs, outputs = st.integers(16, 8192), st.integers(2, 2048)


def limits(sequences: float = 256, kv_tokens: float = 400_000, mixed: float = 1.0) -> Scheduling:
    return Scheduling(sequences, 8192.0, kv_tokens, mixed)


@given(inputs, outputs)
def test_an_average_sequence_holds_its_prompt_and_half_of_its_answer(given_tokens: int, output: int) -> None:
    assert fixed(float(given_tokens), float(output)).held == given_tokens + output / 2


def test_long_answers_count_for_more_than_their_mean() -> None:
    """Exponential lengths: E[o^2] = 2 E[o]^2, so that E[o] rather than half of it is held (renewals)."""
    assert spread(100.0, 200.0, 1.0).held == pytest.approx(100 + 200)


@given(inputs, outputs, st.integers(1, 256))
def test_a_larger_batch_never_answers_slower(given_tokens: int, output: int, batch: int) -> None:
    step, lengths = cost(), fixed(float(given_tokens), float(output))
    rates = [cycle(step, lengths, limits(size)).output_tokens_per_s(lengths) for size in (batch, 2 * batch)]
    assert rates[1] >= rates[0] * 0.9


@given(inputs, outputs)
def test_the_cache_bounds_the_batch(given_tokens: int, output: int) -> None:
    lengths = fixed(float(given_tokens), float(output))
    full = cycle(cost(), lengths, limits(10**6, 300_000))
    assert full.sequences <= 300_000 / lengths.held
    assert full.saturated > 1


@given(inputs, outputs)
def test_a_cycle_lasts_at_least_its_decode_steps_and_its_prompts_arithmetic(given_tokens: int, output: int) -> None:
    step, lengths = cost(), fixed(float(given_tokens), float(output))
    full = cycle(step, lengths, limits(64))
    assert full.seconds >= (output - 1) * full.decode_step_s * 0.999
    assert full.seconds >= 64 * given_tokens * 2 * 6.9e9 / 989e12


@given(inputs, outputs)
def test_sharing_steps_is_never_slower_than_stopping_for_prompts(given_tokens: int, output: int) -> None:
    step, lengths = cost(), fixed(float(given_tokens), float(output))
    shared, stopped = cycle(step, lengths, limits(64)), cycle(step, lengths, limits(64, mixed=0.0))
    assert shared.seconds <= stopped.seconds * 1.05


@given(inputs, outputs, st.integers(1, 200))
def test_requests_that_all_run_at_once_are_one_wave(given_tokens: int, output: int, requests: int) -> None:
    step, lengths = cost(), fixed(float(given_tokens), float(output))
    scheduling = limits(256, 10**9)
    assert job_seconds(step, lengths, scheduling, requests) == wave_seconds(step, lengths, scheduling, requests)


def test_a_long_job_runs_at_the_steady_rate() -> None:
    step, lengths, scheduling = cost(), fixed(512.0, 256.0), limits(128)
    steady = cycle(step, lengths, scheduling)
    job = job_seconds(step, lengths, scheduling, 128 * 1000)
    assert job == pytest.approx(1000 * steady.seconds, rel=0.01)


def test_more_requests_never_take_less_time() -> None:
    step, lengths, scheduling = cost(), fixed(512.0, 256.0), limits(128)
    times = [float(job_seconds(step, lengths, scheduling, float(requests))) for requests in range(1, 600, 7)]
    assert all(later >= earlier for earlier, later in pairwise(times))


def test_a_request_larger_than_the_cache_never_runs() -> None:
    assert room(fixed(8192.0, 1024.0), limits(kv_tokens=4096.0)) == 0


def test_many_plans_are_priced_at_once() -> None:
    lengths = fixed(np.array([128.0, 2048.0]), np.array([128.0, 512.0]))
    together = cycle(cost(), lengths, limits()).seconds
    each = [cycle(cost(), fixed(i, o), limits()).seconds for i, o in ((128.0, 128.0), (2048.0, 512.0))]
    assert np.allclose(together, each)


@given(st.integers(1, 5000))
def test_equal_outputs_have_no_uneven_tail(requests: int) -> None:
    lengths, step = fixed(500.0, 200.0), cost()
    full = cycle(step, lengths, limits(64))
    assert uneven_tail_seconds(step, lengths, full, float(requests), np.full(8, 200.0)) == pytest.approx(0.0, abs=1e-9)


@given(st.integers(2, 64))
def test_one_long_answer_keeps_a_wave_up_to_its_end(requests: int) -> None:
    outputs = np.array([100.0] * 63 + [1000.0])
    lengths, step = spread(500.0, float(outputs.mean()), float(outputs.std() / outputs.mean())), cost()
    full = cycle(step, lengths, limits(64))
    assert uneven_tail_seconds(step, lengths, full, 64.0, outputs) > 0
    assert uneven_tail_seconds(step, lengths, full, float(requests), outputs) >= 0
