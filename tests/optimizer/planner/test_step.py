"""A step's time: its laws, and its limits against the roofline worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.catalogue.catalogue import gpu, model
from optimizer.planner.step import Constants, Split, stack
from optimizer.planner.weights import weights_of
from tests.optimizer.planner.plans import DENSE, GPUS, MIXTURES, NOTHING_BESIDES, batches, cost, gpus, lengths, models


@given(models, gpus, batches, lengths)
def test_a_larger_batch_never_takes_less(name: str, gpu_name: str, batch: int, context: int) -> None:
    step = cost(name, gpu_name)
    assert step.seconds(0, 0, batch + 1, (batch + 1) * context) >= step.seconds(0, 0, batch, batch * context) * 0.93


@given(models, gpus, batches, st.floats(0.01, 1.0))
def test_no_constant_reads_faster_than_the_memory(name: str, gpu_name: str, batch: int, constant: float) -> None:
    card, weights = gpu(gpu_name), weights_of(model(name).shape)
    step = cost(name, gpu_name, constants=Constants(weight_read=constant, compute=constant, layer_us=0, step_ms=0))
    assert step.seconds(0, 0, batch, batch) > 2.0 * (weights.linear + weights.head) / (card.memory_gb_s * 1e9)


@given(models, gpus, batches, lengths, st.integers(1, 4096))
def test_longer_contexts_and_more_prompt_tokens_never_take_less(
    name: str, gpu_name: str, batch: int, context: int, more: int
) -> None:
    step = cost(name, gpu_name)
    shorter = step.seconds(0, 0, batch, batch * context)
    assert step.seconds(0, 0, batch, batch * (context + more)) >= shorter * (1 - 1e-12)


@given(models, gpus, batches, lengths)
def test_no_step_is_faster_than_reading_what_it_must_read(name: str, gpu_name: str, batch: int, context: int) -> None:
    card, weights = gpu(gpu_name), weights_of(model(name).shape)
    read = 2.0 * (weights.linear + weights.head)  # experts touched come on top
    assert cost(name, gpu_name).seconds(0, 0, batch, batch * context) > read / (card.memory_gb_s * 1e9)


@given(st.sampled_from(DENSE), gpus, st.integers(256, 16384))
def test_no_prompt_is_faster_than_its_arithmetic_at_the_peak(name: str, gpu_name: str, tokens: int) -> None:
    card, weights = gpu(gpu_name), weights_of(model(name).shape)
    peak = card.bf16_tflops * 1e12 * (1.25 if gpu_name == "RTX 5090" else 1.0)
    assert cost(name, gpu_name).seconds(tokens, tokens * tokens / 2, 0, 0) > 2.0 * weights.linear * tokens / peak


def test_batch_one_is_bound_by_the_bytes_of_the_weights() -> None:
    weights = weights_of(model("Llama-3.1-8B").shape)
    bytes_s = 2.0 * (weights.linear + weights.head) / 3350e9
    seconds = cost(constants=NOTHING_BESIDES).seconds(0, 0, 1, 1)
    assert 0.75 < bytes_s / seconds < 0.92  # what vLLM's kernels were measured to reach on this GPU


def test_a_long_prompt_is_bound_by_arithmetic() -> None:
    weights = weights_of(model("Llama-3.1-70B").shape)
    flops_s = 2.0 * weights.linear * 8192 / 989e12
    seconds = cost("Llama-3.1-70B", constants=NOTHING_BESIDES).seconds(8192, 8192 * 4096, 0, 0)
    assert 0.6 < flops_s / seconds < 0.85


def test_eight_bits_gain_less_than_twice_where_bytes_bind() -> None:
    """planner.md: measured FP8 kernels of an H100 reach 0.58 to 0.61 of bandwidth where 16-bit ones reach 0.75."""
    half, eight = cost("Llama-3.1-70B"), cost("Llama-3.1-70B", weight_dtype="fp8")
    assert 1.4 < half.seconds(0, 0, 1, 1) / eight.seconds(0, 0, 1, 1) < 2.0


def test_four_bit_weights_gain_little_in_a_large_batch() -> None:
    half, four = cost("Llama-3.1-70B"), cost("Llama-3.1-70B", weight_dtype="awq")
    assert half.seconds(0, 0, 1, 1) / four.seconds(0, 0, 1, 1) > 2.5
    assert half.seconds(4096, 4096 * 2048, 0, 0) < four.seconds(4096, 4096 * 2048, 0, 0)


def test_fp8_weights_on_ampere_are_only_kept_small() -> None:
    half, eight = cost(gpu_name="A100-SXM4-80GB"), cost(gpu_name="A100-SXM4-80GB", weight_dtype="fp8")
    assert eight.seconds(0, 0, 1, 1) < half.seconds(0, 0, 1, 1)
    assert eight.seconds(8192, 8192 * 4096, 0, 0) > half.seconds(8192, 8192 * 4096, 0, 0)


@given(st.sampled_from(MIXTURES), st.integers(1, 4096))
def test_experts_touched_lie_between_those_of_one_token_and_all(name: str, tokens: int) -> None:
    step = cost(name, "B200-SXM-180GB", Split(8), constants=NOTHING_BESIDES)
    one, few, many = (step._experts(np.asarray(float(rows))) for rows in (1, tokens, 10**6))
    assert one <= few * 1.05
    assert few <= many


def test_prompts_wait_for_experts_arithmetic_and_decoding_for_their_weights() -> None:
    def seconds(prompt_tokens: int, sequences: int, constants: Constants) -> float:
        step = cost("Mixtral-8x7B", "H100-SXM-80GB", Split(2), constants=constants)
        return float(step.seconds(prompt_tokens, 0, sequences, sequences))

    usual, slow_read = Constants(), Constants(expert_read=3.0)
    slow_compute = Constants(expert_compute=6.0)
    assert seconds(0, 1, slow_read) > 1.3 * seconds(0, 1, usual)
    assert seconds(0, 1, slow_compute) == seconds(0, 1, usual)
    assert seconds(8192, 0, slow_compute) > 1.3 * seconds(8192, 0, usual)
    assert seconds(8192, 0, slow_read) == seconds(8192, 0, usual)


def test_more_ranks_make_a_large_model_faster_but_not_by_their_number() -> None:
    times = [cost("Llama-3.1-70B", split=Split(ranks)).seconds(0, 0, 64, 64 * 1000) for ranks in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert times[0] / times[3] < 8


def test_tensor_ranks_over_pcie_cost_more_than_over_nvlink() -> None:
    card = "L40S"
    split, alone = cost("Llama-3.1-8B", card, Split(4)), cost("Llama-3.1-8B", card)
    assert split.seconds(8192, 8192 * 4096, 0, 0) > 0.6 * alone.seconds(8192, 8192 * 4096, 0, 0)


def test_a_pipeline_reads_its_weights_once_for_each_micro_batch() -> None:
    """Two stages halve a rank's weights but read them for half of the batch at a time."""
    staged, alone = cost(split=Split(1, 2), constants=NOTHING_BESIDES), cost(constants=NOTHING_BESIDES)
    assert staged.seconds(0, 0, 2, 2) == pytest.approx(alone.seconds(0, 0, 1, 1), rel=0.05)


