"""What the order of a lane is worth on this machine's vLLM, with a KV cache that holds a twentieth of the prompts.

    python bench/order_engine.py [--rounds 5]

One engine runs every policy in every round; a round has prompts of its own, and each run of it a first token of its
own, so that none finds another's blocks. Prints medians of the rounds' ratios; adds raw figures to
bench/results/order_engine.csv.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from optimizer.kv_simulation import chained_blocks, distinct_blocks
from optimizer.order import policies
from optimizer.order.tree import Places
from serving.engine_config import Batching, EngineConfig, PagedCache
from serving.engines.machine import GIB, Machine, kv_bytes_per_number, settled, this_machine
from serving.engines.vllm_engine import VllmEngine
from serving.environment import settle
from serving.models.folder import ModelFolder
from serving.models.shape import shape_of
from serving.records import Endpoint, Request, Sampling

sys.path.insert(0, str(Path(__file__).parent))
from sheet import add_rows, taken_on, where

MODEL = Path("models/smollm2-135m-instruct")
RESULTS = Path("bench/results/order_engine.csv")
BLOCK_TOKENS, SLOTS, KV_SHARE = 32, 8, 0.05
# The shape of vllm#13762 at a fourteenth of its length: eight prompts share a long beginning, and come in no order.
GROUPS, SHARE, SYSTEMS = 24, 8, 4
SYSTEM_TOKENS, SHARED_TOKENS, OWN_TOKENS, MAX_OUTPUT_TOKENS = 31, 96, 16, 40
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    prompt: Tokens  # but for its first token
    system: str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Run:
    policy: str
    round: int
    seconds: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


def main() -> int:
    parser = argparse.ArgumentParser(description="What the order of a lane is worth on this machine's vLLM.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    config = replace(EngineConfig(), batching=Batching(SLOTS), max_model_len=6 * BLOCK_TOKENS)
    memory_gib = kv_bytes(kv_bytes_per_number(settled(config, machine))) / GIB
    cache = PagedCache(block_tokens=BLOCK_TOKENS, memory_gib=memory_gib)
    engine = VllmEngine(
        MODEL,
        settled(replace(config, cache=cache), machine),
        machine,
        Path(".gristmill/bench.log"),
        lambda: False,
        None,
    )
    with engine:
        one_run(engine, "arrival", rounds, first_token=0)  # the first steps of an engine are slower
        runs: list[Run] = []
        for number in range(rounds):
            for at, policy in enumerate(POLICIES):
                runs.append(one_run(engine, policy, number, first_token=1 + number * len(POLICIES) + at))
                record(machine, runs[-1:])
                print(f"  round {number + 1}  {policy:16} {runs[-1].seconds:7.1f} s", flush=True)
    show(where(machine), runs)
    return 0


def made(number: int) -> list[Row]:
    draw = random.Random(number)
    systems = [words(draw, SYSTEM_TOKENS) for _ in range(SYSTEMS)]
    rows = []
    for group in range(GROUPS):
        shared = systems[group % SYSTEMS] + words(draw, SHARED_TOKENS)
        for _ in range(SHARE):
            length = min(MAX_OUTPUT_TOKENS, max(1, round(draw.lognormvariate(1.5, 0.9))))
            rows.append(Row(shared + words(draw, OWN_TOKENS), str(group % SYSTEMS), length))
    draw.shuffle(rows)
    return rows


def words(draw: random.Random, count: int) -> Tokens:
    return tuple(draw.randrange(1000, 40_000) for _ in range(count))


def order_of(policy: str, rows: list[Row]) -> Places:
    prompts, lengths = [(0, *row.prompt) for row in rows], np.array([row.output_tokens for row in rows])
    return {
        "arrival": lambda: policies.arrival(len(rows)),
        "system-hash": lambda: policies.system_hash([row.system for row in rows]),
        "row-sort": lambda: policies.row_sort(prompts),
        "prefix+longest": lambda: policies.prefix_longest(prompts, lengths, SLOTS, BLOCK_TOKENS),
    }[policy]()


POLICIES = ("arrival", "system-hash", "row-sort", "prefix+longest")


def one_run(engine: VllmEngine, policy: str, number: int, first_token: int) -> Run:
    rows = made(number)
    order = order_of(policy, rows)
    began = time.monotonic()
    usages = [done.usage for done in engine.run(requests(rows, order, first_token))]
    seconds = time.monotonic() - began
    sums = [
        sum(getattr(usage, name) for usage in usages)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
    ]
    return Run(policy, number, seconds, *sums)


def requests(rows: list[Row], order: Places, first_token: int) -> Iterator[Request]:
    for place in order.tolist():
        row = rows[place]
        sampling = Sampling(max_tokens=row.output_tokens)
        yield Request(place, str(place), Endpoint.COMPLETION, (), sampling, (first_token, *row.prompt))


def kv_bytes(number_bytes: int) -> int:
    """Room for KV_SHARE of the distinct blocks of all prompts, and for the block that vLLM keeps empty."""
    block = BLOCK_TOKENS * shape_of(ModelFolder.open(MODEL)).kv_bytes_per_token(number_bytes)
    prompts = [(0, *row.prompt) for row in made(0)]
    half_full = sum(len(prompt) % BLOCK_TOKENS > 0 for prompt in set(prompts))
    distinct = distinct_blocks(chained_blocks(prompts, BLOCK_TOKENS)) + half_full
    return (round(KV_SHARE * distinct) + 1) * block


def show(where: str, runs: list[Run]) -> None:
    print(f"{where}; vLLM, {GROUPS * SHARE} prompts, {SHARE} share a beginning")
    print(f"{'policy':16} {'hit share':>9} {'tok/s':>7} {'s':>7}   {'speed of prefix+longest, median of rounds':>10}")
    ours = [run.seconds for run in runs if run.policy == POLICIES[-1]]
    for policy in POLICIES:
        own = [run for run in runs if run.policy == policy]
        hits = statistics.median(run.cached_tokens / run.prompt_tokens for run in own)
        speed = statistics.median((run.prompt_tokens + run.output_tokens) / run.seconds for run in own)
        ratio = statistics.median(run.seconds / best for run, best in zip(own, ours, strict=True))
        print(f"{policy:16} {hits:9.3f} {speed:7.0f} {statistics.median(run.seconds for run in own):7.1f} {ratio:7.2f}")


def record(machine: Machine, runs: list[Run]) -> None:
    rows = [{**asdict(run), "seconds": f"{run.seconds:.2f}"} for run in runs]
    add_rows(RESULTS, [{**taken_on(machine), **row} for row in rows])


if __name__ == "__main__":
    sys.exit(main())
