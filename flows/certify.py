"""Rows served without a run of the full model, under a certificate: some are audited, by what the full model answers
them, and the others are served so only if so few of the audited would have got a wrong answer that the job's promise
holds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.candidates import Flags
from flows.judging import Texts, answer_texts, judged
from flows.looks import Looks, judge, look
from flows.members import Members, done_rows, pending_rows
from flows.open import Work
from flows.settled_rows import shared_rows
from serving.records import Lever, Source
from serving.store.segments import Span, read_rows

Figures = dict[str, Any]
CHAIN = "shared"
OF_A_MODEL = pa.array([Source.ENGINE.value, Source.EARLIER.value])  # to this very request, now or in an earlier run


def certify(work: Work) -> Figures:
    """Judge the last look at near-duplicates once all that it audits, and all that answers others, has been run; and
    look again where that did not certify it. Nothing where there is nothing to judge yet, or no more."""
    looks = Looks.of(work, Lever.NEAR)
    if looks.over or (looks.waiting and len(pending_rows(work, work.job.lanes["full"]))):
        return {}  # stopped before; it is judged when the rest has its answers
    figures = {}
    if looks.waiting:
        answered_by = looks.of_lever.answered_by
        texts = answer_texts(work, answered_by[looks.auditing])
        own = looks.of_lever.row[looks.auditing].tolist()
        representatives = answered_by[looks.auditing].tolist()
        served = {row: texts[by] for row, by in zip(own, representatives, strict=True) if by in texts}
        figures = judge(work, looks, _agrees(work, looks, served))
    return {**figures, **look(work, Lever.NEAR)}


def certify_quantized(work: Work, served: Mapping[int, Texts]) -> Figures:
    """Judge the last look at what the quantized model may answer by the answers that it `served` the audited rows, or
    the first of those with their key; and look again where that did not certify it."""
    looks = Looks.of(work, Lever.QUANTIZED)
    candidates = looks.of_lever
    own = candidates.row[looks.auditing].tolist()
    equals = candidates.equals[looks.auditing].tolist()
    found = {row: served[equal] for row, equal in zip(own, equals, strict=True) if equal in served}
    return {**judge(work, looks, _agrees(work, looks, found)), **look(work, Lever.QUANTIZED)}


def share(work: Work) -> Figures:
    """Every near-duplicate that a certificate covers takes its representative's answer, and costs nothing."""
    looks = Looks.of(work, Lever.NEAR)
    near = looks.of_lever
    there = looks.served(work) & ~np.isin(near.row, done_rows(work))
    if not there.any():
        return {}
    row, answered_by = near.row[there], near.answered_by[there]
    members, chain = Members.of(work), work.writer.chain(CHAIN)
    for table in read_rows(work.run.segments):
        ran = table.filter(pc.is_in(table["source"], OF_A_MODEL))
        here = np.isin(answered_by, ran["row"].to_numpy())
        if here.any():
            chain.seal(Span(shared_rows(ran, row[here], answered_by[here], members)))
    return {}


def _agrees(work: Work, looks: Looks, served: Mapping[int, Texts]) -> Flags:
    """Whether what an audited row was served says the same as its own answer; not where either has none."""
    own = answer_texts(work, looks.of_lever.row[looks.auditing])
    there = looks.auditing & np.isin(looks.of_lever.row, sorted(own.keys() & served.keys()))
    rows = looks.of_lever.row[there].tolist()
    found = np.zeros(len(there), np.bool_)
    found[there] = judged(work, [(row, served[row], own[row]) for row in rows])
    return found
