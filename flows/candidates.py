"""The rows that could be answered without a run of the full model, lever by lever, as they are known before any answer
is seen: near-duplicates of other rows, and rows that a cheaper model may answer."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.open import Work
from optimizer.collapse import SOURCES, Assignments, Pair
from optimizer.likeness import Likeness, beginning
from serving.records import NEAR, Lever, Outcome, Source, sampling_from_json
from serving.store.schemas import LIKENESS, MEMBERS, ROUTES
from serving.store.schemas import NEAR as NEAR_ROWS
from serving.store.segments import read_rows

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
CHARACTERS_A_TOKEN = 4.0  # where no tokenizer is at hand


@dataclass(frozen=True, slots=True)
class Candidates:
    """Place by place, rows ascending. None at all of a lever that the job does not ask for."""

    lever: Lever
    row: Rows
    equals: Rows  # what is run in its stead, where it runs: the first row with its key
    answered_by: Rows  # whose answer it would take; its own place's, where that is what is asked of another model

    @classmethod
    def of(cls, work: Work, lever: Lever) -> Self:
        """All that it may be asked for: of a lane, what those before it may serve as well."""
        if lever not in levers(work):
            nothing = np.empty(0, np.int64)
            return cls(lever, nothing, nothing, nothing)
        collapsed = work.run.stage(work.run.collapsed)
        if lever == NEAR:
            table = collapsed.read("near", NEAR_ROWS, ["row", "equals", "answered_by"])
            return cls(lever, *(table[name].to_numpy() for name in table.column_names))
        routes = work.run.stage(work.run.routed).read("routes", ROUTES, ["row", "lane"])
        cheap = routes.filter(pc.equal(routes["lane"], work.job.cheaper_lanes[0]))["row"].to_numpy()
        members = collapsed.read("members", MEMBERS, ["row", "equals", "answered_by"])
        row, equals, answered_by = (members[name].to_numpy() for name in members.column_names)
        here = (equals == answered_by) & np.isin(equals, cheap)
        return cls(lever, row[here], equals[here], equals[here])

    def only(self, some: Flags) -> Self:
        return replace(self, row=self.row[some], equals=self.equals[some], answered_by=self.answered_by[some])

    def places(self, rows: Rows) -> Flags:
        return np.isin(self.row, rows)

    def answerable(self, work: Work) -> Flags:
        """Not those whose representative has failed, or has no answer yet."""
        if self.lever != NEAR:
            return np.ones(len(self.row), np.bool_)
        return np.isin(self.answered_by, answered_rows(work))

    def seen(self, work: Work) -> tuple[Floats, Rows]:
        """What audits are learned from: features (rows, features), and the groups of rows whose prompts begin alike."""
        if self.lever == NEAR:
            table = work.run.stage(work.run.collapsed).read("near", NEAR_ROWS)
            features = np.column_stack([table[name].to_numpy() for name in LIKENESS])
            begins = table["beginning"].combine_chunks()
        else:
            features, begins = _prompts(work, self.equals)
        return features, begins.dictionary_encode().indices.to_numpy().astype(np.int64)


def levers(work: Work) -> tuple[Lever, ...]:
    """Those that the job asks for under a certificate; of lanes the cheapest first."""
    near = (NEAR,) if work.job.reuse.semantic else ()
    return near + (work.job.cheaper_lanes if work.job.route.to_quantized == "certified" else ())


def near_table(
    rows: Rows, equals: Rows, members: Assignments, pairs: Sequence[Pair], texts: Mapping[int, str]
) -> pa.Table:
    """NEAR of the schemas: each row that another may answer, with what is seen of it and the one that would."""
    near = members.source == SOURCES.index(Source.SEMANTIC)
    known: dict[int, dict[int, Likeness]] = defaultdict(dict)
    for pair in pairs:
        if pair.likeness is not None:
            known[pair.row][pair.other_row] = known[pair.other_row][pair.row] = pair.likeness
    equal, answered_by = equals[near], members.answered_by[near]
    like = np.array([known[one][other] for one, other in zip(equal.tolist(), answered_by.tolist(), strict=True)])
    like = like.reshape(-1, len(LIKENESS))
    begins = pa.array([beginning(texts[row]) for row in equal.tolist()], pa.string())
    return pa.table([rows[near], equal, answered_by, begins, *like.T], schema=NEAR_ROWS)


def answered_rows(work: Work) -> Rows:
    found = [np.empty(0, np.int64)]
    for table in read_rows(work.run.segments, ["row", "outcome"]):
        found.append(table.filter(pc.equal(table["outcome"], Outcome.ANSWERED.value))["row"].to_numpy())
    return np.concatenate(found)


def _prompts(work: Work, rows: Rows) -> tuple[Floats, pa.Array]:
    """Of each row its prompt's length, the most its answer may have, and the share of digits in its prompt; and how
    it begins, with its frame."""
    wanted = np.unique(rows)
    features, begins = np.zeros((len(wanted), 3)), np.full(len(wanted), "", object)
    columns = ["row", "prompt_tokens", "sampling", "frame", "text"]
    for part in work.run.stage(work.run.admitted).tables("requests", columns):
        there = part.filter(pa.array(np.isin(part["row"].to_numpy(), wanted)))
        for row, tokens, sampling, frame, text in zip(*(there[name].to_pylist() for name in columns), strict=True):
            place = np.searchsorted(wanted, row)
            length = len(text) / CHARACTERS_A_TOKEN if tokens is None else tokens
            digits = sum(character.isdigit() for character in text) / max(1, len(text))
            features[place] = math.log1p(length), math.log(sampling_from_json(sampling).max_tokens), digits
            begins[place] = f"{frame} {beginning(text)}"
    of = np.searchsorted(wanted, rows)
    return features[of], pa.array(begins[of], pa.string())
