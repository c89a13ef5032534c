"""What a continuous feed is worth over barriers: a long file in one window, and in parts that wait for their last row.

    python bench/feed.py [--parts 5] [--rows 512] [--sequences 256] [--shape Llama-3.1-8B]

One engine runs both, in the order of the file, so that nothing but the feed differs. The rows count on from numbers of
their own, for as many tokens as a long-tailed mix gives them, and their prompts are about as long as their answers, as
in ShareGPT. With --shape, for GPUs, weights and prompts are random, of a model of that shape. Fed continuously, a part
is so many rows finished, whichever they are. Prints the median over the parts, as a long file is made of, and the whole
with the one tail that a continuous feed has too; adds raw figures to bench/results/feed.csv.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from serving.engine_config import Batching, EngineConfig, PagedCache
from serving.engines import vllm_engine
from serving.engines.machine import Machine, settled, this_machine
from serving.environment import settle
from serving.records import Endpoint, Request, Sampling

sys.path.insert(0, str(Path(__file__).parent))
from counting import counting
from gpu import dummy_arguments
from random_models import CONFIGS, random_prompts, save_shape
from sheet import add_rows, taken_on, where

MODEL = Path("models/smollm2-135m-instruct")
RESULTS = Path("bench/results/feed.csv")
SLOTS, KV_GIB, PROMPT_TOKENS, CONTEXT_TOKENS = 256, 2.0, 16, 512  # so many sequences vLLM itself runs offline
MEDIAN_TOKENS, SPREAD, MOST_TOKENS = 8, 1.2, 384  # of a log-normal length
STEPS = 32  # that a step is timed over
BARRIERS, CONTINUOUS = "barriers", "continuous"


@dataclass(frozen=True, slots=True)
class Part:
    feed: str
    part: int
    seconds: float
    output_tokens: int


def main() -> int:
    parser = argparse.ArgumentParser(description="What a continuous feed is worth over barriers.")
    parser.add_argument("--parts", type=int, default=5)
    parser.add_argument("--rows", type=int, default=512, help="of a part")
    parser.add_argument("--sequences", type=int, default=SLOTS, help="that run at once (default: vLLM's own, 256)")
    parser.add_argument("--shape", choices=sorted(CONFIGS), help="of a model whose weights are random")
    options = parser.parse_args()
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    cache = PagedCache(memory_gib=KV_GIB, prefix_caching=False)
    config = EngineConfig(cache=cache, batching=Batching(options.sequences), max_model_len=CONTEXT_TOKENS)
    parts: list[Part] = []
    with TemporaryDirectory() as scratch, engine_of(options.shape, config, machine, Path(scratch)) as engine:
        run(engine, rows_of(options.shape, 0, mix(0, options.sequences)))  # the first steps of an engine are slower
        steps = {sequences: step_ms(engine, options.shape, sequences) for sequences in (1, options.sequences)}
        print(*(f"  a step of {count:3} takes {ms:6.1f} ms" for count, ms in steps.items()), sep="\n", flush=True)
        rows = rows_of(options.shape, 1, mix(1, options.parts * options.rows))
        for feed in (BARRIERS, CONTINUOUS):
            for part in measured(engine, rows, feed, options.rows):
                parts.append(part)
                figures = {"model": options.shape or MODEL.name, "rows": options.rows, "sequences": options.sequences}
                figures |= columns(part)
                add_rows(RESULTS, [{**taken_on(machine), **figures}])
                print(f"  {feed:10} part {part.part + 1} {part.seconds:7.1f} s", flush=True)
    print(f"{where(machine)}; vLLM, {options.sequences} sequences at once")
    show(parts, options.rows)
    return 0


def engine_of(shape: str | None, config: EngineConfig, machine: Machine, scratch: Path) -> vllm_engine.VllmEngine:
    model = MODEL
    if shape is not None:
        vllm_engine.vllm_arguments = dummy_arguments
        model = save_shape(scratch / shape, shape)
    log = Path(".gristmill/bench.log")
    return vllm_engine.VllmEngine(model, settled(config, machine), machine, log, lambda: False, None)


def mix(seed: int, rows: int) -> list[tuple[int, int]]:
    """Of each row how many tokens it is to answer with, and the number that it counts on from."""
    draw = random.Random(seed)
    return [(_length(draw), draw.randrange(1000)) for _ in range(rows)]


def rows_of(shape: str | None, seed: int, drawn: list[tuple[int, int]]) -> list[Request]:
    if shape is None:
        return list(counting(MODEL, ((first, PROMPT_TOKENS, tokens) for tokens, first in drawn)))
    prompts = random_prompts(shape, PROMPT_TOKENS, len(drawn), seed)
    return [
        Request(row, str(row), Endpoint.COMPLETION, (), Sampling(max_tokens=tokens), prompt)
        for row, ((tokens, _), prompt) in enumerate(zip(drawn, prompts, strict=True))
    ]


def _length(draw: random.Random) -> int:
    return min(MOST_TOKENS, max(1, round(MEDIAN_TOKENS * draw.lognormvariate(0.0, SPREAD))))


def step_ms(engine: vllm_engine.VllmEngine, shape: str | None, sequences: int) -> float:
    """Of decoding, prompts left out: what long answers took more than short ones."""
    seconds = [
        run(engine, rows_of(shape, sequences, [(tokens, row % 1000) for row in range(sequences)]))
        for tokens in (STEPS, 2 * STEPS)
    ]
    return (seconds[1] - seconds[0]) / STEPS * 1000


def run(engine: vllm_engine.VllmEngine, rows: list[Request]) -> float:
    began = time.monotonic()
    for _ in engine.run(iter(rows)):
        pass
    return time.monotonic() - began


def measured(engine: vllm_engine.VllmEngine, rows: list[Request], feed: str, part_rows: int) -> Iterator[Part]:
    at_a_time = part_rows if feed == BARRIERS else len(rows)
    began, finished, output_tokens = time.monotonic(), 0, 0
    for start in range(0, len(rows), at_a_time):
        for done in engine.run(iter(rows[start : start + at_a_time])):
            finished += 1
            output_tokens += done.usage.completion_tokens
            if finished % part_rows == 0:
                yield Part(feed, finished // part_rows - 1, time.monotonic() - began, output_tokens)
                began, output_tokens = time.monotonic(), 0


def show(parts: list[Part], part_rows: int) -> None:
    barriers, continuous = ([part for part in parts if part.feed == feed] for feed in (BARRIERS, CONTINUOUS))
    whole = {}
    for own in (barriers, continuous):
        whole[own[0].feed] = sum(part.seconds for part in own)
        speed = sum(part.output_tokens for part in own) / whole[own[0].feed]
        print(f"{own[0].feed:12} {speed:7.0f} output tok/s  {whole[own[0].feed]:7.1f} s")
    each = [apart.seconds / at_once.seconds for apart, at_once in zip(barriers, continuous, strict=True)]
    middle = f"{statistics.median(each):.2f}  ({min(each):.2f} to {max(each):.2f})"
    print(
        f"continuous over {part_rows}-row barriers: {middle} by part, {whole[BARRIERS] / whole[CONTINUOUS]:.2f} in all"
    )


def columns(part: Part) -> dict[str, object]:
    return {**asdict(part), "seconds": f"{part.seconds:.2f}"}


if __name__ == "__main__":
    sys.exit(main())
