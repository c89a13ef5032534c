"""How long it takes to plan a lane of any size, and how much memory: 100 tokens a row, 2,000 templates.

python bench/order_scale.py 1000000
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from optimizer.order.plan import prefix_longest
from optimizer.order.tree import PrefixTree

PART_ROWS, ROW_TOKENS, SYSTEM_TOKENS, TEMPLATE_TOKENS, TEMPLATES, SLOTS = 10_000, 100, 20, 44, 2_000, 64


def main() -> int:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    began = time.process_time()
    for _ in parts(rows):
        pass
    made_s = time.process_time() - began  # what it takes to make the rows is not what it takes to plan them
    before_mib = peak_mib()
    began, wall = time.process_time(), time.monotonic()
    tree = PrefixTree.of_columns(parts(rows), tempfile.TemporaryFile)
    tree_s = time.process_time() - began - made_s
    lengths = np.minimum(np.random.default_rng(2).lognormal(4, 1, rows), 1024).astype(np.int64) + 1
    began = time.process_time()
    order = prefix_longest(tree, lengths, SLOTS)
    plan_s = time.process_time() - began
    print(
        f"{rows} rows of {ROW_TOKENS} tokens: tree {tree_s:.1f} s, plan {plan_s:.1f} s of CPU,"
        f" {time.monotonic() - wall:.1f} s in all; {len(tree.parent)} nodes; peak {peak_mib():.0f} MiB"
        f" ({before_mib:.0f} before)"
    )
    return 0 if len(order) == rows else 1


def parts(rows: int) -> Iterator[pa.ListArray]:
    draw = np.random.default_rng(1)
    system = draw.integers(0, 49_152, SYSTEM_TOKENS, np.int32)
    templates = draw.integers(0, 49_152, (TEMPLATES, TEMPLATE_TOKENS), np.int32)
    for start in range(0, rows, PART_ROWS):
        count = min(PART_ROWS, rows - start)
        tokens = draw.integers(0, 49_152, (count, ROW_TOKENS), np.int32)
        tokens[:, :SYSTEM_TOKENS] = system
        tokens[:, SYSTEM_TOKENS : SYSTEM_TOKENS + TEMPLATE_TOKENS] = templates[draw.integers(0, TEMPLATES, count)]
        yield pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * ROW_TOKENS), tokens.ravel())


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
