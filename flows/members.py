"""Which rows an answer goes to, and which a lane has yet to run; in arrays, so that a million rows stay small."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.candidates import Candidates, levers
from flows.looks import Looks
from flows.names import Few, Names
from flows.open import Work
from serving.records import NEAR, Lane, Outcome, Source
from serving.store.segments import read_rows

Rows = NDArray[np.int64]
SOURCES = tuple(Source)
NO_ROWS = np.empty(0, np.int64)
LOOKED_AT_ROWS = 2**20  # together
RUN, EQUAL, TAKEN = (SOURCES.index(source) for source in (Source.ENGINE, Source.EXACT, Source.EARLIER))


@dataclass(frozen=True, slots=True)
class Served:
    """Rows that some answers go to, in the order of the answers."""

    row: Rows
    answer: Rows  # the place of the answer that it gets
    source: Few  # places in SOURCES


@dataclass(frozen=True, slots=True)
class Members:
    """Who shares an answer: 16 bytes for each row that equals an earlier one."""

    first: Rows  # ascending: the first row with the same key
    row: Rows  # ascending where that is the same
    names: Names

    @classmethod
    def of(cls, work: Work) -> Self:
        first, row = [NO_ROWS], [NO_ROWS]
        for table in work.run.stage(work.run.collapsed).tables("members", ["row", "equals"]):
            copies = table.filter(pc.not_equal(table["row"], table["equals"]))
            first.append(copies["equals"].to_numpy())
            row.append(copies["row"].to_numpy())
        equals = np.concatenate(first)
        order = np.argsort(equals, kind="stable")
        return cls(equals[order], np.concatenate(row)[order], Names.of(work))

    def count(self, row: int) -> int:
        """How many rows the answer to `row` goes to."""
        begin = int(self.first.searchsorted(row))
        if begin == len(self.first) or self.first[begin] != row:
            return 1  # as with most
        return 1 + int(self.first.searchsorted(row, side="right")) - begin

    def served_by(self, rows: Rows) -> Served:
        """Who shares the answers to `rows`, and their failures: themselves, and those that equal them."""
        begin = np.searchsorted(self.first, rows)
        counts = 1 + np.searchsorted(self.first, rows, side="right") - begin
        answer = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(answer)) - np.searchsorted(answer, answer)
        row, copies = rows[answer], within > 0
        row[copies] = self.row[(begin[answer] + within - 1)[copies]]
        return Served(row, answer, np.where(copies, EQUAL, RUN).astype(np.int8))

    def named(self, rows: Rows) -> tuple[pa.Array, Few]:
        """The ids of rows, and the places of their endpoints in ENDPOINTS."""
        return self.names.named(rows)


def among(rows: Rows, wanted: Rows) -> NDArray[np.bool_]:
    """Which of a part's rows are wanted; both ascend. Only those that can be are looked at, not all of a large job."""
    if not len(rows):
        return np.empty(0, np.bool_)
    start, end = np.searchsorted(wanted, rows[[0, -1]] + [0, 1])
    return np.isin(rows, wanted[start:end])


def not_done(work: Work, rows: Rows) -> Rows:
    """Those of these rows, which ascend, that are not settled; without the copies that NumPy's set functions make."""
    done = np.sort(done_rows(work))
    if not len(done):
        return rows
    left = np.empty(len(rows), np.bool_)
    for start in range(0, len(rows), LOOKED_AT_ROWS):
        here = slice(start, start + LOOKED_AT_ROWS)
        left[here] = ~among(rows[here], done)
    return rows[left]


def done_rows(work: Work) -> Rows:
    return _numbers(list(read_rows(work.run.segments, ["row"])), "row")


def ran_any(work: Work) -> bool:
    """True if an engine has had a row of this run; what was taken from earlier runs, none has."""
    return any(_is(table["source"], Source.ENGINE.value).any() for table in read_rows(work.run.segments, ["source"]))


def answered_any(work: Work, lane: Lane) -> bool:
    """True if the lane's engine has ever answered a row of this run."""
    tables = read_rows(work.run.segments, ["lane", "outcome"])
    return any(
        (_is(table["lane"], lane.name) & _is(table["outcome"], Outcome.ANSWERED.value)).any() for table in tables
    )


def pending_rows(work: Work, lane: Lane) -> Rows:
    """The rows that a lane has yet to run, ascending: representatives that are routed to it; in the full lane also rows
    that audit another way to serve them, or that none may serve. What a lane may serve under a certificate alone is
    pending there until that is refused."""
    if lane.name in levers(work):
        return not_done(work, Looks.of(work, lane.name).to_serve(work))
    full = lane.name == "full"
    others = [Looks.of(work, lever).to_run(work) for lever in levers(work)] if full else []
    return not_done(work, _joined(_routed(work, lane), *others))


def most_pending_rows(work: Work, lane: Lane) -> Rows:
    """The same, if no near-duplicate is certified to share an answer: what is foretold, since no audit's end is."""
    near = Candidates.of(work, NEAR).equals if lane.name == "full" else NO_ROWS
    return not_done(work, _joined(pending_rows(work, lane), near))


def _joined(rows: Rows, *more: Rows) -> Rows:
    """All of them, ascending; those of one alone are so already."""
    return np.unique(np.concatenate([rows, *more])) if any(map(len, more)) else rows


def _routed(work: Work, lane: Lane) -> Rows:
    tables = work.run.stage(work.run.routed).tables("routes", ["row", "lane"])
    found: Rows = np.concatenate(
        [NO_ROWS, *(table["row"].to_numpy()[_is(table["lane"], lane.name)] for table in tables)]
    )
    found.sort()
    return found


def _is(column: pa.ChunkedArray, text: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.equal(column, text).to_numpy()
    return found


def _numbers(tables: list[pa.Table], column: str) -> Rows:
    return np.concatenate([NO_ROWS, *(table[column].to_numpy() for table in tables)])
