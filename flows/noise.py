"""How often the full model says something else when asked again: so much of what an audit finds is no one's fault.

Some of the rows that audits rest on are asked a second time, among others than before. What it says then is judged
against what it said first, and given to nobody.
"""

from collections.abc import Mapping

import numpy as np

from flows.candidates import Rows
from flows.judging import Texts, answer_texts, judged
from flows.looks import Looks, seed_of
from flows.open import Work
from optimizer.certificate import drawn
from serving.records import Lever
from serving.store.parts import PartWriter
from serving.store.schemas import NOISE


def rows_to_repeat(work: Work) -> Rows:
    """None once it is known. Of near-duplicates only if an audit has found a wrong answer, since a floor below none is
    of no interest; the quantized model's audits come when the full one is gone."""
    if work.run.noise.exists():
        return np.empty(0, np.int64)
    near, quantized = (Looks.of(work, lever) for lever in (Lever.NEAR, Lever.QUANTIZED))
    some = [near.of_lever.equals[near.audited]] if near.wrong.any() else []
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *some, quantized.of_lever.equals[quantized.drawn]]))
    return np.sort(drawn(rows, work.job.quality.repeats, seed_of(work, "noise", 0)))


def note_repeats(work: Work, again: Mapping[int, Texts]) -> None:
    """Judge second answers by the first ones; rows that have failed either time tell nothing."""
    first = answer_texts(work, np.array(sorted(again), np.int64))
    rows = sorted(first.keys() & again.keys())
    agrees = judged(work, [(row, again[row], first[row]) for row in rows])
    parts = PartWriter(work.run.noise.parent, work.run.noise.stem, {"noise": NOISE})
    parts.extend("noise", ({"row": row, "agrees": same} for row, same in zip(rows, agrees.tolist(), strict=True)))
    parts.finish({})
