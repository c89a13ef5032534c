"""Rows served without a run of the full model, under a certificate: some are audited, by what the full model answers
them, and the others are served so only if so few of the audited would have got a wrong answer that the job's promise
holds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.candidates import Flags, levers
from flows.judging import answer_texts, judged
from flows.looks import Looks, begin_looks, judge, look
from flows.members import Members, done_rows, pending_rows
from flows.open import Work
from flows.settled_rows import shared_rows, tried_rows
from flows.trials import Texts, tables, texts_of
from serving.judges.model import Ask, Control
from serving.records import NEAR, Lever, Source
from serving.store.schemas import USED
from serving.store.segments import Span, read_rows

Figures = dict[str, Any]
CHAIN = "shared"
OF_A_MODEL = pa.array([Source.ENGINE.value, Source.EARLIER.value])  # to this very request, now or in an earlier run


def certify(work: Work, ask: Ask | None = None) -> Figures:
    """Judge the last look at near-duplicates once all that it audits, and all that answers others, has been run; and
    look again where that did not certify it. Nothing where there is nothing to judge yet, or no more; or where that
    takes the full model, and there is no way to `ask` it."""
    looks = Looks.of(work, NEAR)
    if looks.over or (looks.waiting and len(pending_rows(work, work.job.lanes["full"]))):
        return {}  # stopped before; it is judged when the rest has its answers
    figures = {}
    if looks.waiting:
        if ask is None and work.job.quality.judge == "model":
            return {}
        answered_by = looks.of_lever.answered_by
        texts = answer_texts(work, answered_by[looks.auditing])
        own = looks.of_lever.row[looks.auditing].tolist()
        representatives = answered_by[looks.auditing].tolist()
        served = {row: texts[by] for row, by in zip(own, representatives, strict=True) if by in texts}
        figures = judge(work, looks, *_agrees(work, looks, served, ask))
    return {**figures, **look(work, NEAR)}


def tried(work: Work, looks: Looks) -> bool:
    """True if a cheaper model has answered what the last look audits."""
    lane = looks.of_lever.lever
    return looks.waiting and (
        work.run.cascade(lane).exists() or work.run.trials(lane, f"look-{looks.begun - 1}").exists()
    )


def certify_lane(work: Work, lane: Lever, ask: Ask | None = None) -> Figures:
    """Judge the last look at what a lane may answer, once its model has answered the rows that the look audits; and
    look again where that did not certify it, or at the next lane. As `certify` does nothing without a way to `ask` a
    model that judges."""
    looks = Looks.of(work, lane)
    if not tried(work, looks) or (ask is None and work.job.quality.judge == "model"):
        return {}
    candidates = looks.of_lever
    texts = texts_of(work, lane, candidates.equals[looks.auditing])
    own = candidates.row[looks.auditing].tolist()
    equals = candidates.equals[looks.auditing].tolist()
    served = {row: texts[equal] for row, equal in zip(own, equals, strict=True) if equal in texts}
    return {**judge(work, looks, *_agrees(work, looks, served, ask)), **look_on(work)}


def look_on(work: Work) -> Figures:
    """Begin what looks can be begun, and serve what one has borne out of answers that are there already."""
    figures = begin_looks(work)
    for lane in levers(work):
        if lane != NEAR and work.run.cascade(lane).exists():
            _serve_tried(work, lane)
    return figures


def to_judge(work: Work) -> tuple[Lever, ...]:
    """The levers whose audits have all their answers but for what the full model is to say of them."""
    if work.job.quality.judge != "model":
        return ()
    looks = {lever: Looks.of(work, lever) for lever in levers(work)}
    return tuple(lever for lever, last in looks.items() if (last.waiting if lever == NEAR else tried(work, last)))


def share(work: Work) -> Figures:
    """Every near-duplicate that a certificate covers takes its representative's answer, and costs nothing."""
    looks = Looks.of(work, NEAR)
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


def _serve_tried(work: Work, lane: Lever) -> None:
    looks = Looks.of(work, lane)
    rows = np.setdiff1d(looks.to_serve(work), done_rows(work)) if looks.certified else done_rows(work)[:0]
    if not len(rows):
        return
    members, chain = Members.of(work), work.writer.chain(CHAIN)
    for table in tables(work, lane, ["row", "choices", *USED]):
        there = table.filter(pa.array(np.isin(table["row"].to_numpy(), rows)))
        if there.num_rows:
            chain.seal(Span(tried_rows(there, work.job.lanes[lane], members)))


def _agrees(
    work: Work, looks: Looks, served: Mapping[int, Texts], ask: Ask | None
) -> tuple[Flags, tuple[Control, ...]]:
    """Whether what an audited row was served says the same as its own answer; not where either has none. With what the
    judge itself was tried by."""
    own = answer_texts(work, looks.of_lever.row[looks.auditing])
    there = looks.auditing & np.isin(looks.of_lever.row, sorted(own.keys() & served.keys()))
    rows = looks.of_lever.row[there].tolist()
    agrees, controls = judged(work, [(row, served[row], own[row]) for row in rows], ask)
    found = np.zeros(len(there), np.bool_)
    found[there] = agrees
    return found, controls
