"""What a name for weights' or the cache's precision means on a GPU: bytes, the units that multiply, the kernel.

A format that a GPU has no units for is kept small in memory and multiplied in 16 bit (vLLM: Marlin kernels): FP8 on
Ampere, INT4 everywhere, FP4 before Blackwell.
"""

from dataclasses import dataclass
from typing import Literal

from optimizer.catalogue.hardware import Gpu

Kernel = Literal["bfloat16", "fp8", "fp8_block", "nvfp4"]
# Scales and zero points included: groups of 128 in INT4, blocks of 32 (MXFP4) and 16 (NVFP4) with one byte each.
INT4_BYTES, MXFP4_BYTES, NVFP4_BYTES = 0.53, 0.53125, 0.5625
INT8_COMPUTE, INT8_READ = 0.75, 0.9  # of what 16-bit products reach: activations are narrowed before each of them
UNPACKING = 0.85  # of the 16-bit rate, where weights are widened on the way into the product (Marlin)
UNPACKING_READ = 0.85  # of the bandwidth that a 16-bit product reaches: smaller tiles, more of them
UNPACKING_OLD = 0.5  # before Ampere there is no Marlin


class UnknownPrecision(ValueError):
    """A precision was named that the planner has no kernel for."""


@dataclass(frozen=True, slots=True)
class Scheme:
    name: str
    weight_bytes: float  # per weight, scales included
    flops: float  # peak of the units that multiply, per second
    kernel: Kernel  # the table of measured shares
    compute_share: float = 1.0  # of what that kernel reaches of the peak
    read_share: float = 1.0  # of what that kernel reaches of the bandwidth


@dataclass(frozen=True, slots=True)
class Precisions:
    """Of one model on one GPU."""

    linear: Scheme
    experts: Scheme


def precisions(weight_dtype: str, gpu: Gpu) -> Precisions:
    """Understands what sources write: `bf16 (blank in source)`, `nvfp4/moe:nvfp4`, `mxfp4(moe)/bf16`, `gptq-int4`."""
    text = weight_dtype.strip().lower()
    if "mxfp4" in text:
        return Precisions(_scheme("bf16", gpu), _scheme("mxfp4", gpu))
    linear, _, experts = text.partition("/moe:")
    return Precisions(_scheme(linear, gpu), _scheme(experts or linear, gpu))


def kv_bytes(kv_dtype: str) -> float:
    """Per number in the cache; `auto` is what the model computes in, 16 bit."""
    text = kv_dtype.strip().lower()
    if text.startswith(("fp8", "int8", "8")):
        return 1.0
    if text.startswith(("fp4", "nvfp4", "int4")):
        return 0.5625
    return 4.0 if text.startswith(("fp32", "float32")) else 2.0


def _scheme(name: str, gpu: Gpu) -> Scheme:
    half = gpu.bf16_tflops * 1e12
    if any(part in name for part in ("bf16", "fp16", "float16", "auto", "half")) or name in {"", "none", "16"}:
        return Scheme("bf16", 2.0, half, "bfloat16")
    if "mxfp4" in name:
        # Blackwell multiplies MXFP4 weights with FP8 activations; before it they are widened.
        return (
            Scheme("mxfp4", MXFP4_BYTES, gpu.fp8_tflops * 1e12, "fp8")
            if gpu.fp4_tflops
            else _widened("mxfp4 weights", MXFP4_BYTES, gpu)
        )
    if "fp4" in name:
        return (
            Scheme("nvfp4", NVFP4_BYTES, gpu.fp4_tflops * 1e12, "nvfp4")
            if gpu.fp4_tflops
            else _widened("nvfp4 weights", NVFP4_BYTES, gpu)
        )
    if any(part in name for part in ("int4", "awq", "w4a16", "gptq-4", "4bit", "q4")) or name == "gptq":
        return _widened("int4", INT4_BYTES, gpu)
    if any(part in name for part in ("gptq-int8", "w8a16", "weight-only int8", "int8wo")):
        return _widened("int8 weights", 1.03, gpu)
    if "int8" in name or "w8a8" in name or "smoothquant" in name:
        if gpu.int8_tops <= gpu.bf16_tflops:
            return _widened("int8 weights", 1.0, gpu)  # V100 has no such units, B300 nearly none
        if gpu.fp8_tflops:
            return Scheme("int8", 1.0, gpu.int8_tops * 1e12, "fp8")
        return Scheme("int8", 1.0, gpu.int8_tops * 1e12, "bfloat16", INT8_COMPUTE, INT8_READ)
    if "fp8" in name or "f8" in name:
        if not gpu.fp8_tflops:
            return _widened("fp8 weights", 1.0, gpu)
        block = "block" in name
        return Scheme("fp8", 1.0, gpu.fp8_tflops * 1e12, "fp8_block" if block else "fp8")
    if "fp32" in name or "float32" in name:
        return Scheme("fp32", 4.0, half / 8, "bfloat16")
    raise UnknownPrecision(f"no kernel is known for weights in {name!r}")


def _widened(name: str, weight_bytes: float, gpu: Gpu) -> Scheme:
    old = 0 < gpu.capability < 8.0
    compute, read = (UNPACKING_OLD, UNPACKING_OLD) if old else (UNPACKING, UNPACKING_READ)
    return Scheme(name, weight_bytes, gpu.bf16_tflops * 1e12, "bfloat16", compute, read)
