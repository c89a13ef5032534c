"""The quantized model beside the full one on prompts with published answers: what it gets wrong, and what it saves.

    python bench/routing.py [--rows 2000] [--parts 4] [--seed 1] [--hardware aws/c7a.large] [--itself]

Each model answers every part as a job of its own, in turn, and the full one once more with another batch, whose
disagreement with itself is the noise floor. Flips are counted against the published answers, both ways; agreement as a
job's judge sees it. Then what a job with route.to_quantized = "certified" would promise of these answers, by the same
looks as it makes, and what such a job does on this machine by itself, once `gristmill calibrate` knows both engines;
--itself shows that alone. Adds raw figures to bench/results/routing.csv.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.answer import answer
from flows.calibrate import calibrate
from flows.open import open_work
from flows.progress import Lines, Silent
from optimizer.catalogue.catalogue import price_of_hardware
from optimizer.certificate import Certificate, audits_needed, drawn
from optimizer.judges import normalised
from serving.config import Job, parse_job
from serving.engines.machine import Machine, this_machine
from serving.environment import settle
from serving.store.ledger import ask, open_ledger

sys.path.insert(0, str(Path(__file__).parent))
from labelled import Labelled, short_tasks
from sheet import add_rows, taken_on, where

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / ".gristmill" / "wheels"
FULL, QUANTIZED = ROOT / "models" / "smollm2-135m-instruct", ROOT / "models" / "smollm2-135m-instruct-w8a8"
RESULTS = Path(__file__).parent / "results" / "routing.csv"
MAX_TOKENS = 12
DELTA = 0.05
CALIBRATED_ROWS = 256
CONTENDERS = {"full": (FULL, 1.0), "quantized": (QUANTIZED, 1.0), "full again": (FULL, 0.375)}  # model, of a full batch


@dataclass(frozen=True, slots=True)
class Ran:
    texts: dict[int, str]
    engine_s: float
    start_up_s: float
    usd: float


def main() -> None:
    parser = argparse.ArgumentParser(description="The quantized model beside the full one.")
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hardware", default="aws/c7a.large", help="whose price an hour here has")
    parser.add_argument("--itself", action="store_true", help="only what a certified job does by itself")
    options = parser.parse_args()
    settle(Path(".gristmill").resolve())
    rows = short_tasks(WHEELS, options.rows, options.seed)
    machine, usd_per_hour = this_machine(), price_of_hardware(options.hardware).usd_per_hour
    assert usd_per_hour is not None
    print(f"{where(machine)}; {len(rows)} prompts, seed {options.seed}; {options.hardware}")
    if not options.itself:
        compare(rows, machine, options, usd_per_hour)
    by_itself(rows, options.hardware)


def compare(rows: Sequence[Labelled], machine: Machine, options: argparse.Namespace, usd_per_hour: Decimal) -> None:
    found: dict[str, list[Ran]] = {name: [] for name in CONTENDERS}
    for part, places in enumerate(np.array_split(np.arange(len(rows)), options.parts)):
        for name, (model, share) in CONTENDERS.items():
            engine = {"kind": "vllm", "max_num_seqs": round(share * machine.usual_batching.max_num_seqs)}
            ran = run([rows[place] for place in places], places.tolist(), model, engine, options.hardware)
            found[name].append(ran)
            print(
                f"  part {part + 1}  {name:10}  {ran.engine_s:7.1f} s of engine, {ran.start_up_s:5.1f} s to start",
                flush=True,
            )
            one = {"contender": name, "part": part, "rows": len(places), "engine_s": f"{ran.engine_s:.2f}"}
            add_rows(
                RESULTS, [{**taken_on(machine), **one, "start_up_s": f"{ran.start_up_s:.2f}", "usd": f"{ran.usd:.6f}"}]
            )
    texts = {name: {row: text for ran in parts for row, text in ran.texts.items()} for name, parts in found.items()}
    quality(rows, texts)
    certificates(rows, texts, options.seed)
    savings(found, usd_per_hour)


def run(rows: Sequence[Labelled], numbers: Sequence[int], model: Path, engine: dict[str, Any], hardware: str) -> Ran:
    with tempfile.TemporaryDirectory(prefix="routing-") as folder:
        asked = job(Path(folder), rows, numbers, {"full": str(model)}, engine, hardware)
        receipt = answer(asked, Path(folder) / "runs", Silent())
        answers = (receipt.run.export / "results.jsonl").read_text().splitlines()
        [lane] = receipt.lanes
        usd = float(lane["rows_usd"] + lane["start_up_usd"])
        return Ran(dict(map(_answer, answers)), lane["engine_s"], lane["start_up_s"], usd)


def job(
    folder: Path,
    rows: Sequence[Labelled],
    numbers: Sequence[int],
    model: dict[str, str],
    engine: dict[str, Any],
    hardware: str,
    **more: Any,
) -> Job:
    lines = (
        {"custom_id": str(number), "body": {"messages": row.messages, "max_tokens": MAX_TOKENS, "temperature": 0}}
        for number, row in zip(numbers, rows, strict=True)
    )
    (folder / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sections = {
        "dataset": {"path": str(folder / "in.jsonl")},
        "model": model,
        "engine": engine,
        "price": {"hardware": hardware},
        **more,
    }
    return parse_job(sections, "job")


def _answer(line: str) -> tuple[int, str]:
    told = json.loads(line)
    return int(told["custom_id"]), told["response"]["body"]["choices"][0]["message"]["content"]


def right(text: str, label: str) -> bool:
    """Whether an answer gives the published one: as a whole, or as how it begins."""
    words = text.strip().strip("\"'*`").split("\n")[0]
    return (
        normalised(words, label)
        or words.casefold().startswith(f"{label.casefold()} ")
        or normalised(words[: len(label)], label)
    )


def quality(rows: Sequence[Labelled], texts: dict[str, dict[int, str]]) -> None:
    good = {
        name: np.array([right(found.get(row, ""), one.label) for row, one in enumerate(rows)])
        for name, found in texts.items()
    }
    for name, flags in good.items():
        print(f"{name:10}  {flags.mean():6.1%} right")
    lost, gained = int((good["full"] & ~good["quantized"]).sum()), int((~good["full"] & good["quantized"]).sum())
    print(
        f"flips: {lost} right to wrong, {gained} wrong to right, of {len(rows)} (McNemar p {mcnemar(lost, gained):.2f})"
    )
    for name in ("quantized", "full again"):
        share = disagrees(texts, name).mean()
        print(f"{name:10}  says something else than full in {share:6.1%} of rows (judge: normalised)")


def disagrees(texts: dict[str, dict[int, str]], name: str) -> NDArray[np.bool_]:
    full, other = texts["full"], texts[name]
    return np.array([not normalised(other[row], full[row]) for row in sorted(full)])


def mcnemar(lost: int, gained: int) -> float:
    """The exact two-sided test (McNemar 1947): were flips as likely either way, so uneven or more uneven."""
    flips, fewer = lost + gained, min(lost, gained)
    tail = sum(math.comb(flips, count) for count in range(fewer + 1)) / 2**flips
    return min(1.0, 2 * tail)


def certificates(rows: Sequence[Labelled], texts: dict[str, dict[int, str]], seed: int) -> None:
    """Of regret (the full model right, the quantized one not) and of any other answer, from audits of some rows."""
    good = {
        name: np.array([right(texts[name][row], one.label) for row, one in enumerate(rows)])
        for name in ("full", "quantized")
    }
    for kind, wrong in (
        ("regret", good["full"] & ~good["quantized"]),
        ("any other answer", disagrees(texts, "quantized")),
    ):
        for alpha in (0.02, 0.05, 0.1):
            audited = drawn(np.arange(len(rows)), min(len(rows) // 4, 3 * audits_needed(len(rows), alpha, DELTA)), seed)
            found = Certificate(len(rows), len(audited), int(wrong[audited].sum()), alpha, DELTA)
            said = "certified" if found.certified else "not certified"
            print(
                f"{kind}, at most {alpha:4.0%}: {said} ({found.audited} audited, {found.wrong} wrong:"
                f" at most {found.most_wrong / len(rows):.1%}; it is {wrong.mean():.1%})"
            )


def savings(found: dict[str, list[Ran]], usd_per_hour: Decimal) -> None:
    """Of all rows on the quantized model against all on the full one; the interval is Student's over the parts."""
    ratios = [full.engine_s / cheap.engine_s for full, cheap in zip(found["full"], found["quantized"], strict=True)]
    mean, half = statistics.mean(ratios), _half(ratios)
    seconds = sum(full.engine_s for full in found["full"]) - sum(cheap.engine_s for cheap in found["quantized"])
    start_s = statistics.mean(ran.start_up_s for ran in found["quantized"])
    net_s = seconds - start_s
    usd = net_s / 3600 * float(usd_per_hour)
    print(f"the quantized model's speed is {mean:.2f} times the full one's ({mean - half:.2f} to {mean + half:.2f})")
    print(
        f"all rows on it save {seconds:.0f} s of engine, {net_s:.0f} s after a start-up of {start_s:.0f} s, ${usd:.6f}"
    )


