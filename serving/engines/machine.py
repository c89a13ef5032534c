"""What this machine can run, and the engine settings that follow: read from the kernel, no library needed."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from serving.engine_config import Batching, EngineConfig, PagedCache
from serving.engines.gpus import Gpu, nvidia_gpus

GIB = 2**30
MAX_AUTO_KV_GIB = 8.0
LEAST_KV_GIB = 0.25
# What a job that says nothing of it gets. On an H200 256 sequences of an 8B model were 1.8 times as fast as 64, and a
# prompt of 2,048 tokens is one step (2026-11-26, bench/gpu.py).
ON_CPU, ON_GPU = Batching(), Batching(max_num_seqs=256, max_num_batched_tokens=8192)


class CannotRun(ValueError):
    """These settings cannot run on this machine; the message says why, and what can."""


@dataclass(frozen=True, slots=True)
class Machine:
    cpu: str
    cores: tuple[int, ...]  # that this process may use
    flags: frozenset[str]
    memory_bytes: int
    available_bytes: int
    gpus: tuple[Gpu, ...]

    @property
    def has_gpu(self) -> bool:
        return bool(self.gpus)

    @property
    def fast_dtype(self) -> str:
        """bfloat16 where the CPU multiplies it natively; elsewhere it is converted at every step and float32 wins."""
        native = {"avx512_bf16", "amx_bf16"} & self.flags
        return "bfloat16" if self.has_gpu or native else "float32"

    @property
    def capability(self) -> float:
        """Of the least capable GPU, since ranks run in step; 0 without one."""
        return min((gpu.capability for gpu in self.gpus), default=0.0)

    @property
    def places(self) -> int:
        """How many ranks find a GPU, or a core, of their own."""
        return len(self.gpus) if self.has_gpu else len(self.cores)

    @property
    def usual_batching(self) -> Batching:
        return ON_GPU if self.has_gpu else ON_CPU

    @property
    def has_fast_int8(self) -> bool:
        return self.has_gpu or bool({"avx512_vnni", "avx_vnni", "amx_int8"} & self.flags)


def this_machine() -> Machine:
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    memory = _meminfo()
    return Machine(
        cpu=_field(cpu, "model name") or "unknown CPU",
        cores=tuple(sorted(os.sched_getaffinity(0))),
        flags=frozenset(_field(cpu, "flags").split()),
        memory_bytes=memory["MemTotal"],
        available_bytes=memory["MemAvailable"],
        gpus=nvidia_gpus(memory["MemTotal"]),
    )


def kv_bytes_per_number(config: EngineConfig) -> int:
    """What the KV cache of a settled config keeps is what the model computes in, unless it is said to be smaller."""
    if config.cache.dtype.startswith("fp8"):
        return 1
    return 4 if config.precision.weights == "float32" else 2


def settled(config: EngineConfig, machine: Machine, kv_bytes_wanted: int | None = None) -> EngineConfig:
    """The same settings with everything that was left open decided for this machine.

    `kv_bytes_wanted` is the KV cache that the work can use at most; more would only be zeroed, a second a GiB.
    """
    weights = machine.fast_dtype if config.precision.weights == "auto" else config.precision.weights
    cache = config.cache if machine.has_gpu else _cpu_cache(config, machine, kv_bytes_wanted)
    compiled = machine.has_gpu if config.compiled is None else config.compiled
    return replace(config, cache=cache, precision=replace(config.precision, weights=weights), compiled=compiled)


def _cpu_cache(config: EngineConfig, machine: Machine, wanted_bytes: int | None) -> PagedCache:
    """32 is the smallest block that the CPU kernels take at full speed; at vLLM's default of 128 a shared system prompt
    of 100 tokens would never hit the prefix cache."""
    parts = config.parallelism.ranks * config.parallelism.data
    memory_gib = config.cache.memory_gib or _auto_kv_gib(machine, wanted_bytes, parts)
    return replace(config.cache, block_tokens=config.cache.block_tokens or 32, memory_gib=memory_gib)


def _auto_kv_gib(machine: Machine, wanted_bytes: int | None, parts: int) -> float:
    """What the work wants, and at most a quarter of what is free: the model and the page cache need room as well.
    It is what each of `parts` processes keeps."""
    most = min(MAX_AUTO_KV_GIB, machine.available_bytes / GIB / 4 / parts)
    return round(max(LEAST_KV_GIB, most if wanted_bytes is None else min(most, wanted_bytes / GIB)), 3)


def _field(cpuinfo: str, name: str) -> str:
    line = next((line for line in cpuinfo.splitlines() if line.startswith(name)), "")
    return line.partition(":")[2].strip()


def _meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
