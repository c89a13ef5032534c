"""The order of a lane on tables shaped like real ones: prefix hits of a small cache, and when the lane ends."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from optimizer.kv_simulation import Engine, budget_blocks, simulate
from optimizer.order import policies
from optimizer.order.plan import MAX_LOSS, TAIL, late_rows

ROWS, SLOTS, SEEDS = 800, 32, (0,)


def _tables() -> ModuleType:
    """bench/ is a folder of scripts, not a package."""
    spec = spec_from_file_location("order_tables", Path(__file__).parents[2] / "bench" / "order_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["order_tables"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


tables = _tables()
ON_EVERY_TABLE = pytest.mark.parametrize("table", [(name, seed) for name in tables.TABLES for seed in SEEDS], ids=str)


@ON_EVERY_TABLE
def test_ours_finds_what_can_be_found_with_room_for_a_twentieth_of_the_blocks(table: tuple[str, int]) -> None:
    made = tables.make(table[0], ROWS, table[1])
    lengths = np.array(made.output_tokens)
    small = Engine(SLOTS, budget_blocks(made.prompts, made.output_tokens, 16, 0.05))
    ceiling = simulate(made.prompts, made.output_tokens, range(ROWS), Engine(SLOTS, None)).hit_share

    def hit_share(order: np.ndarray) -> float:
        return simulate(made.prompts, made.output_tokens, order.tolist(), small).hit_share

    ours = hit_share(policies.prefix_longest(made.prompts, lengths, SLOTS))
    others = (
        policies.arrival(ROWS),
        policies.system_hash(made.systems),
        policies.row_sort(made.prompts),
        policies.bucketed(made.prompts),
    )
    assert ours >= 0.95 * ceiling
    assert ours >= max(hit_share(order) for order in others) - MAX_LOSS


@ON_EVERY_TABLE
def test_ours_ends_within_a_twentieth_of_the_least_makespan(table: tuple[str, int]) -> None:
    made = tables.make(table[0], ROWS, table[1])
    lengths = np.array(made.output_tokens)
    order = policies.prefix_longest(made.prompts, lengths, SLOTS)
    least = max(lengths.sum() / SLOTS, lengths.max())
    steps = simulate(made.prompts, made.output_tokens, order.tolist(), Engine(SLOTS, None)).steps
    assert steps <= (1 + TAIL) * least
    assert len(late_rows(order, lengths, SLOTS)) == 0
    assert lengths[order[-SLOTS:]].max() <= max(2 * TAIL * least, np.quantile(lengths, 0.75))


@pytest.mark.parametrize("name", tables.TABLES)
def test_fed_as_it_arrives_a_long_tailed_table_ends_later(name: str) -> None:
    made = tables.make(name, ROWS)
    lengths = np.array(made.output_tokens)
    ours, arrived = (
        simulate(made.prompts, made.output_tokens, order.tolist(), Engine(SLOTS, None)).steps
        for order in (policies.prefix_longest(made.prompts, lengths, SLOTS), policies.arrival(ROWS))
    )
    assert ours < arrived
