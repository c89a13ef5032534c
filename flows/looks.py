"""Looks at the candidates of a lever, one after the other: each chooses rows to serve without a run of the full model,
and some of them to be audited.

A look has two files in the run folder: what it chose and drew, and, once its audits are answered, what they have found.
The looks end when one is certified, when none is expected to save anything, or after the last that a run may have.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.candidates import Candidates, Flags, Rows, answered_rows, levers
from flows.open import Work
from flows.trials import confidences, cost_ratio
from optimizer.certificate import Certificate, audits_needed, drawn
from optimizer.choosing import Choice, cascade_pays, delta_of_look, first_choice, next_choice
from serving.judges.model import Control
from serving.records import MOST_LOOKS, NEAR, Lever
from serving.store.parts import PartWriter, read_manifest
from serving.store.schemas import CERTIFICATES, CONTROLS, LOOKS, VERDICTS

Figures = dict[str, Any]
FOUND_LATER = 2  # wrong ones that a later look is to bear, if it chooses half of the rows
MOST_DRAWN = 0.25  # of the candidates


@dataclass(frozen=True, slots=True)
class Looks:
    """What has been looked at so far; flags are place by place of the candidates."""

    of_lever: Candidates
    begun: int
    judged: int
    chosen: Flags  # by the last look that was begun
    auditing: Flags  # and by that one to be audited
    drawn: Flags  # by any, to be answered by the full model
    audited: Flags  # by any
    wrong: Flags  # of those that are judged
    certified: bool  # the last one

    @classmethod
    def of(cls, work: Work, lever: Lever) -> Self:
        candidates = cls._candidates(work, lever)
        nothing = np.zeros(len(candidates.row), np.bool_)
        chosen, auditing, any_drawn, audited, wrong = nothing, nothing, nothing.copy(), nothing.copy(), nothing.copy()
        begun = judged = 0
        certified = False
        for number in range(MOST_LOOKS):
            look = read_manifest(work.run.look(lever, number)) if len(candidates.row) else None
            if look is None:
                break
            begun += 1
            table = look.read("looks", LOOKS)
            chosen = candidates.places(table["row"].to_numpy())
            auditing = candidates.places(table.filter(table["audited"])["row"].to_numpy())
            any_drawn |= candidates.places(table.filter(pc.is_valid(table["drawn"]))["row"].to_numpy())
            audited |= auditing
            if (verdict := read_manifest(work.run.verdict(lever, number))) is not None:
                judged += 1
                found = verdict.read("verdicts", VERDICTS)
                wrong |= candidates.places(found.filter(pc.invert(found["agrees"]))["row"].to_numpy())
                certified = verdict.figures["certified"]
        return cls(candidates, begun, judged, chosen, auditing, any_drawn, audited, wrong, certified)

    @classmethod
    def _candidates(cls, work: Work, lever: Lever) -> Candidates:
        """Of a lane after another what that has left: none before its looks are over, then what it does not serve and
        the full model has not answered for it."""
        candidates = Candidates.of(work, lever)
        if (before := neighbour(work, lever, -1)) is None:
            return candidates
        looks = cls.of(work, before)
        if not looks.over:
            return candidates.only(np.zeros(len(candidates.row), np.bool_))
        left = looks.of_lever.row[~looks.served(work) & ~looks.known]
        return candidates.only(candidates.places(left))

    @property
    def waiting(self) -> bool:
        """True while the last look has audits that are not judged."""
        return self.begun > self.judged and bool(self.auditing.any())

    @property
    def over(self) -> bool:
        if not len(self.of_lever.row) or self.certified:
            return True
        nothing_chosen = self.begun > self.judged and not self.waiting
        return nothing_chosen or self.judged == MOST_LOOKS

    @property
    def known(self) -> Flags:
        """Those that the full model answers in any case, and all that equal them."""
        return self._equal_to(self.drawn)

    def to_run(self, work: Work) -> Rows:
        """What the full model is to answer of them: drawn ones, and at the end all that are not served otherwise, nor
        left to another lane."""
        at_the_end = self.over and neighbour(work, self.of_lever.lever, +1) is None
        run = ~self.served(work) if at_the_end else self.known
        return np.unique(self.of_lever.equals[run])

    def to_serve(self, work: Work) -> Rows:
        """What is to be served without it; until the last look is judged, if that certifies it."""
        serve = self.served(work) if self.over else self.chosen & ~self.known
        return np.unique(self.of_lever.equals[serve])

    def served(self, work: Work) -> Flags:
        """Which are served without a run of the full model, now that a look is certified: what it chose, but for those
        that are known and those whose representative has failed."""
        if not self.certified:
            return np.zeros(len(self.of_lever.row), np.bool_)
        return self.chosen & ~self.known & self.of_lever.answerable(work)

    def left_to_audit(self) -> Flags:
        """Drawn before, and not audited yet: their answers are there."""
        return self.drawn & ~self._equal_to(self.audited)

    def free(self, work: Work) -> Flags:
        """Neither audited yet, nor equal to one that was, nor answered by an earlier run."""
        there = np.isin(self.of_lever.row, answered_rows(work))
        return ~self._equal_to(self.audited) & (self.drawn | ~there)

    def _equal_to(self, some: Flags) -> Flags:
        found: Flags = np.isin(self.of_lever.equals, self.of_lever.equals[some])
        return found


def neighbour(work: Work, lever: Lever, step: int) -> Lever | None:
    """The lane before (-1) or after (+1) this one, of those that answer under a certificate."""
    lanes = [other for other in levers(work) if other != NEAR]
    if lever not in lanes:
        return None
    place = lanes.index(lever) + step
    return lanes[place] if 0 <= place < len(lanes) else None


def begin_looks(work: Work) -> Figures:
    """Which rows may be served without a run of the full model, and which are audited for it? Of a lane after another
    once the looks at that are over."""
    return {lever: look(work, lever) for lever in levers(work)}


def can_certify(work: Work, rows: int) -> bool:
    """Whether an audit of some of so many near-duplicates could bear the rest out, if it found none of them wrong."""
    every = np.ones(max(0, rows), np.bool_)
    return first_choice(every, work.job.quality.max_wrong, delta_of(work, 0, len(every))) is not None


def look(work: Work, lever: Lever) -> Figures:
    """Choose and draw anew, after what was found before. The seed comes from the run's content: nobody chooses it."""
    looks = Looks.of(work, lever)
    if looks.over or looks.waiting:
        return {}
    number, candidates = looks.begun, looks.of_lever
    if _tries_all_first(work, looks):
        return {}  # its engine goes on, and then it is looked again
    choice = _choice(work, looks)
    name = f"look-{lever}-{number}"
    parts = PartWriter(work.run.look(lever, number).parent, name, {"looks": LOOKS})
    if choice is None:
        return parts.finish({"chosen": 0, "audits": 0}).figures
    rows, seed = candidates.row[choice.chosen], seed_of(work, lever, number)
    if lever != NEAR and number == 0:
        turns = drawn(rows, min(choice.audits + _for_later(work, len(rows)), int(MOST_DRAWN * len(rows))), seed)
    elif lever != NEAR:
        turns = drawn(candidates.row[choice.chosen & looks.left_to_audit()], choice.audits, seed)
    else:
        turns = drawn(rows, choice.audits, seed)
    turn = np.full(len(rows), None, object)
    turn[np.searchsorted(rows, turns)] = np.arange(len(turns))
    audited = np.isin(rows, turns[: choice.audits])
    chance = pa.array(choice.chance_wrong[choice.chosen], from_pandas=True)  # NaN is not known
    columns = [np.full(len(rows), lever), np.full(len(rows), number), rows, chance, turn, audited]
    parts.add_table("looks", pa.table(columns, schema=LOOKS))
    return parts.finish({"chosen": len(rows), "audits": int(audited.sum())}).figures


