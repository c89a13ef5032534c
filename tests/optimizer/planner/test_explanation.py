"""The arithmetic of published examples, and of steps that one can count by hand."""

import pytest

from optimizer.catalogue.catalogue import gpu, model
from optimizer.planner.calibration import shipped
from optimizer.planner.explanation import Explanation, explanation_of
from optimizer.planner.layouts import Layout
from optimizer.planner.step import Split
from optimizer.planner.work import work_of
from tests.optimizer.planner.plans import cost


def explained(
    name: str = "Llama-3.1-8B", on: str = "H100-SXM-80GB", weights: str = "bf16", kv: str = "auto", tensor: int = 1
) -> Explanation:
    return explanation_of(model(name).shape, Layout(gpu(on), Split(tensor), weights, kv), shipped(), 1024, 256)


@pytest.mark.parametrize(
    ("on", "weights", "tokens"),
    [
        ("H100-SXM-80GB", "bf16", 295),
        ("H100-SXM-80GB", "fp8", 295),
        ("H100-SXM-80GB", "w4a16", 78),
        ("A100-SXM4-80GB", "bf16", 153),
        ("L40S", "bf16", 419),
    ],
)
def test_the_critical_batch_is_the_published_one(on: str, weights: str, tokens: int) -> None:
    assert explained(on=on, weights=weights).critical_tokens == pytest.approx(tokens, rel=0.01)


@pytest.mark.parametrize(
    ("name", "kv", "per_token"),
    [
        ("Llama-3.1-8B", "auto", 131_072),
        ("Llama-3.1-8B", "fp8", 65_536),
        ("Qwen3-32B", "auto", 262_144),
        ("Llama-3.1-70B", "auto", 327_680),
        ("DeepSeek-V3", "auto", 70_272),
    ],
)
def test_a_token_takes_the_published_number_of_bytes(name: str, kv: str, per_token: int) -> None:
    assert explained(name, kv=kv).kv_bytes_per_token == per_token


def test_a_latent_is_kept_whole_by_every_rank_and_heads_are_not() -> None:
    assert explained("DeepSeek-V3", tensor=8).kv_bytes_per_token == 70_272
    assert explained("Llama-3.1-70B", tensor=8).kv_bytes_per_token == 327_680 / 8


def test_a_model_that_does_not_fit_is_explained_all_the_same() -> None:
    found = explained("Llama-3.1-70B")
    assert (found.largest_batch, found.kv_blocks, found.output_tokens_per_s) == (0, 0, None)
    assert not any(point.fits for point in found.points)


def test_one_sequence_reads_all_weights_for_two_flops_each() -> None:
    work = work_of(cost(), 0.0, 0.0, 1.0, 1.0)
    assert work.intensity == pytest.approx(1.0, rel=0.05)
    assert work.flops == pytest.approx(2 * 7.5e9, rel=0.01)  # without the embedding, which is looked up


def test_a_prompt_takes_two_flops_for_each_weight_and_token() -> None:
    work = work_of(cost(), 2048.0, 2048 * 2049 / 2, 0.0, 0.0)
    linear, attention = 2 * 6.98e9 * 2048, 4 * 32 * 32 * 128 * 2048 * 2049 / 2
    assert work.flops == pytest.approx(linear + attention, rel=0.01)


def test_a_mixture_reads_the_experts_that_are_touched() -> None:
    one, many = (work_of(cost("Mixtral-8x7B"), 0.0, 0.0, batch, batch) for batch in (1.0, 64.0))
    assert one.moved_bytes == pytest.approx(2 * 12.7e9, rel=0.03)
    assert many.moved_bytes == pytest.approx(2 * 46.6e9, rel=0.03)


def test_larger_batches_raise_the_intensity_until_the_cache_is_what_is_read() -> None:
    points = [point for point in explained().points if point.sequences]
    intensities = [point.work.intensity for point in points]
    assert intensities == sorted(intensities)
    # Each sequence's cache is read for itself alone, however many there are.
    assert intensities[-1] < explained().ridge


def test_no_step_is_predicted_above_the_roof() -> None:
    for weights in ("bf16", "fp8", "w4a16"):
        found = explained(weights=weights)
        for point in found.points:
            roof = min(point.work.intensity * found.bandwidth, found.peak_flops)
            assert point.work.flops / point.seconds.value < roof * 1.02
