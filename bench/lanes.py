"""Measure this machine: the full model at two precisions, the INT8 variant, and vLLM's own thread settings, in one run.

`make bench` runs it, prints a table of ratios and adds the raw figures to bench/results/lanes.csv.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from serving.engine_config import EngineConfig, PagedCache, Precision
from serving.engines.machine import Machine, settled, this_machine
from serving.engines.vllm_engine import VllmEngine
from serving.environment import settle
from serving.intake.render import ModelRenderer
from serving.models.folder import ModelFolder
from serving.records import Endpoint, Message, Request, Sampling

sys.path.insert(0, str(Path(__file__).parent))
from sheet import add_rows, taken_on, where

FULL, INT8 = Path("models/smollm2-135m-instruct"), Path("models/smollm2-135m-instruct-w8a8")
RESULTS = Path("bench/results/lanes.csv")
REQUESTS, MAX_TOKENS, ROUNDS = 128, 64, 3


@dataclass(frozen=True, slots=True)
class Variant:
    name: str
    model: Path
    weights: str
    our_threads: bool = True


def variants(machine: Machine) -> list[Variant]:
    fast = machine.fast_dtype
    other = "float32" if fast == "bfloat16" else "bfloat16"
    return [
        Variant(f"full, {fast}", FULL, fast),
        Variant(f"full, {other}", FULL, other),
        Variant(f"INT8 W8A8, {fast}", INT8, fast),
        Variant(f"full, {fast}, vLLM's own threads", FULL, fast, our_threads=False),
    ]


def main() -> int:
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    print(f"{where(machine)}; vLLM eager, {REQUESTS} requests")
    measured = [(variant, *measure(variant, machine)) for variant in variants(machine)]
    base = measured[0][1]
    print(f"{'variant':36} {'output tok/s':>12} {'ratio':>6} {'start-up s':>10}")
    for variant, tokens_per_s, start_s in measured:
        print(f"{variant.name:36} {tokens_per_s:12.0f} {tokens_per_s / base:6.2f} {start_s:10.1f}")
    record(machine, measured)
    return 0


def measure(variant: Variant, machine: Machine) -> tuple[float, float]:
    """The median output tokens a second over the rounds, and the seconds until the engine was ready."""
    config = replace(EngineConfig(), precision=Precision(variant.weights), cache=PagedCache(memory_gib=1.0))
    log = Path(".gristmill/bench.log")
    engine = VllmEngine(variant.model, settled(config, machine), machine, log, lambda: False, None)
    if not variant.our_threads:
        for name in ("LD_PRELOAD", "VLLM_CPU_OMP_THREADS_BIND"):
            engine.processes[0].server.environment.pop(name, None)
    began = time.monotonic()
    with engine:
        start_s = time.monotonic() - began
        rounds = sorted(one_round(engine, variant.model, number) for number in range(ROUNDS))
    return rounds[ROUNDS // 2], start_s


def one_round(engine: VllmEngine, model: Path, number: int) -> float:
    """Prompts differ between rounds, so that the prefix cache holds their common part and nothing more."""
    began = time.monotonic()
    tokens = sum(done.usage.completion_tokens for done in engine.run(requests(model, number)))
    return tokens / (time.monotonic() - began)


def requests(model: Path, number: int) -> Iterator[Request]:
    folder = ModelFolder.open(model)
    renderer = ModelRenderer(folder.tokenizer_json, folder.chat_template, dict(folder.special_tokens))
    for row in range(REQUESTS):
        messages = (Message("user", f"Tell a story of about 200 words about the number {1000 * number + row}."),)
        _, token_ids = renderer.render(Endpoint.CHAT, messages)
        yield Request(row, str(row), Endpoint.CHAT, messages, Sampling(max_tokens=MAX_TOKENS), token_ids)


def record(machine: Machine, measured: list[tuple[Variant, float, float]]) -> None:
    rows = [
        {"variant": variant.name, "output_tokens_per_s": f"{tokens_per_s:.1f}", "start_up_s": f"{start_s:.1f}"}
        for variant, tokens_per_s, start_s in measured
    ]
    add_rows(RESULTS, [{**taken_on(machine), **row} for row in rows])


if __name__ == "__main__":
    sys.exit(main())
