"""How often the full model says something else when asked again: so much of what an audit finds is no one's fault.

Some of the rows that audits rest on are asked a second time, among others than before. What it says then is judged
against what it said first, and given to nobody.
"""

from collections.abc import Sequence

import numpy as np

from flows.candidates import Rows, levers
from flows.judging import answer_texts, judged
from flows.looks import Looks, seed_of
from flows.open import Work
from optimizer.certificate import drawn
from serving.judges.model import Ask
from serving.records import NEAR, Completion
from serving.store.parts import PartWriter
from serving.store.schemas import NOISE


def rows_to_repeat(work: Work) -> Rows:
    """None once it is known. Of near-duplicates only if an audit has found a wrong answer, since a floor below none is
    of no interest; a cheaper model's audits come when the full one is gone."""
    if work.run.noise.exists():
        return np.empty(0, np.int64)
    some = [np.empty(0, np.int64)]
    for lever in levers(work):
        looks = Looks.of(work, lever)
        if lever != NEAR:
            some.append(looks.of_lever.equals[looks.drawn])
        elif looks.wrong.any():
            some.append(looks.of_lever.equals[looks.audited])
    rows = np.unique(np.concatenate(some))
    return np.sort(drawn(rows, work.job.quality.repeats, seed_of(work, "noise", 0)))


def note_repeats(work: Work, repeats: Sequence[Completion], ask: Ask) -> None:
    """Judge second answers by the first ones; rows that have failed either time tell nothing."""
    answered = (completion for completion in repeats if completion.failure is None)
    again = {completion.row: tuple(choice.text for choice in completion.choices) for completion in answered}
    first = answer_texts(work, np.array(sorted(again), np.int64))
    rows = sorted(first.keys() & again.keys())
    agrees, _ = judged(work, [(row, again[row], first[row]) for row in rows], ask)
    parts = PartWriter(work.run.noise.parent, work.run.noise.stem, {"noise": NOISE})
    parts.extend("noise", ({"row": row, "agrees": same} for row, same in zip(rows, agrees.tolist(), strict=True)))
    parts.finish({})
