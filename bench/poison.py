"""What rows that kill the engine cost: the same file clean, and with one row in a hundred bad, three of which kill it.

    python bench/poison.py [--rounds 1] [--rows 600]

A real vLLM is killed at the step that first runs such a row. Every start of an engine costs the same however long the
job is, so beside the loss that was measured the length of a job is printed from which on it is under a tenth. Adds raw
figures to bench/results/poison.csv.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.engines.machine import this_machine

sys.path.insert(0, str(Path(__file__).parent))
from logs import without_redundancy, write
from sheet import add_rows, taken_on, where

HERE = Path(__file__).parent.resolve()
MODEL = Path("models/smollm2-135m-instruct").resolve()
RESULTS = HERE / "results" / "poison.csv"
POISON, KILLERS, MAX_TOKENS, SLOTS = " zqxjkvbw zqxjkvbw", 3, 24, 16
COMMAND = Path(sys.executable).parent / "gristmill"


@dataclass(frozen=True, slots=True)
class Run:
    file: str
    round: int
    wall_s: float
    starts: int
    start_s: float  # each, on average
    answered: int
    errors: int


def main() -> int:
    parser = argparse.ArgumentParser(description="What rows that kill the engine cost.")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=600)
    options = parser.parse_args()
    machine = this_machine()
    with tempfile.TemporaryDirectory(prefix="poison-") as folder:
        python = deadly_python(Path(folder))
        runs = []
        for number in range(options.rounds):
            for file in ("clean", "poisoned"):
                runs.append(one_run(Path(folder), python, file, number, options.rows))
                add_rows(RESULTS, [{**taken_on(machine), "rows": options.rows, **columns(runs[-1])}])
    print(f"{where(machine)}; {options.rows} rows")
    show(runs)
    return 0


def deadly_python(folder: Path) -> Path:
    """An interpreter whose vLLM dies of the poison, with the OpenMP runtime of ours beside it."""
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(POISON, add_special_tokens=False).ids
    (folder / "bin").mkdir()
    (folder / "lib").mkdir()
    runtime = Path(sys.executable).parent.parent / "lib" / "libiomp5.so"
    if runtime.exists():
        (folder / "lib" / runtime.name).symlink_to(runtime)
    python = folder / "bin" / "python"
    worker = HERE / "poisoned_worker.py"
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -P '{worker}' '{json.dumps(tokens)}' \"$@\"\n")
    python.chmod(0o755)
    return python


def one_run(folder: Path, python: Path, file: str, number: int, rows: int) -> Run:
    own = folder / f"{file}-{number}"
    own.mkdir()
    bad = [100 * place for place in range(rows // 100)] if file == "poisoned" else []
    killers, broken = bad[:KILLERS], bad[KILLERS:]
    prompts = enumerate(without_redundancy(rows, number))
    write(own / "prompts.jsonl", (prompt + POISON * (at in killers) for at, prompt in prompts), MAX_TOKENS, "any")
    lines = (own / "prompts.jsonl").read_text().splitlines()
    lines = [line[: len(line) // 2] if at in broken else line for at, line in enumerate(lines)]
    (own / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    (own / "job.toml").write_text(
        f"""
        [dataset]
        path = "prompts.jsonl"
        [model]
        full = "{MODEL}"
        [engine]
        python = "{python}"
        max_num_seqs = {SLOTS}
        max_model_len = 1024
        [price]
        usd_per_hour = 0.1
        """
    )
    began = time.monotonic()
    with (own / "log").open("wb") as log:
        code = subprocess.run([str(COMMAND), "run", "job.toml"], cwd=own, stdout=log, stderr=log).returncode
    wall_s = time.monotonic() - began
    said = (own / "log").read_text(errors="replace")
    (run,) = (own / "runs").glob("*/export")
    answered, errors = (len((run / name).read_text().splitlines()) for name in ("results.jsonl", "errors.jsonl"))
    if answered + errors != rows or errors != len(bad) or code != (1 if bad else 0):
        raise SystemExit(
            f"{file}: {answered} answers + {errors} errors of {rows} rows, exit code {code}:\n{said[-3000:]}"
        )
    query = "SELECT count(*) AS starts, avg(seconds) AS start_s FROM overheads WHERE kind = 'start_up'"
    asked = [str(COMMAND), "costs", "--format", "json", "--sql", query]
    (ledger,) = json.loads(subprocess.run(asked, cwd=own, capture_output=True, check=True).stdout)
    print(f"  round {number + 1}  {file:9} {wall_s:7.1f} s, {answered} answers + {errors} errors", flush=True)
    return Run(file, number, wall_s, ledger["starts"], ledger["start_s"], answered, errors)


def show(runs: list[Run]) -> None:
    lost = []
    for clean, bad in zip(runs[::2], runs[1::2], strict=True):
        lost.append(bad.wall_s - clean.wall_s)
        print(
            f"clean {clean.wall_s:.1f} s; poisoned {bad.wall_s:.1f} s with {bad.starts} starts of {bad.start_s:.1f} s"
        )
        print(f"{lost[-1] / bad.wall_s:.1%} of throughput lost")
    minutes = 9 * statistics.median(lost) / 60
    print(f"{KILLERS} rows that kill: under a tenth of a job that takes over {minutes:.0f} minutes without them")


def columns(run: Run) -> dict[str, object]:
    return {**asdict(run), "wall_s": f"{run.wall_s:.2f}", "start_s": f"{run.start_s:.2f}"}


if __name__ == "__main__":
    sys.exit(main())
