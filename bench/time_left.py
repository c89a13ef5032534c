"""How true the time left is that a running job shows, a fifth of the way and later.

    python bench/time_left.py [--rounds 3] [JOB.toml]

Runs the job again and again, each time anew, and holds what it told at 20, 40, 60 and 80 % of its rows against when its
last row was answered. Two jobs where none is named: the sample, and a lane of answers whose lengths have a long tail.
The machine's engines are known to forecasts as far as they have run here before. Adds raw figures to
bench/results/time_left.csv.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from flows.answer import answer_work
from flows.open import open_work
from flows.pace import Ahead, Pace, Tell
from flows.progress import Silent
from serving.config import Job, load_job, parse_job
from serving.engines.machine import Machine, this_machine
from serving.environment import settle
from serving.records import Interval, Usage

sys.path.insert(0, str(Path(__file__).parent))
from sheet import add_rows, taken_on, where

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "time_left.csv"
SHARES = (0.2, 0.4, 0.6, 0.8)
ROWS, MOST_TOKENS = 500, 256


@dataclass
class Watched(Silent):
    """Shows nothing, and notes what would have been shown when each share of the rows was done."""

    pace: Pace = field(default_factory=Pace)
    told: dict[float, tuple[float, Interval]] = field(default_factory=dict)
    ended_s: float = 0.0

    def start(self, rows: int, done: int) -> None:
        self.pace.rows, self.pace.done = rows, done

    def begin(self, ahead: Ahead) -> None:
        self.pace.begin(ahead)

    def more(self, ahead: Ahead) -> None:
        self.pace.more(ahead)

    def advance(self, rows: int, usage: Usage, most_tokens: int, tell: Tell) -> None:
        self.pace.advance(rows, usage, most_tokens)
        self.ended_s = time.monotonic()
        for share in SHARES:
            if share not in self.told and self.pace.done >= share * self.pace.rows:
                left = self.pace.left_s(tell())
                if left is not None:
                    self.told[share] = (self.ended_s, left)


def main() -> None:
    parser = argparse.ArgumentParser(description="How true the time left is that a running job shows.")
    parser.add_argument("job", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    print(where(machine))
    print(f"{'job':12} {'round':>5} {'of rows':>8} {'told s':>8} {'[90 %]':>16} {'was s':>8} {'off':>7}")
    with tempfile.TemporaryDirectory(prefix="time-left-") as scratch:
        if options.job is not None:
            jobs = {options.job.stem: load_job(options.job)}
        else:
            jobs = {"sample": load_job(ROOT / "datasets" / "sample.toml"), "long-tailed": long_tailed(Path(scratch))}
        for number in range(options.rounds):
            for name, job in jobs.items():
                seen = Watched()
                answer_work(open_work(job, Path(scratch) / f"{name}-{number}", seen))
                show(name, number, seen, machine)


def show(name: str, number: int, seen: Watched, machine: Machine) -> None:
    for share, (at_s, told) in sorted(seen.told.items()):
        was = seen.ended_s - at_s
        off = told.value / was - 1 if was else 0.0
        between = f"{told.low_90:.0f} to {told.high_90:.0f}"
        print(
            f"{name:12} {number + 1:5} {share:8.0%} {told.value:8.1f} {between:>16} {was:8.1f} {off:+7.1%}", flush=True
        )
        figures = {"share": share, "told_s": f"{told.value:.2f}", "low_90_s": f"{told.low_90:.2f}",
                   "high_90_s": f"{told.high_90:.2f}", "was_s": f"{was:.2f}"}  # fmt: skip
        add_rows(RESULTS, [{**taken_on(machine), "job": name, "round": number + 1, **figures}])


def long_tailed(folder: Path) -> Job:
    """Open questions, whose answers a small model ends when it likes: some after a few words, some never."""
    generator = random.Random(1)
    subjects = ("rain", "bread", "iron", "salt", "owls", "chess", "sleep", "glass", "trains", "maps", "bees", "tea")
    asks = ("Name one fact about {}.", "What is {}?", "Write a story about {}.", "List {} in three words.",
            "Is {} older than writing? Answer yes or no.", "Explain {} to a child.")  # fmt: skip
    lines = (
        {"custom_id": str(row), "body": {"messages": [{"role": "user", "content": f"({row}) {ask}"}]}}
        for row in range(ROWS)
        for ask in [generator.choice(asks).format(generator.choice(subjects))]
    )
    (folder / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sections = {
        "dataset": {"path": str(folder / "in.jsonl")},
        "model": {"full": str(ROOT / "models" / "smollm2-135m-instruct")},
        "sampling": {"max_tokens": MOST_TOKENS},
        "price": {"hardware": "aws/c7a.large"},
    }
    return parse_job(sections, "job")


if __name__ == "__main__":
    main()