def judge(work: Work, looks: Looks, agrees: Flags, controls: Sequence[Control] = ()) -> Figures:
    """Write what the audits of the last look have found, and what the judge was tried by. Where a representative has
    failed, its row runs; the draw knew nothing of that, so such rows are left out of it."""
    candidates, number, lever = looks.of_lever, looks.begun - 1, looks.of_lever.lever
    there = candidates.answerable(work)
    inside, judged = looks.chosen & there, looks.auditing & there
    delta = delta_of(work, number, len(candidates.row))
    audited, wrong = int(judged.sum()), int((judged & ~agrees).sum())
    found = Certificate(int(inside.sum()), audited, wrong, work.job.quality.max_wrong, delta)
    file = work.run.verdict(lever, number)
    parts = PartWriter(
        file.parent, file.stem, {"verdicts": VERDICTS, "certificates": CERTIFICATES, "controls": CONTROLS}
    )
    every = [np.full(len(candidates.row), lever), np.full(len(candidates.row), number), candidates.row, agrees]
    parts.add_table("verdicts", pa.table(every, schema=VERDICTS).filter(pa.array(judged)))
    told = ({"lever": lever, "look": number, **control._asdict()} for control in controls)
    parts.extend("controls", told)
    figures = (found.rows, audited, wrong, found.most_wrong, found.max_wrong, delta, seed_of(work, lever, number))
    certificate = (lever, number, *figures, found.certified)
    parts.add("certificates", dict(zip(CERTIFICATES.names, certificate, strict=True)))
    return parts.finish({"certified": found.certified}).figures


