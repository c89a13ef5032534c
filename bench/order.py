"""What each order of a lane is worth, simulated: prefix hits of a small cache, and when the lane ends.

`make bench` runs it, prints a line for each table and policy and adds the raw figures to bench/results/order.csv.
Nothing is executed but the planning itself: hits and makespans are those of optimizer.kv_simulation.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from optimizer.kv_simulation import Engine, budget_blocks, simulate
from optimizer.order import policies
from optimizer.order.tree import BLOCK_TOKENS, Places
from optimizer.output_lengths import UNKNOWN, expected_output_tokens
from serving.engines.machine import Machine, this_machine

sys.path.insert(0, str(Path(__file__).parent))
from order_tables import MAX_TOKENS, TABLES, Table, make
from sheet import add_rows, taken_on, where

RESULTS = Path("bench/results/order.csv")
ROWS, SLOTS, KV_SHARE = 2000, 64, 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    table: str
    policy: str
    hit_share: float  # with room for KV_SHARE of the distinct prompt blocks
    hit_share_unbounded: float
    makespan_to_arrival: float  # in that room, of the time that arrival takes
    makespan_to_least: float  # with room for everything, of max(work / slots, longest)
    preemptions: int
    plan_s_per_10k_rows: float


def policies_of(table: Table, slots: int) -> dict[str, Callable[[], Places]]:
    lengths = np.array(table.output_tokens)
    return {
        "arrival": lambda: policies.arrival(len(lengths)),
        "row-sort": lambda: policies.row_sort(table.prompts),
        "system-hash": lambda: policies.system_hash(table.systems),
        "bucketed": lambda: policies.bucketed(table.prompts),
        "longest-first": lambda: policies.longest_first(lengths),
        "prefix": lambda: policies.prefix(table.prompts),
        "prefix+longest": lambda: policies.prefix_longest(table.prompts, lengths, slots),
        "prefix+foretold": lambda: policies.prefix_longest(table.prompts, foretold(table), slots),
    }


def foretold(table: Table) -> Places:
    """Lengths as a running lane expects them: quantiles of the tenth of each prefix group that has finished."""
    observed = np.full(len(table.prompts), UNKNOWN)
    finished = np.random.default_rng(0).choice(len(observed), len(observed) // 10, replace=False)
    observed[finished] = np.array(table.output_tokens)[finished]
    return expected_output_tokens(policies.tree_of(table.prompts), np.full(len(observed), MAX_TOKENS), observed)


def main() -> int:
    machine = this_machine()
    print(f"{where(machine)}; {ROWS} rows a table, {SLOTS} slots; simulated")
    print(f"{'':18} {'':15} {'hits at 5 %':>11} {'unbounded':>9} {'time':>6} {'end':>6} {'s/10k rows':>10}")
    measured = []
    for name in TABLES:
        for one in measure(name):
            print(
                f"{one.table:18} {one.policy:15} {one.hit_share:11.3f} {one.hit_share_unbounded:9.3f}"
                f" {one.makespan_to_arrival:6.2f} {one.makespan_to_least:6.3f} {one.plan_s_per_10k_rows:10.2f}"
            )
            measured.append(one)
    print("time: of arrival's, with the small cache; end: steps over the least possible, with room for everything")
    record(machine, measured)
    return 0


def measure(name: str) -> list[Measured]:
    table = make(name, ROWS)
    lengths = table.output_tokens
    small = Engine(SLOTS, budget_blocks(table.prompts, lengths, BLOCK_TOKENS, KV_SHARE))
    least_steps = max(sum(lengths) / SLOTS, max(lengths))
    found: list[Measured] = []
    arrival_s = 0.0
    for policy, planned in policies_of(table, SLOTS).items():
        began = time.perf_counter()
        order = planned().tolist()
        plan_s = time.perf_counter() - began
        bounded = simulate(table.prompts, lengths, order, small)
        unbounded = simulate(table.prompts, lengths, order, Engine(SLOTS, None))
        arrival_s = arrival_s or bounded.makespan_s
        found.append(
            Measured(
                name,
                policy,
                bounded.hit_share,
                unbounded.hit_share,
                bounded.makespan_s / arrival_s,
                unbounded.steps / least_steps,
                bounded.preemptions,
                plan_s * 10_000 / ROWS,
            )
        )
    return found


def record(machine: Machine, measured: list[Measured]) -> None:
    where = {**taken_on(machine), "rows": ROWS, "slots": SLOTS}
    rounded = [
        {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(one).items()}
        for one in measured
    ]
    add_rows(RESULTS, [{**where, **figures} for figures in rounded])


if __name__ == "__main__":
    sys.exit(main())
