"""Where a decode step goes, by part and by how the engine is set up: what threads, memory and compiling give here.

    python bench/step.py [--compiled]

Compiling takes minutes on a small CPU and needs a C++ compiler, so it is measured where it is asked for: twice, since
the second start finds the code of the first. Adds raw figures to bench/results/step.csv.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from serving.engine_config import Batching, EngineConfig, PagedCache
from serving.engines.machine import Machine, settled, this_machine
from serving.engines.vllm_arguments import vllm_arguments
from serving.engines.vllm_environment import KEEP_MEMORY, child_environment
from serving.environment import settle

sys.path.insert(0, str(Path(__file__).parent))
from counting import counting
from sheet import add_rows, taken_on, where

MODEL = Path("models/smollm2-135m-instruct")
RESULTS = Path("bench/results/step.csv")
CHILD = Path(__file__).with_name("step_child.py")
BATCHES, PROMPT_TOKENS, STEPS = (1, 2, 16, 64), 64, 40
PARTS = ("layers", "attention", "head", "sampling", "scheduling", "preparing", "bookkeeping", "output", "rest")


@dataclass(frozen=True, slots=True)
class Variant:
    name: str
    compiled: bool = False
    without: tuple[str, ...] = ()  # of the environment that we set
    cores: int | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description="Where a decode step goes, by part.")
    parser.add_argument("--compiled", action="store_true", help="also compiled, first and second start")
    compiled = parser.parse_args().compiled
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    variants = [
        Variant("eager"),
        Variant("eager, one core", cores=1),
        Variant("eager, vLLM's threads", without=("LD_PRELOAD", "VLLM_CPU_OMP_THREADS_BIND")),
        Variant("eager, memory given back", without=tuple(KEEP_MEMORY)),
    ]
    if compiled:
        variants += [Variant("compiled, first start", compiled=True), Variant("compiled, second start", compiled=True)]
    print(f"{where(machine)}; ms a decode step, {STEPS} steps")
    print(f"{'':24}{'batch':>5}{'step':>8}" + "".join(f"{part:>12}" for part in PARTS) + f"{'start s':>9}")
    for variant in variants:
        said = measured(variant, machine)
        rows = []
        for batch, parts in said["parts"].items():
            step_ms = sum(parts.values())
            shown = "".join(f"{parts.get(part, 0.0):12.2f}" for part in PARTS)
            print(f"{variant.name:24}{batch:>5}{step_ms:8.1f}{shown}{said['start_s']:9.1f}", flush=True)
            figures = {part: f"{parts.get(part, 0.0):.3f}" for part in PARTS}
            rows.append({**taken_on(machine), "variant": variant.name, "batch": batch, "step_ms": f"{step_ms:.2f}",
                         **figures, "start_s": f"{said['start_s']:.1f}"})  # fmt: skip
        add_rows(RESULTS, rows)
    return 0


def measured(variant: Variant, machine: Machine) -> dict:
    mine = replace(machine, cores=machine.cores[: variant.cores])
    cache = PagedCache(memory_gib=1.0, prefix_caching=False)
    batching = Batching(max(BATCHES))
    config = settled(EngineConfig(cache=cache, batching=batching, max_model_len=512, compiled=variant.compiled), mine)
    environment = child_environment(config, mine, None)
    environment = {name: value for name, value in environment.items() if name not in variant.without}
    prompts = {
        batch: [row.prompt_token_ids for row in counting(MODEL, ((37 * n, PROMPT_TOKENS, 1) for n in range(batch)))]
        for batch in BATCHES
    }
    order = json.dumps({"arguments": vllm_arguments(MODEL, config), "prompts": prompts, "steps": STEPS})
    done = subprocess.run(
        [sys.executable, "-P", str(CHILD)], input=order, env=environment, text=True, capture_output=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{variant.name}: the engine ended with {done.returncode}:\n{done.stderr[-2000:]}")
    said: dict = json.loads(done.stdout.splitlines()[-1])
    return said


if __name__ == "__main__":
    sys.exit(main())
