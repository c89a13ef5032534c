"""What a continuous feed is worth over barriers: a long file in one window, and in parts that wait for their last row.

    python bench/feed.py [--parts 5] [--rows 512]

One engine runs both, in the order of the file, so that nothing but the feed differs. The rows count on from numbers of
their own, for as many tokens as a long-tailed mix gives them, and their prompts are about as long as their answers, as
in ShareGPT. Fed continuously, a part is so many rows finished, whichever they are. Prints the median over the parts, as
a long file is made of, and the whole with the one tail that a continuous feed has too; adds raw figures to
bench/results/feed.csv.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.engine_config import Batching, EngineConfig, PagedCache
from serving.engines.machine import settled, this_machine
from serving.engines.vllm_engine import VllmEngine
from serving.environment import settle
from serving.records import Request

sys.path.insert(0, str(Path(__file__).parent))
from counting import counting
from sheet import add_rows, taken_on, where

MODEL = Path("models/smollm2-135m-instruct")
RESULTS = Path("bench/results/feed.csv")
SLOTS, KV_GIB, PROMPT_TOKENS, CONTEXT_TOKENS = 128, 2.0, 16, 512
MEDIAN_TOKENS, SPREAD, MOST_TOKENS = 8, 1.2, 384  # of a log-normal length
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
    options = parser.parse_args()
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    cache = PagedCache(memory_gib=KV_GIB, prefix_caching=False)
    config = EngineConfig(cache=cache, batching=Batching(SLOTS), max_model_len=CONTEXT_TOKENS)
    engine = VllmEngine(MODEL, settled(config, machine), machine, Path(".gristmill/bench.log"), lambda: False, None)
    parts: list[Part] = []
    with engine:
        for _ in engine.run(iter(rows_of(0, SLOTS))):  # the first steps of an engine are slower
            pass
        rows = rows_of(1, options.parts * options.rows)
        for feed in (BARRIERS, CONTINUOUS):
            for part in measured(engine, rows, feed, options.rows):
                parts.append(part)
                add_rows(RESULTS, [{**taken_on(machine), "rows": options.rows, **columns(part)}])
                print(f"  {feed:10} part {part.part + 1} {part.seconds:7.1f} s", flush=True)
    print(f"{where(machine)}; vLLM, {SLOTS} sequences at once")
    show(parts, options.rows)
    return 0


def rows_of(number: int, count: int) -> list[Request]:
    draw = random.Random(number)
    lengths = (min(MOST_TOKENS, max(1, round(MEDIAN_TOKENS * draw.lognormvariate(0.0, SPREAD)))) for _ in range(count))
    return list(counting(MODEL, ((draw.randrange(1000), PROMPT_TOKENS, tokens) for tokens in lengths)))


def measured(engine: VllmEngine, rows: list[Request], feed: str, part_rows: int) -> Iterator[Part]:
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
