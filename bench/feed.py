"""What a continuous feed is worth over barriers: the same rows in one window, and in parts that wait for their last.

    python bench/feed.py [--rounds 5] [--rows 1024] [--barrier 512]

One engine runs both in every round, in the order of the file, so that nothing but the feed differs. The rows count on
from numbers of their own, for as many tokens as a long-tailed mix gives them. Prints the median of the rounds' ratios;
adds raw figures to bench/results/feed.csv.
"""

import argparse
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from serving.engine_config import Batching, EngineConfig, PagedCache
from serving.engines.machine import settled, this_machine
from serving.engines.vllm_engine import VllmEngine
from serving.environment import settle
from serving.records import Request

sys.path.insert(0, str(Path(__file__).parent))
from counting import counting
from sheet import add_rows, taken_on

MODEL = Path("models/smollm2-135m-instruct")
RESULTS = Path("bench/results/feed.csv")
SLOTS, KV_GIB, PROMPT_TOKENS, CONTEXT_TOKENS = 128, 2.0, 24, 512
MEDIAN_TOKENS, SPREAD, MOST_TOKENS = 8, 1.2, 384  # of a log-normal length


@dataclass(frozen=True, slots=True)
class Run:
    feed: str
    round: int
    seconds: float
    output_tokens: int


def main() -> int:
    parser = argparse.ArgumentParser(description="What a continuous feed is worth over barriers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--barrier", type=int, default=512)
    options = parser.parse_args()
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    cache = PagedCache(memory_gib=KV_GIB, prefix_caching=False)
    config = EngineConfig(cache=cache, batching=Batching(SLOTS), max_model_len=CONTEXT_TOKENS)
    engine = VllmEngine(MODEL, settled(config, machine), machine, Path(".gristmill/bench.log"), lambda: False, None)
    runs = []
    with engine:
        one_run(engine, rows_of(0, SLOTS), "warm-up", 0, SLOTS)
        for number in range(options.rounds):
            rows = rows_of(1 + number, options.rows)
            for feed, at_a_time in (("barriers", options.barrier), ("continuous", len(rows))):
                runs.append(one_run(engine, rows, feed, number, at_a_time))
                add_rows(RESULTS, [{**taken_on(machine), "rows": options.rows, **columns(runs[-1])}])
                print(f"  round {number + 1}  {feed:10} {runs[-1].seconds:7.1f} s", flush=True)
    print(f"{machine.cpu}, {len(machine.cores)} cores, {datetime.now(UTC):%Y-%m-%d}; vLLM, {SLOTS} sequences at once")
    show(runs, options.barrier)
    return 0


def rows_of(number: int, count: int) -> list[Request]:
    draw = random.Random(number)
    lengths = (min(MOST_TOKENS, max(1, round(MEDIAN_TOKENS * draw.lognormvariate(0.0, SPREAD)))) for _ in range(count))
    return list(counting(MODEL, ((draw.randrange(1000), PROMPT_TOKENS, tokens) for tokens in lengths)))


def one_run(engine: VllmEngine, rows: list[Request], feed: str, number: int, at_a_time: int) -> Run:
    began = time.monotonic()
    output_tokens = 0
    for start in range(0, len(rows), at_a_time):
        for done in engine.run(iter(rows[start : start + at_a_time])):
            output_tokens += done.usage.completion_tokens
    return Run(feed, number, time.monotonic() - began, output_tokens)


def show(runs: list[Run], barrier: int) -> None:
    by_feed = {feed: [run for run in runs if run.feed == feed] for feed in ("barriers", "continuous")}
    for feed, own in by_feed.items():
        speed = statistics.median(run.output_tokens / run.seconds for run in own)
        print(f"{feed:12} {speed:7.0f} output tok/s  {statistics.median(run.seconds for run in own):7.1f} s")
    each = [apart.seconds / at_once.seconds for apart, at_once in zip(*by_feed.values(), strict=True)]
    print(
        f"continuous over {barrier}-row barriers: {statistics.median(each):.2f}  ({min(each):.2f} to {max(each):.2f})"
    )


def columns(run: Run) -> dict[str, object]:
    return {**asdict(run), "seconds": f"{run.seconds:.2f}"}


if __name__ == "__main__":
    sys.exit(main())
