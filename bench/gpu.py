"""What a GPU does with models of real shapes: throughput by load and setting, and beside it that of plain vLLM.

    python bench/gpu.py [--setups llama,llama-fp8,...] [--bare llama,small] [--limit-s SECONDS]

Weights are random, since the time of a step does not depend on what a model says, so that nothing has to be downloaded;
prompts are random tokens that share nothing. Each load is run by gristmill's engine from one process, as a job has it,
and, for the setups of --bare, by vLLM's own `LLM.generate` on the same tokens. A setup takes about a minute, most of it
loading and capturing graphs. Adds to bench/results/gpu.csv, in the columns that `gristmill predict` reads;
bench/gpu_score.py says how well it was predicted.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving.engine_config import Batching, Draft, EngineConfig, PagedCache, Precision, Speculation
from serving.engines import vllm_engine
from serving.engines.machine import Machine, settled, this_machine
from serving.engines.vllm_arguments import vllm_arguments
from serving.engines.vllm_environment import child_environment
from serving.environment import settle
from serving.records import Endpoint, EngineDied, Request, Sampling

sys.path.insert(0, str(Path(__file__).parent))
from random_models import random_prompts, save_shape
from sheet import add_rows

RESULTS = Path("bench/results/gpu.csv")
BARE_LOOP = Path(__file__).parent / "gpu_bare.py"
SUMS = ("decode_s", "decode_tokens", "mixed_s", "mixed_prefill", "mixed_decode")
MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, MAX_MODEL_LEN = 256, 8192, 2304


@dataclass(frozen=True, slots=True)
class Load:
    input_tokens: int
    output_tokens: int
    requests: int

    @property
    def told(self) -> str:
        """As the planner reads it: one batch from start to end, or a queue that is always full."""
        return str(self.requests) if self.requests <= MAX_NUM_SEQS else f"{self.requests} prompts"


LOADS = (
    Load(128, 128, 1),
    Load(128, 128, 16),
    Load(128, 128, 64),
    Load(128, 128, 256),
    Load(1024, 128, 64),
    Load(2048, 16, 16),
    Load(512, 128, 1000),
)
WARM_UP = Load(64, 8, 32)
SMALL_LOADS = (Load(128, 128, 1), Load(128, 128, 64), Load(128, 128, 256), Load(128, 64, 4000))


@dataclass(frozen=True, slots=True)
class Setup:
    model: str
    config: EngineConfig
    loads: Sequence[Load] = LOADS
    environment: dict[str, str] = field(default_factory=dict)


BASE = EngineConfig(
    cache=PagedCache(prefix_caching=False),
    precision=Precision("bfloat16"),
    batching=Batching(MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS),
    max_model_len=MAX_MODEL_LEN,
)
SETUPS = {
    "llama": Setup("Llama-3.1-8B", BASE),
    "llama-fp8": Setup("Llama-3.1-8B", replace(BASE, precision=Precision("bfloat16", "fp8"))),
    "llama-fp8-kv": Setup("Llama-3.1-8B", replace(BASE, cache=PagedCache(dtype="fp8", prefix_caching=False))),
    "llama-eager": Setup("Llama-3.1-8B", replace(BASE, compiled=False)),
    "llama-ngram": Setup("Llama-3.1-8B", replace(BASE, speculation=Speculation(Draft.NGRAM, tokens=4))),
    "small": Setup("SmolLM2-135M", BASE, SMALL_LOADS),
    "moe": Setup("Qwen3-30B-A3B", BASE),
}
# Steps in the process that takes and gives rows as well, as on a CPU.
TOGETHER = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
SETUPS |= {name + "-together": replace(SETUPS[name], environment=TOGETHER) for name in ("small", "llama", "llama-fp8")}


def main() -> int:
    parser = argparse.ArgumentParser(description="What a GPU does with models of real shapes.")
    parser.add_argument("--setups", default=",".join(SETUPS))
    parser.add_argument("--bare", default="llama,small", help="setups that vLLM's own loop runs as well")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="begin nothing after so many seconds")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--logs", type=Path, default=Path(".gristmill"))
    options = parser.parse_args()
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    if not machine.has_gpu:
        print("no GPU here: this measures one; bench/gpu_score.py shows what was measured on others")
        return 2
    ends = time.monotonic() + options.limit_s
    vllm_engine.vllm_arguments = dummy_arguments
    print(f"{machine.gpus[0].name}, vLLM {version('vllm')}, {datetime.now(UTC):%Y-%m-%d}")
    for name in options.setups.split(","):
        setup = SETUPS[name]
        with TemporaryDirectory() as folder:
            model = save_shape(Path(folder) / setup.model, setup.model)
            try:
                for row in measured(name, setup, model, machine, options.logs / f"gpu-{name}.log", ends):
                    add_rows(options.results, [row])
                if name in options.bare.split(",") and time.monotonic() < ends:
                    add_rows(options.results, bare(name, setup, model, machine, options.logs / f"gpu-{name}-bare.log"))
            except (EngineDied, RuntimeError, subprocess.CalledProcessError):
                traceback.print_exc()  # the other setups are worth their minutes all the same
    return 0


def dummy_arguments(model: Path, config: EngineConfig) -> dict[str, Any]:
    """As in a job, but for the weights, and for figures of speculation by row, which older releases do not have."""
    arguments = {**vllm_arguments(model, config), "load_format": "dummy"}
    arguments.pop("per_request_spec_decode_metrics", None)
    return arguments


def measured(
    name: str, setup: Setup, model: Path, machine: Machine, log: Path, ends: float
) -> Iterator[dict[str, object]]:
    vllm_engine.child_environment = lambda *of: child_environment(*of) | setup.environment
    began = time.monotonic()
    with vllm_engine.VllmEngine(model, settled(setup.config, machine), machine, log, lambda: False, None) as engine:
        start_s = time.monotonic() - began
        print(f"\n{name}: ready after {start_s:.0f} s", flush=True)
        run(engine, setup.model, WARM_UP, seed=1)
        for number, load in enumerate(setup.loads, start=2):
            if time.monotonic() > ends:
                return
            before = engine_sums(engine)
            seconds = run(engine, setup.model, load, seed=number)
            sums = {key: value - before.get(key, 0.0) for key, value in engine_sums(engine).items()}
            yield row_of(name, setup, machine, load, seconds, "gristmill", start_s, sums)


def engine_sums(engine: vllm_engine.VllmEngine) -> dict[str, float]:
    return dict(engine.processes[0].sums)


def run(engine: vllm_engine.VllmEngine, model: str, load: Load, seed: int) -> float:
    prompts = random_prompts(model, load.input_tokens, load.requests, seed)
    sampling = Sampling(max_tokens=load.output_tokens)
    requests = [Request(row, str(row), Endpoint.COMPLETION, (), sampling, tokens) for row, tokens in enumerate(prompts)]
    began = time.monotonic()
    done = list(engine.run(iter(requests)))
    seconds = time.monotonic() - began
    short = [one for one in done if one.failure or one.usage.completion_tokens != load.output_tokens]
    if len(done) != load.requests or short:
        raise RuntimeError(f"{load}: {len(done)} answers, {len(short)} of them failed or short: {short[:1]}")
    return seconds


def bare(name: str, setup: Setup, model: Path, machine: Machine, log: Path) -> list[dict[str, object]]:
    """vLLM's own loop, in a process of its own as it comes: the same arguments, tokens and order of loads."""
    arguments = dummy_arguments(model, settled(setup.config, machine))
    asked = [[*astuple(load), seed] for seed, load in enumerate((WARM_UP, *setup.loads), start=1)]
    out = log.with_suffix(".json")
    command = [sys.executable, str(BARE_LOOP), json.dumps(arguments), setup.model, json.dumps(asked), str(out)]
    with log.open("w") as output:
        subprocess.run(command, stdout=output, stderr=output, check=True)
    told = json.loads(out.read_text())
    print(f"\n{name}, vLLM's LLM.generate: ready after {told['start_s']:.0f} s", flush=True)
    return [
        row_of(name, setup, machine, load, seconds, "LLM.generate", told["start_s"], {})
        for load, seconds in zip(setup.loads, told["seconds"][1:], strict=True)
    ]