def _half(ratios: Sequence[float]) -> float:
    from scipy.stats import t

    if len(ratios) < 2:
        return math.nan
    return float(t.ppf(0.975, len(ratios) - 1)) * statistics.stdev(ratios) / math.sqrt(len(ratios))


def by_itself(rows: Sequence[Labelled], hardware: str) -> None:
    """What a certified job does on a machine that knows what both models take."""
    with tempfile.TemporaryDirectory(prefix="routing-") as scratch:
        folder, progress = Path(scratch), Lines(None)
        asked = job(
            folder, rows, range(len(rows)), {"full": str(FULL), "quantized": str(QUANTIZED)}, {"kind": "vllm"},
            hardware, route={"to_quantized": "certified"}, quality={"max_wrong": 0.05, "judge": "normalised"},
        )  # fmt: skip
        print(calibrate(lambda: open_work(asked, folder / "calibrated", progress), CALIBRATED_ROWS))
        receipt = answer(asked, folder / "runs", progress)
        print(f"\n{receipt}")
        with open_ledger(receipt.run.folder.parent) as ledger:
            lanes = ask(ledger, "SELECT lane, count(*) FROM rows GROUP BY lane").rows
    print(f"a certified job by itself: {dict(lanes)}")


if __name__ == "__main__":
    main()
