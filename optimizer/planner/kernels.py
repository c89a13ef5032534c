"""Shares of a GPU's peaks that vLLM's kernels were measured to reach, on this GPU or on the nearest one."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.catalogue.hardware import Gpu
from optimizer.planner.precision import Kernel

Numbers = NDArray[np.float64]
GRID = 15  # rows M of 2**0 … 2**14


CALL_FIRST, CALL_STEP, CALLS = 19, 2, 7  # bytes that a layer's decode attention reads: 2**19, 2**21 … 2**31
MEASURED_BANDWIDTH_GB_S = {"a100_sxm": 2039, "h100_sxm": 3350, "h200_sxm": 4800, "b200_sxm": 7700, "l40s": 864}
MEASURED_BANDWIDTH_GB_S |= {"rtx_pro_6000_server": 1792}


# Peaks of these are not held at their power limit, or are passed: consumer cards' peaks are told for FP32 accumulation
# and measured above it (gpu_specs.csv, cuBLASLt), inference cards of 70 to 150 W throttle. Priors, to be calibrated.
SUSTAINED = {"L4": 0.75, "A10": 0.75, "T4": 0.6, "A100-PCIe-80GB": 0.9, "V100": 0.8, "RTX 5090": 1.2}
# Of the 16-bit peak: FlashAttention-2 and -3 as their papers report (arXiv 2307.08691, 2407.08608); none before Ampere.
PREFILL_ATTENTION = {"Hopper": 0.6, "Blackwell": 0.5, "Blackwell Ultra": 0.5, "Ampere": 0.55, "Ada": 0.5}
PREFILL_ATTENTION_OTHER = 0.25


def measured_like(gpu: Gpu) -> str:
    """The measured GPU whose shares stand for this one's: same architecture first, then the same kind of memory."""
    name = gpu.name.upper()
    if "H200" in name or "GH200" in name:
        return "h200_sxm"
    if gpu.architecture == "Hopper" or gpu.architecture.startswith("CDNA"):
        return "h100_sxm"
    if gpu.architecture.startswith("Blackwell"):
        return "b200_sxm" if gpu.capability < 12 else "rtx_pro_6000_server"
    if gpu.architecture == "Ada":
        return "rtx_pro_6000_server" if gpu.bf16_tflops < 200 and gpu.name != "L4" else "l40s"
    if gpu.architecture == "Ampere" and gpu.memory_gb_s < 1000:
        return "l40s" if gpu.name in {"A10", "L4"} else "rtx_pro_6000_server"
    return "a100_sxm"


def sustained(gpu: Gpu) -> float:
    return SUSTAINED.get(gpu.name, SUSTAINED.get(gpu.name[:4], 1.0))


def matrix_shares(gpu: Gpu, kernel: Kernel) -> Numbers:
    """By rows M on the grid, the share of the roofline that a product as large as a model's reaches."""
    tables = _tables()["gemm"][measured_like(gpu)]
    table = tables.get(kernel) or tables["fp8" if kernel != "bfloat16" and "fp8" in tables else "bfloat16"]
    median, p90 = np.asarray(table["median"]), np.asarray(table["p90"])
    # Small shapes lose to launch and tail what belongs to the constant time of a layer: where bytes bound a product
    # take large shapes, where arithmetic does take the middle between them and all.
    weight = np.clip((np.arange(GRID) - 6) / 4, 0, 1) * 0.5
    shares: Numbers = p90 ** (1 - weight) * median**weight
    return shares


def decode_attention_us(gpu: Gpu, kv_bytes_per_number: float) -> Numbers:
    """Times of a layer's call on the grid of bytes read.

    A GPU that was not measured takes those of the nearest, at the bytes that it would read in that time.
    """
    system = measured_like(gpu)
    tables = _tables()["decode_attention"][system]
    table = tables.get("fp8" if kv_bytes_per_number < 2 else "bfloat16") or tables["bfloat16"]
    times = np.asarray(table["us"], dtype=np.float64)
    slower = np.log2(MEASURED_BANDWIDTH_GB_S[system] / gpu.memory_gb_s)
    sizes = CALL_FIRST + CALL_STEP * np.arange(float(CALLS))
    inside = np.exp(np.interp(sizes + slower, sizes, np.log(times)))
    return np.asarray(inside * 2.0 ** np.maximum(0.0, sizes + slower - sizes[-1]))


def prefill_attention_share(gpu: Gpu) -> float:
    return PREFILL_ATTENTION.get(gpu.architecture, PREFILL_ATTENTION_OTHER)


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(files("optimizer.planner").joinpath("efficiency.toml").read_text(encoding="utf-8"))
