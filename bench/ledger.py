"""How long each named question to the ledger takes, over the runs in a folder: such as what bench/scale.py leaves.

    python bench/scale.py 1000000 --folder FOLDER
    python bench/ledger.py FOLDER/runs

Each is asked as any DuckDB client would ask it, of ledger.duckdb; the median of five times, and the slowest. Making the
file, and having every hash checked, is told apart.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import duckdb

from serving.engines.machine import this_machine
from serving.store.ledger import named_queries, open_ledger, write_ledger

sys.path.insert(0, str(Path(__file__).parent))
from sheet import where

TIMES = 5


def main() -> int:
    parser = argparse.ArgumentParser(description="How long each named question to the ledger takes.")
    parser.add_argument("runs", type=Path)
    options = parser.parse_args()
    machine = this_machine()
    began = time.monotonic()
    with open_ledger(options.runs):
        checked_s = time.monotonic() - began
    began = time.monotonic()
    file = write_ledger(options.runs)
    written_s = time.monotonic() - began
    with duckdb.connect(str(file), read_only=True, config={"threads": len(machine.cores)}) as ledger:
        rows = ledger.execute("SELECT count(*) FROM rows").fetchone()
        took = {query.name: timed(ledger, query.sql) for query in named_queries().values()}
    print(f"{where(machine)}; {rows[0] if rows else 0:,} rows")
    print(f"every hash checked, views made: {checked_s:.2f} s; the file: {written_s:.2f} s")
    for name, each in sorted(took.items(), key=lambda one: -statistics.median(one[1])):
        print(f"{name:18} {statistics.median(each):6.3f} s  {max(each):6.3f}")
    return 0


def timed(ledger: duckdb.DuckDBPyConnection, sql: str) -> list[float]:
    """To the first hundred rows of the answer: more, nobody reads."""
    found = []
    for _ in range(TIMES):
        began = time.monotonic()
        ledger.execute(sql).fetchmany(100)
        found.append(time.monotonic() - began)
    return found


if __name__ == "__main__":
    sys.exit(main())
