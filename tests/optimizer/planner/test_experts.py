"""Experts' grouped products: one layer takes what vLLM's kernels were measured to take."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.catalogue.catalogue import Catalogue, gpu
from optimizer.planner.experts import grouped
from optimizer.planner.kernels import GRID
from optimizer.planner.precision import precisions
from optimizer.planner.step import Constants, Split
from tests.optimizer.planner.plans import MIXTURES, cost, gpus

ALL_ALIKE = Constants(evenness=1e6)
DTYPES = ("bf16", "fp8", "fp8_block", "int8", "int4", "nvfp4", "mxfp4(moe)/bf16", "w8a16")


# AIConfigurator's operator data (vLLM 0.19, MXFP4 0.24): microseconds of a layer, tokens that choose all experts alike.
@pytest.mark.parametrize(
    ("model_name", "gpu_name", "weight_dtype", "ranks", "tokens", "measured_us"),
    [
        ("gpt-oss-120b", "H100-SXM-80GB", "mxfp4(moe)/bf16", 1, 1, 62.9),
        ("gpt-oss-120b", "H100-SXM-80GB", "mxfp4(moe)/bf16", 1, 256, 701.5),
        ("gpt-oss-120b", "H100-SXM-80GB", "mxfp4(moe)/bf16", 1, 16384, 5825.1),
        ("gpt-oss-120b", "H100-SXM-80GB", "mxfp4(moe)/bf16", 8, 1, 38.9),
        ("gpt-oss-120b", "H100-SXM-80GB", "mxfp4(moe)/bf16", 8, 256, 137.7),
        ("gpt-oss-120b", "H100-SXM-80GB", "mxfp4(moe)/bf16", 8, 16384, 1164.4),
        ("Qwen3-30B-A3B", "H100-SXM-80GB", "bf16", 1, 64, 423.9),
        ("Mixtral-8x7B", "H100-SXM-80GB", "bf16", 1, 64, 963.8),
        ("Mixtral-8x7B", "H100-SXM-80GB", "fp8", 1, 64, 510.2),
    ],
)
def test_a_layer_takes_about_what_it_was_measured_to(
    model_name: str, gpu_name: str, weight_dtype: str, ranks: int, tokens: int, measured_us: float
) -> None:
    step = cost(model_name, gpu_name, Split(ranks), weight_dtype, constants=ALL_ALIKE)
    layer_us = 1e6 * float(step._experts(np.asarray(float(tokens)))) / float(step.layers)
    assert layer_us == pytest.approx(measured_us, rel=0.25)


def test_narrow_parts_of_experts_cost_more_for_a_byte() -> None:
    def seconds(ranks: int) -> float:
        step = cost("gpt-oss-120b", "B200-SXM-180GB", Split(ranks), "mxfp4(moe)/bf16", constants=ALL_ALIKE)
        return float(step._experts(np.asarray(64.0)))

    assert seconds(1) / 8 < seconds(8) / 1.5


def test_a_format_with_kernels_of_its_own_pays_for_no_widening_on_top() -> None:
    hopper = gpu("H100-SXM-80GB")
    own, other = (grouped(hopper, precisions(dtype, hopper).experts) for dtype in ("mxfp4(moe)/bf16", "w8a16"))
    assert (own.compute_share, own.read_share) == (1.0, 1.0)
    assert other.compute_share < 1.0
    assert other.read_share < 1.0


@given(st.sampled_from(Catalogue.load().gpu_names), st.sampled_from(DTYPES))
def test_every_gpu_and_precision_has_kernels(gpu_name: str, weight_dtype: str) -> None:
    card = gpu(gpu_name)
    found = grouped(card, precisions(weight_dtype, card).experts)
    assert found.shares.shape == (GRID,)
    assert ((found.shares > 0) & (found.shares < 1)).all()
    assert min(found.floor_us, found.each_us, found.passes) >= 0


@given(st.sampled_from(MIXTURES), gpus, st.integers(1, 8192))
def test_sorting_adds_to_reading_and_a_slower_one_adds_more(name: str, gpu_name: str, tokens: int) -> None:
    usual = cost(name, gpu_name)
    without, slow = (usual.calibrated(replace(usual.constants, routing=factor)) for factor in (0.0, 2.0))
    times = [float(step._experts(np.asarray(float(tokens)))) for step in (without, usual, slow)]
    assert times[0] < times[1] < times[2]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], rel=1e-6)


def test_a_dense_model_pays_for_no_experts() -> None:
    assert float(cost("Llama-3.1-8B")._experts(np.asarray(64.0))) == 0.0
