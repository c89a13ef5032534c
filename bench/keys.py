"""How long it takes to find equal keys among ever so many, and in how much memory: as collapse does, without the rest.

    python bench/keys.py 100000000 [--folder DIR]

Keys are made up, 32 bytes each; every tenth row has the key of an earlier one that is drawn at random. What it takes to
make them is told apart. The folder holds what memory does not, some 60 bytes a row. Each row's representative is held
against the one that is known. Adds raw figures to bench/results/keys.csv.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from optimizer.collapse import Keys, Rows
from optimizer.equal_keys import Keyed, representatives
from serving.engines.machine import this_machine

sys.path.insert(0, str(Path(__file__).parent))
from sheet import add_rows, taken_on, where

RESULTS = Path(__file__).parent / "results" / "keys.csv"
PART_ROWS = 10_000  # as admission writes them
EVERY = 10  # of so many rows the last repeats another
LIMIT_MIB = 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="How long it takes to find equal keys, and in how much memory.")
    parser.add_argument("rows", type=int, nargs="?", default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where keys wait on disk (default: the system's temporary one)")
    options = parser.parse_args()
    machine = this_machine()
    began = time.monotonic()
    for _ in parts(options.rows):
        pass
    made_s = time.monotonic() - began
    before_mib, began = peak_mib(), time.monotonic()
    rows = 0
    for block in representatives(parts(options.rows), partial(tempfile.TemporaryFile, dir=options.folder)):
        starts = range(rows, rows + len(block.rows), PART_ROWS)
        known = np.concatenate([firsts(start, min(PART_ROWS, options.rows - start)) for start in starts])
        if not np.array_equal(block.first, known):
            raise SystemExit(f"rows {rows} to {rows + len(known)}: not the representatives that are known")
        rows += len(known)
    found_s = time.monotonic() - began - made_s
    print(
        f"{where(machine)}; {rows} keys, {rows // EVERY} of them repeats, all found: {found_s:.0f} s,"
        f" {found_s / rows * 1e6:.2f} us a key, {made_s:.0f} s to make them; peak {peak_mib():.0f} MiB"
        f" ({before_mib:.0f} before)"
    )
    figures = {"rows": rows, "found_s": round(found_s, 1), "made_s": round(made_s, 1), "peak_mib": round(peak_mib())}
    add_rows(RESULTS, [{**taken_on(machine), **figures}])
    return 0 if peak_mib() <= LIMIT_MIB else 1


def parts(rows: int) -> Iterator[Keyed]:
    for start in range(0, rows, PART_ROWS):
        first = firsts(start, min(PART_ROWS, rows - start))
        yield Keyed(np.arange(start, start + len(first)), keys(first), np.ones(len(first), np.bool_))


def firsts(start: int, count: int) -> Rows:
    """Of each row the first with its key: itself, or an earlier one that repeats none."""
    rows = np.arange(start, start + count)
    drawn = np.random.default_rng(start).integers(0, np.maximum(rows, 1))
    return np.where(rows % EVERY == EVERY - 1, drawn - (drawn % EVERY == EVERY - 1), rows)


def keys(first: Rows) -> Keys:
    """As even as a sha256, and made sooner: a finalizer whose every bit rests on every bit of the row."""
    words = first[:, None].astype(np.uint64) * np.uint64(4) + np.arange(4, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
