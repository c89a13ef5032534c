"""What an engine does by default: its limits, and how it schedules, by version."""

import re
from dataclasses import dataclass

from optimizer.catalogue.hardware import Gpu
from optimizer.planner.memory import SAMPLER_BYTES, SORTED_BYTES


@dataclass(frozen=True, slots=True)
class Defaults:
    engine: str  # "vllm" | "trtllm"
    era: str  # versions that share constants
    max_num_seqs: int
    max_num_batched_tokens: int
    utilization: float  # of a GPU's memory
    mixed: bool  # prompts share steps with decoding
    reserves_output: bool
    of_free: bool = False  # the share is of what weights leave
    sampler_bytes: float = SAMPLER_BYTES  # of a logit, while memory is profiled


def defaults_of(
    engine: str, version: str, gpu: Gpu, max_model_len: int = 8192, *, offline: bool = True, static: bool = False
) -> Defaults:
    name = engine.lower()
    if "tensorrt" in name or "trt" in name:
        return Defaults("trtllm", _trtllm_era(version, static), 2048, 8192, 0.95, not static, True, True)
    number = version_number(version)
    large = gpu.memory_gib >= 70
    if number is not None and number < (0, 8):
        # Engine V0 computes prompts first and alone, a whole context of them at once, but for very long contexts.
        chunked = max_model_len > 32768
        tokens = 2048 if chunked else max(2048, max_model_len)
        return Defaults("vllm", "vllm-v0", 256, tokens, 0.9, chunked, False, sampler_bytes=SORTED_BYTES)
    # vLLM's arg_utils: larger defaults where a GPU has 70 GiB and is no A100, and offline larger than behind a server.
    seqs = 1024 if large and "A100" not in gpu.name else 256
    if gpu.memory_gib >= 160 or (large and "A100" not in gpu.name):
        tokens = 16384 if offline or gpu.memory_gib >= 160 else 8192
    else:
        tokens = 8192 if offline else 2048
    if number is not None and number < (0, 9):
        seqs = 256
    utilization = 0.92 if number is not None and number >= (0, 20) else 0.9
    # From then on the next step is scheduled while this one runs.
    era = "vllm-v1" if number is not None and number < (0, 14) else "vllm-v1-async"
    sampler = SORTED_BYTES if number is not None and number < (0, 17) else SAMPLER_BYTES
    return Defaults("vllm", era, seqs, tokens, utilization, True, False, sampler_bytes=sampler)


def version_number(version: str) -> tuple[int, int] | None:
    """(0, 11) of 0.11.2; None where none is told."""
    found = re.search(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _trtllm_era(version: str, static: bool) -> str:
    if static:
        return "trtllm-static"
    if "cuda" in version.lower():  # MLPerf names the library beneath
        number = version_number(version)
        return "trtllm-mlperf-4" if number is not None and number < (10, 5) else "trtllm-mlperf-5"
    number = version_number(version)
    if number is None or number > (1, 0):
        return "trtllm-1.1"
    return "trtllm-1.0" if number == (1, 0) else "trtllm-0"