@given(st.lists(st.tuples(models, gpus, batches, lengths), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_many_plans_at_once_take_what_each_takes(plans: list[tuple[str, str, int, int]]) -> None:
    costs = [cost(name, gpu_name) for name, gpu_name, _, _ in plans]
    sequences = np.array([float(batch) for _, _, batch, _ in plans])
    contexts = np.array([float(batch * context) for _, _, batch, context in plans])
    together = stack(costs).seconds(100.0, 5000.0, sequences, contexts)
    each = [one.seconds(100.0, 5000.0, s, c) for one, s, c in zip(costs, sequences, contexts, strict=True)]
    assert np.allclose(together, each)


def test_an_empty_step_takes_no_time() -> None:
    assert cost().seconds(0, 0, 0, 0) == 0


@pytest.mark.parametrize("gpu_name", GPUS)
def test_constants_multiply_what_they_name(gpu_name: str) -> None:
    slow = cost(gpu_name=gpu_name, constants=Constants(weight_read=2.0, layer_us=0, sequence_us=0, step_ms=0))
    fast = cost(gpu_name=gpu_name, constants=Constants(weight_read=1.0, layer_us=0, sequence_us=0, step_ms=0))
    assert 1.8 < slow.seconds(0, 0, 1, 1) / fast.seconds(0, 0, 1, 1) <= 2.0