def row_of(
    name: str, setup: Setup, machine: Machine, load: Load, seconds: float, loop: str, start_s: float,
    sums: dict[str, float],
) -> dict[str, object]:  # fmt: skip
    config, tokens_per_s = setup.config, load.requests * load.output_tokens / seconds
    steps_s = sums.get("decode_s", 0.0) + sums.get("mixed_s", 0.0)
    in_steps = f", {steps_s / seconds:4.0%} of it in steps" if sums else ""
    print(
        f"  {load.input_tokens:5} in {load.output_tokens:4} out x {load.requests:5}: {seconds:8.3f} s,"
        f" {tokens_per_s:9.0f} output tokens/s{in_steps} ({loop})",
        flush=True,
    )
    fp8 = config.precision.quantize == "fp8"
    return {
        "tier": "A-vllm-offline",
        "source": "gristmill bench/gpu.py",
        "engine": "vLLM",
        "engine_version": version("vllm"),
        "model": setup.model,
        "gpu": gpu_name(machine),
        "num_gpus": 1,
        "tp": 1,
        "pp": 1,
        "weight_dtype": "fp8" if fp8 else "bf16",
        "kv_dtype": "fp8" if config.cache.dtype == "fp8" else "bf16",
        "isl": load.input_tokens,
        "osl": load.output_tokens,
        "concurrency_or_batch": load.told,
        "metric": "output_throughput_total",
        "value": f"{tokens_per_s:.2f}",
        "unit": "output_tok/s",
        "notes": f"max_num_seqs={MAX_NUM_SEQS} max_num_batched_tokens={MAX_NUM_BATCHED_TOKENS}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "setup": name,
        "loop": loop,
        "seconds": f"{seconds:.4f}",
        "start_s": f"{start_s:.1f}",
        **{key: f"{sums[key]:.4f}" if sums else "" for key in SUMS},
    }


def gpu_name(machine: Machine) -> str:
    """By the names of the tables that predictions are scored on."""
    told = machine.gpus[0].name
    return {"NVIDIA H100 80GB HBM3": "H100-SXM-80GB", "NVIDIA H200": "H200-SXM-141GB"}.get(told, told)


if __name__ == "__main__":
    sys.exit(main())
