"""Near-duplicates under a certificate: some are audited, by the answer that they have when they are run themselves, and
all of a stratum share answers only if so few of the audited would have got a wrong one that the job's promise holds."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.judging import judged
from flows.members import Members, done_rows, pending_rows
from flows.near import Flags, Near, Rows, answered_rows, shared
from flows.open import Work
from flows.settled_rows import shared_rows
from optimizer.certificate import Certificate, audits_needed, drawn
from serving.records import Outcome, Source
from serving.store.parts import PartWriter, read_manifest
from serving.store.schemas import CERTIFICATES, MEMBERS, NEAR, PAIRS, VERDICTS, choices_from
from serving.store.segments import Span, read_rows

Figures = dict[str, Any]
CHAIN = "shared"
OF_A_MODEL = pa.array([Source.ENGINE.value, Source.EARLIER.value])  # to this very request, now or in an earlier run
BANDS = (0.97, 0.99)  # of similarity, in which promises are made apart where that costs few audits
MOST_AUDITED = 0.1  # of a stratum's rows; where bands would need more, all near-duplicates are one stratum


def draw_audits(work: Work) -> Figures:
    """Which near-duplicates are audited? Drawn by a seed that the run's content gives, so that nobody chooses it."""
    if not work.job.reuse.semantic:
        return {}
    if (done := read_manifest(work.run.audited)) is not None:
        return done.figures
    members = work.run.stage(work.run.collapsed).read("members", MEMBERS)
    near = members.filter(pc.equal(members["source"], Source.SEMANTIC.value))
    rows, equals, answered_by = (near[name].to_numpy() for name in ("row", "equals", "answered_by"))
    strata = _strata(work, equals, answered_by)
    delta = _delta(work, len(strata))
    stratum, turn = np.full(len(rows), None, object), np.full(len(rows), None, object)
    for name, inside in strata.items():
        audits = audits_needed(int(inside.sum()), work.job.quality.max_wrong, delta)
        if audits < inside.sum():
            stratum[inside] = name
            chosen = drawn(rows[inside], audits, _seed(work, name))
            turn[np.searchsorted(rows, chosen)] = np.arange(audits)
    parts = PartWriter(work.run.audited.parent, "audit", {"near": NEAR})
    parts.add_table("near", pa.table([rows, equals, answered_by, stratum, turn], schema=NEAR))
    return parts.finish({"strata": len(strata)}).figures


def certify(work: Work) -> Figures:
    """Which strata keep the promise? Judged once all that is audited, and all that answers others, has been run."""
    if (done := read_manifest(work.run.certified)) is not None:
        return done.figures
    if len(pending_rows(work, work.job.lanes["full"])):
        return {}  # stopped before; it is judged when the rest has its answers
    near = Near.of(work)
    there = np.isin(near.answered_by, answered_rows(work))
    audited = near.audited & there
    texts = _texts(work, np.union1d(near.row[audited], near.answered_by[audited]))
    agrees = np.zeros(len(near.row), np.bool_)
    answered = np.flatnonzero(audited & np.isin(near.row, list(texts)))  # one that failed agrees with nothing
    rows, others = (column[answered].tolist() for column in (near.row, near.answered_by))
    agrees[answered] = judged(work, [(row, texts[other], texts[row]) for row, other in zip(rows, others, strict=True)])
    parts = PartWriter(work.run.certified.parent, "certify", {"verdicts": VERDICTS, "certificates": CERTIFICATES})
    parts.add_table("verdicts", pa.table([near.row, near.stratum, agrees], schema=VERDICTS).filter(pa.array(audited)))
    parts.extend("certificates", _certificates(work, near, there, agrees))
    return parts.finish({}).figures


def share(work: Work) -> Figures:
    """Every row that a certificate covers takes its representative's answer, and costs nothing."""
    if read_manifest(work.run.certified) is None:
        return {}
    near = Near.of(work)
    there = shared(work, near) & ~np.isin(near.row, done_rows(work))
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


def _strata(work: Work, equals: Rows, answered_by: Rows) -> dict[str, Flags]:
    """By name, which places it holds: bands of similarity, or all in one."""
    if not len(equals):
        return {}
    similarity = _similarity(work, equals, answered_by)
    edges = [work.job.reuse.min_similarity, *(edge for edge in BANDS if edge > work.job.reuse.min_similarity), 1.0]
    band = np.clip(np.searchsorted(edges, similarity, side="right") - 1, 0, len(edges) - 2)
    bands = {f"{low:g} to {high:g}": band == place for place, (low, high) in enumerate(pairwise(edges))}
    bands = {name: inside for name, inside in bands.items() if inside.any()}
    delta = _delta(work, len(bands))
    sizes = [int(inside.sum()) for inside in bands.values()]
    if all(audits_needed(size, work.job.quality.max_wrong, delta) <= MOST_AUDITED * size for size in sizes):
        return bands
    return {f"{edges[0]:g} to 1": np.ones(len(equals), np.bool_)}


def _similarity(work: Work, equals: Rows, answered_by: Rows) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of each row with its representative."""
    pairs = work.run.stage(work.run.collapsed).read("pairs", PAIRS)
    pairs = pairs.filter(pc.is_null(pairs["veto"]))
    named = zip(pairs["row"].to_pylist(), pairs["other_row"].to_pylist(), strict=True)
    known = {frozenset(pair): value for pair, value in zip(named, pairs["similarity"].to_pylist(), strict=True)}
    return np.array([known[frozenset(pair)] for pair in zip(equals.tolist(), answered_by.tolist(), strict=True)])


def _delta(work: Work, strata: int) -> float:
    """Of each stratum: all promises hold together with the job's confidence."""
    return (1 - work.job.quality.confidence) / max(1, strata)


def _seed(work: Work, stratum: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{work.run.run_id} {stratum}".encode()).digest()[:7])


def _texts(work: Work, rows: Rows) -> dict[int, tuple[str, ...]]:
    """The answers of those of these rows that have one."""
    found: dict[int, tuple[str, ...]] = {}
    for table in read_rows(work.run.segments, ["row", "outcome", "choices"]):
        wanted = np.isin(table["row"].to_numpy(), rows) & pc.equal(table["outcome"], Outcome.ANSWERED.value).to_numpy()
        some = table.filter(pa.array(wanted))
        for row, choices in zip(some["row"].to_pylist(), some["choices"].to_pylist(), strict=True):
            found[row] = tuple(choice.text for choice in choices_from(choices))
    return found


def _certificates(work: Work, near: Near, there: Flags, agrees: Flags) -> Iterator[dict[str, Any]]:
    """Of each stratum, but for rows whose representative has failed: they run, and the draw knew nothing of that."""
    strata = [name for name in pc.unique(near.stratum).to_pylist() if name is not None]
    delta = _delta(work, work.run.stage(work.run.audited).figures["strata"])
    for name in sorted(strata):
        inside = near.within([name]) & there
        judged = inside & near.audited
        audited, wrong = int(judged.sum()), int((judged & ~agrees).sum())
        found = Certificate(int(inside.sum()), audited, wrong, work.job.quality.max_wrong, delta)
        yield {
            "stratum": name,
            "rows": found.rows,
            "audited": found.audited,
            "wrong": found.wrong,
            "most_wrong": found.most_wrong,
            "max_wrong": found.max_wrong,
            "delta": found.delta,
            "seed": _seed(work, name),
            "certified": found.certified,
        }
