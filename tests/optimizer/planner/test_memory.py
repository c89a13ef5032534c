"""What fits: laws of the memory model, and sizes worked out by hand from planner.md."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.catalogue.catalogue import gpu, model
from optimizer.planner.memory import Memory, activations_gib, memory_of
from optimizer.planner.step import ALONE, Split
from tests.optimizer.planner.plans import gpus, models


def held(name: str = "Llama-3.1-8B", gpu_name: str = "H100-SXM-80GB", split: Split = ALONE, **given: object) -> Memory:
    return memory_of(model(name).shape, gpu(gpu_name), split, **given)  # type: ignore[arg-type]


@given(models, gpus, st.sampled_from([1, 2, 4]))
def test_more_tensor_ranks_never_hold_more_weights_each(name: str, gpu_name: str, ranks: int) -> None:
    assert held(name, gpu_name, Split(2 * ranks)).weights <= held(name, gpu_name, Split(ranks)).weights


@given(models, gpus)
def test_fp8_numbers_double_the_tokens_of_the_cache(name: str, gpu_name: str) -> None:
    half, eight = held(name, gpu_name, Split(8)), held(name, gpu_name, Split(8), kv_dtype="fp8")
    assert eight.kv_bytes_per_token * 2 == half.kv_bytes_per_token


@given(models, gpus, st.integers(256, 16384))
def test_larger_steps_leave_less_for_the_cache(name: str, gpu_name: str, tokens: int) -> None:
    small = held(name, gpu_name, Split(8), max_num_batched_tokens=tokens)
    assert held(name, gpu_name, Split(8), max_num_batched_tokens=2 * tokens).cache <= small.cache


@pytest.mark.parametrize(
    ("name", "size"), [("Llama-3.1-8B", 131_072), ("Qwen3-32B", 262_144), ("Llama-3.1-70B", 327_680)]
)
def test_a_token_takes_what_the_formula_says(name: str, size: int) -> None:
    assert held(name).kv_bytes_per_token == size


def test_a_latent_is_kept_whole_by_every_rank() -> None:
    assert held("DeepSeek-V3", split=Split(8)).kv_bytes_per_token == 70_272


def test_a_kv_head_is_never_split() -> None:
    per_token = [held("Qwen2-7B", split=Split(ranks)).kv_bytes_per_token for ranks in (1, 2, 4, 8)]
    assert per_token[1] == per_token[0] / 2
    assert per_token[3] == per_token[2]  # four KV heads


def test_a_model_larger_than_the_gpu_does_not_fit() -> None:
    assert not held("Llama-3.1-70B").fits
    assert held("Llama-3.1-70B").blocks() == 0
    assert held("Llama-3.1-70B", split=Split(4)).fits


def test_embeddings_and_heads_stay_in_16_bit() -> None:
    """8.03 billion weights, 1.05 of them in the two matrices of the vocabulary."""
    eight = held(weight_dtype="fp8").weights * 2**30
    assert eight == pytest.approx(6.98e9 + 2 * 1.05e9, rel=0.01)


def test_a_windowed_layer_keeps_no_more_than_its_window() -> None:
    gpt = held("gpt-oss-120b", "B200-SXM-180GB", weight_dtype="mxfp4")
    assert gpt.tokens_held(8192) > 1.9 * gpt.kv_tokens()
    assert gpt.tokens_held(64) == gpt.kv_tokens()


def test_activations_under_many_limits_are_those_under_each() -> None:
    shape, tokens, sequences = model("Llama-3.1-8B").shape, np.array([512.0, 8192.0]), np.array([2048.0, 64.0])
    together = np.asarray(activations_gib(shape, Split(2), tokens, sequences))
    for place in range(2):
        alone = held(
            "Llama-3.1-8B", split=Split(2), max_num_batched_tokens=tokens[place], max_num_seqs=sequences[place]
        )
        assert together[place] == alone.activations
