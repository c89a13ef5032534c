"""The products of matrices in one step, by themselves: vLLM's choice for them on a CPU beside PyTorch's own.

    python bench/products.py

Every weight of the model once, so that all come from memory, at several numbers of rows. Prints the milliseconds of a
step and the operations a second.
"""

import json
import subprocess
import sys
from pathlib import Path

from serving.engine_config import Batching, EngineConfig
from serving.engines.machine import settled, this_machine
from serving.engines.vllm_environment import child_environment
from serving.environment import settle

sys.path.insert(0, str(Path(__file__).parent))
from sheet import where

CONFIG = Path("models/smollm2-135m-instruct/config.json")
ROWS = (1, 2, 4, 8, 16, 32, 64, 256)
CHILD = """
import json, sys, time, torch
from vllm import _custom_ops as ops
threads, shapes, rows = json.loads(sys.argv[1])
torch.set_num_threads(threads)
weights = [torch.randn(wide, deep) for deep, wide, count in shapes for _ in range(count)]
packed = [ops.create_onednn_mm(weight.t(), 32) for weight in weights]
def step_s(work):
    work()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
for count in rows:
    inputs = {deep: torch.randn(count, deep) for deep, _, _ in shapes}
    def by_vllm():
        for weight, handler in zip(weights, packed):
            ops.onednn_mm(handler, inputs[weight.shape[1]], None)
    def by_torch():
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)
    print(json.dumps([count, step_s(by_vllm), step_s(by_torch)]), flush=True)
"""


def main() -> int:
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    shapes = shapes_of(json.loads(CONFIG.read_text()))
    order = json.dumps([len(machine.cores), shapes, ROWS])
    environment = child_environment(settled(EngineConfig(batching=Batching(max(ROWS))), machine), machine, None)
    command = [sys.executable, "-P", "-c", CHILD, order]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    numbers = sum(deep * wide * count for deep, wide, count in shapes)
    print(f"{where(machine)}; {numbers / 1e6:.0f} million weights")
    print(f"{'rows':>5}{'vLLM ms':>10}{'GFLOP/s':>9}{'torch ms':>10}{'ratio':>7}")
    for line in said.stdout.splitlines():
        rows, vllm_s, torch_s = json.loads(line)
        speed = 2 * rows * numbers / vllm_s / 1e9
        print(f"{rows:>5}{1000 * vllm_s:10.1f}{speed:9.0f}{1000 * torch_s:10.1f}{torch_s / vllm_s:7.2f}")
    return 0


def shapes_of(config: dict) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many) of a Llama's matrices."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head
    return [
        (hidden, hidden + 2 * kv, layers),
        (hidden, hidden, layers),
        (hidden, 2 * inner, layers),
        (inner, hidden, layers),
        (hidden, config["vocab_size"], 1),
    ]


if __name__ == "__main__":
    sys.exit(main())
