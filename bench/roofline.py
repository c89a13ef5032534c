"""How much of what this machine can do the engine gets out of it, prefill and decode, with the arithmetic.

    python bench/roofline.py [--rounds 5]

Prefill is bound by arithmetic: two operations for each weight that a token passes, and attention's own. Decode is bound
by memory: each step reads every weight once and the keys and values of every sequence. Both ceilings are measured
here, with the same threads: a product of matrices as large as the model's, and a walk over memory that no cache holds.
That is done before and after each round, and the better of both is the round's: a machine that others share changes.
(Williams et al. 2009, Roofline; Pope et al. 2022, Efficiently Scaling Transformer Inference.) Adds raw figures to
bench/results/roofline.csv.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.engine_config import Batching, EngineConfig, ModelShape, PagedCache
from serving.engines.ceilings import measure
from serving.engines.machine import kv_bytes_per_number, settled, this_machine
from serving.engines.vllm_engine import VllmEngine
from serving.environment import settle
from serving.models.folder import ModelFolder
from serving.models.shape import shape_of

sys.path.insert(0, str(Path(__file__).parent))
from counting import counting
from sheet import add_rows, taken_on, where

MODEL = Path("models/smollm2-135m-instruct")
RESULTS = Path("bench/results/roofline.csv")
PROMPT_TOKENS, OUTPUT_TOKENS, CONTEXT_TOKENS, KV_GIB = 512, 64, 1024, 1.0
BATCHES = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class Share:
    phase: str
    batch: int
    measured_s: float  # a token of prefill, a step of decode
    work: float  # operations of a token, bytes that a step reads
    flop_s: float
    bytes_s: float

    @property
    def least_s(self) -> float:
        """What the ceiling allows."""
        return self.work / (self.flop_s if self.phase == "prefill" else self.bytes_s)

    @property
    def of_roofline(self) -> float:
        return self.least_s / self.measured_s


def main() -> int:
    parser = argparse.ArgumentParser(description="How much of what this machine can do the engine gets out of it.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    cache = PagedCache(memory_gib=KV_GIB, prefix_caching=False)
    config = settled(EngineConfig(cache=cache, batching=Batching(max(BATCHES)), max_model_len=CONTEXT_TOKENS), machine)
    shape, weights = shape_of(ModelFolder.open(MODEL)), weights_of(MODEL)
    sizes = (config.batching.max_num_batched_tokens, shape.hidden, shape.vocabulary)
    engine = VllmEngine(MODEL, config, machine, Path(".gristmill/bench.log"), lambda: False, None)
    number_bytes = kv_bytes_per_number(config)
    with engine:
        run(engine, 0, max(BATCHES), OUTPUT_TOKENS)
        measured: list[Share] = []
        before = measure(config, machine, sizes)
        for number in range(1, rounds + 1):
            timed = [one for batch in BATCHES for one in times(engine, number, batch, shape, weights, number_bytes)]
            after = measure(config, machine, sizes)
            flops, bandwidth = max(before.flop_s, after.flop_s), max(before.bytes_s, after.bytes_s)
            measured += [Share(*one, flops, bandwidth) for one in timed]
            before = after
    print(f"{where(machine)}; {config.precision.weights}")
    gflops, gb_s = ([getattr(one, name) / 1e9 for one in measured] for name in ("flop_s", "bytes_s"))
    print(f"ceilings    {min(gflops):.0f} to {max(gflops):.0f} GFLOP/s in a product of matrices,"
          f" {min(gb_s):.1f} to {max(gb_s):.1f} GB/s read from memory, by round")  # fmt: skip
    show(measured, shape, weights, number_bytes)
    add_rows(RESULTS, [{**taken_on(machine), **columns(share)} for share in measured])
    return 0


@dataclass(frozen=True, slots=True)
class Weights:
    """How many numbers a token is multiplied with: in the layers, and at the end to find the next token."""

    layers: int
    head: int


def weights_of(model: Path) -> Weights:
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "numpy") as file:
        sizes = {name: _product(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    embedding = sizes["model.embed_tokens.weight"]
    layers = sum(size for name, size in sizes.items() if ".layers." in name)
    return Weights(layers, sizes.get("lm_head.weight", embedding))


def _product(sizes: list[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def times(
    engine: VllmEngine, number: int, batch: int, shape: ModelShape, weights: Weights, number_bytes: int
) -> Iterator[tuple[str, int, float, float]]:
    """Of a round: the phase, the sequences at once, seconds of a token or step, and the work in it."""
    before = dict(engine.processes[0].sums)
    run(engine, number, batch, 1)
    after = dict(engine.processes[0].sums)
    prefill_s = (after["mixed_s"] - before["mixed_s"]) / (after["mixed_prefill"] - before["mixed_prefill"])
    yield "prefill", batch, prefill_s, prefill_operations(shape, weights)
    run(engine, number, batch, OUTPUT_TOKENS)
    done = dict(engine.processes[0].sums)
    steps = (done["decode_tokens"] - after["decode_tokens"]) / batch
    yield (
        "decode",
        batch,
        (done["decode_s"] - after["decode_s"]) / steps,
        decode_bytes(shape, weights, number_bytes, batch),
    )


def prefill_operations(shape: ModelShape, weights: Weights) -> float:
    """A token: twice the layers' weights, and a half of the prompt's length in scores and in sums over values. The
    head is passed by the last token of a prompt alone."""
    attention = 2 * 2 * shape.layers * shape.heads * shape.head_dim * PROMPT_TOKENS / 2
    return 2 * weights.layers + attention + 2 * weights.head / PROMPT_TOKENS


def decode_bytes(shape: ModelShape, weights: Weights, number_bytes: int, batch: int) -> float:
    """A step: all weights once, and what each sequence has in the KV cache, on average over its output."""
    context = PROMPT_TOKENS + OUTPUT_TOKENS / 2
    return (weights.layers + weights.head) * number_bytes + batch * context * shape.kv_bytes_per_token(number_bytes)


def run(engine: VllmEngine, number: int, batch: int, output_tokens: int) -> None:
    rows = ((1000 * number + 37 * row, PROMPT_TOKENS, output_tokens) for row in range(batch))
    for _ in engine.run(counting(MODEL, rows)):
        pass


def show(measured: list[Share], shape: ModelShape, weights: Weights, number_bytes: int) -> None:
    print(f"prefill     a token: 2 x {weights.layers / 1e6:.0f}M weights + attention over {PROMPT_TOKENS} tokens + head"
          f" = {prefill_operations(shape, weights) / 1e9:.3f} GFLOP")  # fmt: skip
    for batch in BATCHES:
        total = decode_bytes(shape, weights, number_bytes, batch)
        print(f"decode      a step of {batch:2}: {weights.layers + weights.head:,} weights x {number_bytes} bytes"
              f" + {batch} x keys and values = {total / 1e9:.3f} GB")  # fmt: skip
    print(f"{'phase':8} {'batch':>5} {'measured':>14} {'ceiling allows':>15} {'share':>6}")
    for phase in ("prefill", "decode"):
        for batch in BATCHES:
            own = [share for share in measured if (share.phase, share.batch) == (phase, batch)]
            scale, unit = (1e6, "us a token") if phase == "prefill" else (1e3, "ms a step")
            share = statistics.median(one.of_roofline for one in own)
            seconds = statistics.median(one.measured_s for one in own)
            least_s = statistics.median(one.least_s for one in own)
            print(f"{phase:8} {batch:5} {seconds * scale:8.1f} {unit} {least_s * scale:8.1f} {share:6.0%}")


def columns(share: Share) -> dict[str, object]:
    return {"gflops": f"{share.flop_s / 1e9:.1f}", "gb_s": f"{share.bytes_s / 1e9:.2f}", "phase": share.phase,
            "batch": share.batch, "measured_s": f"{share.measured_s:.6f}", "least_s": f"{share.least_s:.6f}",
            "of_roofline": f"{share.of_roofline:.3f}"}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
