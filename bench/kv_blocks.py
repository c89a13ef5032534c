"""How far the planner is off on the sizes of KV caches that vLLM logged on others' GPUs.

    python bench/kv_blocks.py [bench/kv_blocks.csv]

Rows are from logs that users published, in issues and repositories, where these tell the GPU, the model, how it was
split, and the share of the memory. Left out were those whose memory others used, or whose GPUs are not all told. No
number of optimizer/planner/memory.py was fitted to them: it counts what is allocated. Prints each row, and the error.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from optimizer.planner.predict import predict_all

ROWS = Path("bench/kv_blocks.csv")


def main() -> int:
    with (Path(sys.argv[1]) if len(sys.argv) > 1 else ROWS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    told = [one.predicted or 0.0 for one in predict_all(rows)]  # what is told not to fit is off by all
    errors = np.array(told) / [float(row["value"]) for row in rows] - 1
    for row, error in zip(rows, errors, strict=True):
        where = f"{row['model'].rpartition('/')[2][:34]:34} {row['gpu'][:20]:20} tp {row['tp']} pp {row['pp']}"
        count = f"{int(row['value']):10,} {row['unit']:6}"
        print(f"{row['engine_version'][:12]:12} {where} {count} {error:+7.1%}  {row['source'][:60]}")
    off = np.abs(errors)
    spread = f"MAPE {off.mean():.1%}  median {np.median(off):.1%}  p90 {np.quantile(off, 0.9):.1%}"
    print(f"KV blocks, {len(rows)} logs: {spread}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
