"""`gristmill doctor`: what this machine can run, and what to do about the rest."""

import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serving.engine_config import Batching, Draft, EngineConfig, PagedCache, Parallelism, Precision, Speculation
from serving.engines.fits import reasons_against
from serving.engines.machine import GIB, Machine, settled, this_machine
from serving.engines.vllm_environment import child_environment
from serving.models.folder import ModelFolder
from serving.models.prepare import list_models


def report(models: Path) -> str:
    machine = this_machine()
    found = list_models(models)
    lines = [*_hardware(machine), *_parts(), *_precisions(machine), *_settings(machine), *_models(found)]
    return "\n".join([*lines, *_levers(machine, found)])


def _hardware(machine: Machine) -> list[str]:
    gpus = ", ".join(f"{gpu.name}, {gpu.memory_bytes / GIB:.0f} GiB" for gpu in machine.gpus) or "none"
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
    return [
        f"full       {machine.fast_dtype} is what {where} multiplies fastest",
        f"int8       {int8}; the receipt of each run says whether the lane paid",
    ]


def _settings(machine: Machine) -> list[str]:
    config = settled(EngineConfig(batching=machine.usual_batching), machine)
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


def _levers(machine: Machine, models: list[ModelFolder]) -> list[str]:
    """What could be asked of an engine here, and why not, by the rules that a job is held to before it starts."""
    model = next(
        (model for model in models if model.precision in ("bf16", "fp16", "fp32") and model.chat_template), None
    )
    if model is None:
        return []
    base = settled(EngineConfig(), machine)
    w4a16, fp8 = replace(model, precision="w4a16"), replace(model, precision="fp8")
    asked: list[tuple[str, EngineConfig, ModelFolder]] = [
        ("4-bit weights", base, w4a16),
        ("fp8 weights", base, fp8),
        ("fp8 while loading", replace(base, precision=Precision(base.precision.weights, "fp8")), model),
        ("fp8 KV cache", replace(base, cache=PagedCache(dtype="fp8")), model),
        ("KV offload", replace(base, cache=PagedCache(offload_gib=1)), model),
        ("async scheduling", replace(base, batching=Batching(async_scheduling=True)), model),
        *(
            (f"speculation {draft}", replace(base, speculation=Speculation(draft)), model)
            for draft in (Draft.NGRAM, Draft.SUFFIX, Draft.MTP)
        ),
        *(
            (f"tensor parallel {ranks}", replace(base, parallelism=Parallelism(ranks)), model)
            for ranks in range(2, max(2, machine.places) + 1)
        ),
        ("pipeline parallel 2", replace(base, parallelism=Parallelism(pipeline=2)), model),
    ]
    told = [(name, next(reasons_against(config, of, machine), "yes")) for name, config, of in asked]
    return [f"levers     for {model.name}:", *(f"  {name:19} {answer}" for name, answer in told)]


def _models(models: list[ModelFolder]) -> list[str]:
    if not models:
        return ["models     none; run `gristmill models prepare`"]
    return [f"models     {', '.join(f'{model.name} ({model.precision})' for model in models)}"]
