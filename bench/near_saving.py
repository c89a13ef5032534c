"""What near-duplicates were foretold to save, held against what they did, where a certificate covers them.

    python bench/near_saving.py [--pairs 600] [--seed 1]

The real model is asked so many published questions twice, in other words ("Answer this: ...", "Please answer this:
..."); `gristmill calibrate` has run it on some of them first, for another run. Prints the job's receipt and what became
of its forecasts; adds raw figures to bench/results/near_saving.csv.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from flows.answer import answer_work
from flows.calibrate import calibrate
from flows.open import open_work
from flows.progress import Lines
from serving.config import Job, parse_job
from serving.engines.machine import this_machine
from serving.environment import settle
from serving.store.ledger import ask, open_ledger

sys.path.insert(0, str(Path(__file__).parent))
from labelled import Labelled, short_tasks
from sheet import add_rows, taken_on, where

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "near_saving.csv"
ASKED = ("Answer this: ", "Please answer this: ")
CALIBRATED_ROWS = 256
MAX_WRONG = 0.45  # the small model gives a third of such pairs two answers; what is looked at here is what a saving is
RECONCILED = """
SELECT factor, predicted, low_90, high_90, measured, off, within FROM reconciled
WHERE made = 'plan' AND lane IS NULL ORDER BY factor
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="What near-duplicates were foretold to save, and did.")
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    settle(Path(".gristmill").resolve())
    machine = this_machine()
    print(f"{where(machine)}; {options.pairs} pairs, seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="near-saving-") as scratch:
        job, progress = job_of(Path(scratch), options.pairs, options.seed), Lines(None)
        print(calibrate(lambda: open_work(job, Path(scratch) / "calibrated", progress), CALIBRATED_ROWS))
        receipt = answer_work(open_work(job, Path(scratch) / "runs", progress))
        print(f"\n{receipt}\n")
        with open_ledger(receipt.run.folder.parent) as ledger:
            found = ask(ledger, RECONCILED)
    for factor, predicted, low, high, measured, off, within in found.rows:
        print(f"{factor:15} foretold {predicted:.6f} ({low:.6f} to {high:.6f}), was {measured:.6f}: {off:+.1%}")
        figures = {"predicted": predicted, "low_90": low, "high_90": high, "measured": measured, "within": within}
        which = {"pairs": options.pairs, "seed": options.seed, "max_wrong": MAX_WRONG, "factor": factor}
        add_rows(RESULTS, [{**taken_on(machine), **which, **figures}])


def job_of(folder: Path, pairs: int, seed: int) -> Job:
    rows = asked_twice(short_tasks(ROOT / ".gristmill" / "wheels", pairs, seed), seed)
    lines = (
        {"custom_id": str(number), "body": {"messages": messages, "max_tokens": 4, "temperature": 0}}
        for number, messages in enumerate(rows)
    )
    (folder / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sections = {
        "dataset": {"path": str(folder / "in.jsonl")},
        "model": {"full": str(ROOT / "models" / "smollm2-135m-instruct")},
        "reuse": {"semantic": True, "embedder": str(ROOT / "models" / "all-minilm-l6-v2")},
        "quality": {"max_wrong": MAX_WRONG, "judge": "normalised", "repeats": 0},
        "price": {"hardware": "aws/c7a.large"},
    }
    return parse_job(sections, "job")


def asked_twice(rows: list[Labelled], seed: int) -> list[list[dict[str, str]]]:
    found = [
        [*row.messages[:-1], {"role": "user", "content": f"{words}{row.prompt}"}] for row in rows for words in ASKED
    ]
    random.Random(seed).shuffle(found)
    return found


if __name__ == "__main__":
    main()
