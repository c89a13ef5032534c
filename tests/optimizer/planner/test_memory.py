"""What fits: laws of the memory model, and sizes worked out by hand from planner.md."""

import csv
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.catalogue.catalogue import gpu, model
from optimizer.planner.deployment import Deployment, memory_for
from optimizer.planner.engines import defaults_of
from optimizer.planner.memory import Memory, activations_gib, memory_of
from optimizer.planner.predict import predict
from optimizer.planner.step import ALONE, Split
from tests.optimizer.planner.plans import gpus, models

KV_LOGS = Path(__file__).parents[3] / "bench" / "kv_blocks.csv"


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


def test_a_stage_of_a_pipeline_has_the_head_or_the_embedding() -> None:
    alone, staged = held("Llama-3.1-70B"), held("Llama-3.1-70B", split=Split(1, 2))
    head_gib = 128256 * 8192 * 2 / 2**30
    assert staged.weights == pytest.approx((alone.weights - 2 * head_gib) / 2 + head_gib, rel=1e-6)


def test_releases_that_sort_logits_hold_more_beside_the_cache() -> None:
    """Of 1,024 sequences, 38 bytes for each of 128,256 logits."""
    old, new = (defaults_of("vLLM", release, gpu("H200-SXM-141GB")) for release in ("0.11.2", "0.24"))
    assert (old.max_num_seqs, new.max_num_seqs) == (1024, 1024)
    plan = Deployment(model("Llama-3.1-8B").shape, gpu("H200-SXM-141GB"), Split(), "bf16", "auto")
    assert memory_for(plan, old).activations == pytest.approx(1024 * 128256 * 38 / 2**30)
    assert memory_for(plan, new).activations < memory_for(plan, old).activations / 2


def test_caches_are_as_large_as_vllm_logged_them() -> None:
    """bench/kv_blocks.csv: two dozen logs of others, which no number was fitted to."""
    off = []
    for row in csv.DictReader(KV_LOGS.read_text(encoding="utf-8").splitlines()):
        told = predict(row)
        assert told.fits_memory, row
        assert told.predicted is not None
        off.append(abs(told.predicted / float(row["value"]) - 1))
    assert statistics.median(off) < 0.02
    assert max(off) < 0.1
