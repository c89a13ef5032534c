"""What an engine's process needs in its environment before it starts; none of our secrets among it."""

import sys
from pathlib import Path

from serving.engine_config import EngineConfig
from serving.engines.gpus import VISIBLE
from serving.engines.machine import Machine
from serving.environment import for_a_child, own_folder

# Each layer of each step takes tensors of megabytes and lets them go. By default glibc hands them back to the kernel,
# which clears every page anew: keeping them made prefill 1.2 times as fast on two AVX2 cores (2026-11-25).
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2 * 10**9),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 10**9),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


def child_environment(config: EngineConfig, machine: Machine, python: str | None) -> dict[str, str]:
    """Of one of the processes side by side; `machine` is its part of the machine."""
    environment = for_a_child()
    # No plugin of vLLM is loaded: whatever is installed beside it could change how it answers.
    environment |= {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_HOST_IP": "127.0.0.1", "VLLM_PLUGINS": ""}
    environment |= _own_caches()
    if config.parallelism.ranks == 1 and not machine.has_gpu:
        # All in one process: one import of vLLM instead of three, nothing left when it is killed, every core for steps.
        # A GPU would wait for rows to be read and told: steps in a process of their own were 1.0 times as fast with 8B
        # weights on an H200, and 1.8 times with 135M (2026-11-26, bench/gpu.py).
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if not config.compiled:
        # vLLM compiles some small functions of its own at their first use, three seconds each, even when eager.
        environment["TORCHDYNAMO_DISABLE"] = "1"
    if machine.has_gpu:  # by the driver's numbers, which follow its order, not CUDA's own
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environment[VISIBLE] = ",".join(gpu.number for gpu in machine.gpus)
    else:
        environment |= _cpu_environment(config.parallelism.ranks, machine, python)
    return environment


def _own_caches() -> dict[str, str]:
    """What is compiled is kept and run again, so it is kept where nobody else can write."""
    folder = own_folder("vllm")
    if folder is None:
        return {}
    names = {"VLLM_CACHE_ROOT": "", "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    return {variable: str(folder / name) for variable, name in names.items()}


def _cpu_environment(ranks: int, machine: Machine, python: str | None) -> dict[str, str]:
    """Intel's OpenMP runtime, and every core bound. On a two-core AVX2 machine that was 2.1 times the speed of vLLM's
    defaults, which keep one core free (2026-11-23); on one with AVX-512 it is 1.0 times (bench/results/lanes.csv)."""
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "|".join(_cores_of_rank(machine.cores, ranks)), **KEEP_MEMORY}
    runtime = Path(python or sys.executable).absolute().parent.parent / "lib" / "libiomp5.so"
    if runtime.exists():
        environment["LD_PRELOAD"] = str(runtime)
    return environment


def _cores_of_rank(cores: tuple[int, ...], ranks: int) -> list[str]:
    shares = [cores[rank::ranks] or cores[-1:] for rank in range(ranks)]
    return [",".join(str(core) for core in share) for share in shares]
