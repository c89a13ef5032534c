"""Which prompts lie near each other in meaning, which of them may not share an answer, and what the search cost."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.embedding import candidates, embedded, heed_limits, kept_vectors, requests_of
from flows.limits import Stopped
from flows.open import Work
from flows.paying import DoesNotPay, Embedding
from flows.settlement import close, waste
from optimizer.collapse import Pair, Rows, judge_pairs
from optimizer.cost import usd_of_time
from serving.records import Overhead

if TYPE_CHECKING:
    from serving.reuse.neighbours import NearPairs

READ_PAIRS = 65_536  # that are Python's numbers at once
EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Compared:
    """The pairs with their vetoes, what it cost, and what the stage's manifest is to say of the search."""

    pairs: list[Pair] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)  # by row, of those in a pair
    overheads: list[Overhead] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def compare(work: Work, rows: Rows) -> Compared:
    """On a meter, since embedding is billed: the line that books it goes into the stage's manifest.

    Where it is stopped, what was kept of it was not in vain, and is booked as embedding all the same.
    """
    before = kept_vectors(work)
    with work.metered(EMBEDDING) as meter:
        try:
            pairs, texts, figures = _near_duplicates(work, rows)
        except DoesNotPay as reason:
            work.progress.say(str(reason))
            pairs, texts, figures = [], {}, {}
        except Stopped:
            seconds = work.limits.lap()
            in_vain = kept_vectors(work) == before
            line = waste(work, meter.name, EMBEDDING, seconds, 0) if in_vain else _bill(work, meter.name, seconds)
            close(work, meter.name, EMBEDDING, [line])
            raise
        return Compared(pairs, texts, [_bill(work, meter.name, work.limits.lap())], figures)


def _bill(work: Work, meter: str, seconds: float) -> Overhead:
    return Overhead(EMBEDDING, None, round(seconds, 3), usd_of_time(work.price, seconds), engine=meter)


def _near_duplicates(work: Work, rows: Rows) -> tuple[list[Pair], dict[int, str], dict[str, Any]]:
    from serving.reuse.embed import SentenceEmbedder
    from serving.reuse.neighbours import near_pairs

    embedder = SentenceEmbedder(work.embedder)
    found = candidates(work, rows, embedder)
    if len(found) < 2:
        return [], {}, {}
    work.progress.say(f"comparing {len(found)} prompts in meaning")
    vectors = embedded(work, found, embedder, Embedding(work, rows).heed)
    del embedder  # of its memory the search has better use
    near = near_pairs(
        vectors, found.vectors, found.frames, work.job.reuse.min_similarity, tick=lambda: heed_limits(work)
    )
    left, right = found.rows[near.left], found.rows[near.right]
    texts: dict[int, str] = dict(requests_of(work, np.union1d(left, right), ["row", "text"]))
    figures = {"rows": len(found), "texts": len(found.keys), "pairs": len(left), **near.recall.to_facts()}
    return judge_pairs(_one_by_one(work, left, right, near), texts), texts, figures


def _one_by_one(work: Work, left: Rows, right: Rows, near: "NearPairs") -> Iterator[tuple[int, int, float]]:
    for start in range(0, len(left), READ_PAIRS):
        heed_limits(work)
        here = slice(start, start + READ_PAIRS)
        yield from zip(left[here].tolist(), right[here].tolist(), near.similarity[here].tolist(), strict=True)
