"""What a GPU was measured to do, beside what the planner says of it, and beside vLLM's own loop.

    python bench/gpu_score.py [bench/results/gpu.csv]

The rows are bench/gpu.py's. None of them was known when the constants that the planner ships were fitted.
"""

import csv
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.planner.predict import predict_all

RESULTS = Path("bench/results/gpu.csv")
OURS, THEIRS = "gristmill", "LLM.generate"
TOGETHER = "-together"  # steps in the process that takes and gives rows: what a GPU is not run with
Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Scored:
    row: Row
    predicted: float
    low_90: float
    high_90: float

    @property
    def measured(self) -> float:
        return float(self.row["value"])

    @property
    def off(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def within(self) -> bool:
        return self.low_90 <= self.measured <= self.high_90


def main() -> int:
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    scored = list(predicted(rows))
    print(f"{'setup':19} {'loop':12} {'in':>5} {'out':>4} {'requests':>12} {'out tokens/s':>13} {'predicted':>10}")
    for one in scored:
        bounds = "" if one.within else "  out of its bounds"
        print(f"{named(one.row)} {one.measured:13.0f} {one.predicted:10.0f} {one.off:+5.0%}{bounds}")
    print()
    for setup in dict.fromkeys((one.row["setup"], one.row["loop"]) for one in scored):
        summarize(setup, [one for one in scored if (one.row["setup"], one.row["loop"]) == setup])
    print(f"\n{'to LLM.generate':19} {'':12} {'in':>5} {'out':>4} {'requests':>12} {'apart':>6} {'together':>9}")
    for row, apart, together in compared(rows):
        print(f"{named(row)} {apart:>6} {together:>9}")
    return 0


def predicted(rows: Sequence[Row]) -> Iterator[Scored]:
    for row, told in zip(rows, predict_all(rows), strict=True):
        assert told.predicted is not None, told.reason
        assert told.low_90 is not None
        assert told.high_90 is not None
        yield Scored(row, told.predicted, told.low_90, told.high_90)


def named(row: Row) -> str:
    return f"{row['setup']:19} {row['loop']:12} {row['isl']:>5} {row['osl']:>4} {row['concurrency_or_batch']:>12}"


def summarize(setup: tuple[str, str], own: Sequence[Scored]) -> None:
    sizes = [abs(one.off) for one in own]
    print(f"{setup[0]:19} {setup[1]:12} {len(own):2} rows, off by {statistics.mean(sizes):5.1%} in the mean and"
          f" {max(sizes):5.1%} at most; {sum(one.within for one in own)} within their 90 % bounds")  # fmt: skip


def compared(rows: Sequence[Row]) -> Iterator[tuple[Row, str, str]]:
    """Each load that vLLM's own loop ran, and ours as ratios to it."""
    ours = {key_of(row, row["setup"]): row for row in rows if row["loop"] == OURS}
    for row in rows:
        if row["loop"] == THEIRS:
            names = (row["setup"], row["setup"] + TOGETHER)
            apart, together = (ratio(ours.get(key_of(row, name)), row) for name in names)
            yield row, apart, together


def key_of(row: Row, setup: str) -> tuple[str, ...]:
    return setup, row["isl"], row["osl"], row["concurrency_or_batch"]


def ratio(ours: Row | None, theirs: Row) -> str:
    return "" if ours is None else f"{float(ours['value']) / float(theirs['value']):.2f}"


if __name__ == "__main__":
    sys.exit(main())
