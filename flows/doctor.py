"""`gristmill doctor`: what this machine can run, and what to do about the rest."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serving.engines.machine import GIB, Machine, settled, this_machine
from serving.engines.vllm_engine import child_environment
from serving.models.folder import ModelFolder
from serving.models.prepare import list_models
from serving.records import EngineConfig


def report(models: Path) -> str:
    machine = this_machine()
    lines = [*_hardware(machine), *_parts(), *_precisions(machine), *_settings(machine), *_models(list_models(models))]
    return "\n".join(lines)


def _hardware(machine: Machine) -> list[str]:
    gpus = ", ".join(machine.gpus) or "none"
    memory = f"{machine.memory_bytes / GIB:.1f} GiB, {machine.available_bytes / GIB:.1f} free"
    return [
        f"cpu        {machine.cpu}, {len(machine.cores)} cores for us",
        f"memory     {memory}",
        f"gpu        {gpus}",
    ]


def _parts() -> list[str]:
    names = ("vllm", "vllm-cpu", "torch", "transformers", "prefect", "duckdb", "faiss-cpu")
    found = [f"{name} {known}" for name in names if (known := _version(name))]
    if not any(part.startswith("vllm") for part in found):
        found.append('vLLM is missing: run `make setup`, or use engine.kind = "http"')
    return [f"parts      python {sys.version.split()[0]}, {', '.join(found)}"]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _precisions(machine: Machine) -> list[str]:
    where = "this GPU" if machine.has_gpu else "this CPU"
    int8 = "fast dot products" if machine.has_fast_int8 else "no int8 dot products, slower than the full model"
    four_bit = "yes" if machine.has_four_bit else "no, the kernels need AVX-512"
    return [
        f"full       {machine.fast_dtype} is what {where} multiplies fastest",
        f"int8       {int8}; the receipt of each run says whether the lane paid",
        f"4-bit      {four_bit}",
    ]


def _settings(machine: Machine) -> list[str]:
    config = settled(EngineConfig(), machine)
    lines = [
        f"engine     {config.batching.max_num_seqs} sequences, {config.batching.max_num_batched_tokens} tokens a step,"
        f" blocks of {config.cache.block_tokens or 'vLLM default'} tokens,"
        f" {'compiled' if config.compiled else 'eager'}",
    ]
    if not machine.has_gpu:
        environment = child_environment(config, machine, None)
        runtime = "preloaded" if "LD_PRELOAD" in environment else "missing (pip install intel-openmp): half the speed"
        threads = environment["VLLM_CPU_OMP_THREADS_BIND"]
        lines.append(
            f"threads    bound to cores {threads}; Intel OpenMP {runtime}; up to {config.cache.memory_gib} GiB KV cache"
        )
    return lines


def _models(models: list[ModelFolder]) -> list[str]:
    if not models:
        return ["models     none; run `gristmill models prepare`"]
    return [f"models     {', '.join(f'{model.name} ({model.precision})' for model in models)}"]