def delta_of(work: Work, number: int, rows: int) -> float:
    """Levers share the job's alike, and the looks of one share that."""
    quality = work.job.quality
    return delta_of_look(number, rows, quality.max_wrong, (1 - quality.confidence) / max(1, len(levers(work))))


def _for_later(work: Work, rows: int) -> int:
    """Rows that the full model answers for later looks before the cheaper one starts: one engine has the machine at a
    time, and a look can audit only what the full model has answered."""
    audits = audits_needed(rows // 2, work.job.quality.max_wrong, delta_of(work, 1, rows), FOUND_LATER)
    return 2 * audits


def seed_of(work: Work, what: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{work.run.run_id} {what} {number}".encode()).digest()[:7])


def _choice(work: Work, looks: Looks) -> Choice | None:
    max_wrong, free = work.job.quality.max_wrong, looks.free(work)
    delta = delta_of(work, looks.begun, len(free))
    of_a_model = looks.of_lever.lever != NEAR
    if looks.begun == 0:
        choice = first_choice(free, max_wrong, delta)
        # An audit of a near-duplicate is a run that it would have had anyway; one of a cheaper model is a second.
        dear = choice is not None and of_a_model and choice.audits > MOST_DRAWN * len(free)
        return None if dear else choice
    free &= looks.of_lever.answerable(work)
    drawable = looks.left_to_audit() if of_a_model else free
    features, group = looks.of_lever.seen(work)
    if of_a_model and work.run.cascade(looks.of_lever.lever).exists():
        confidence = confidences(work, looks.of_lever.lever, looks.of_lever.equals)
        told = np.isfinite(confidence)
        free &= told
        drawable &= told
        features = np.column_stack([features, np.where(told, confidence, 0.0)])
    return next_choice(features, group, looks.audited, looks.wrong, free, drawable, max_wrong, delta)


def _tries_all_first(work: Work, looks: Looks) -> bool:
    """Whether a cheaper model is to answer all that it may serve before what it does serve is chosen. The audits of the
    first look, which chose all, tell what that is worth."""
    candidates = looks.of_lever
    lane = candidates.lever
    if lane == NEAR or looks.begun != 1 or work.run.cascade(lane).exists():
        return False
    features, group = candidates.seen(work)
    return cascade_pays(
        features, confidences(work, lane, candidates.equals), group, looks.audited, looks.wrong, looks.free(work),
        looks.left_to_audit(), work.job.quality.max_wrong, delta_of(work, 1, len(candidates.row)),
        cost_ratio(work, lane),
    )  # fmt: skip
