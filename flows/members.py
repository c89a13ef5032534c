"""Which rows an answer goes to, and which a lane has yet to run; in arrays, so that a million rows stay small."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.candidates import Candidates, levers
from flows.looks import Looks
from flows.open import Work
from serving.records import NEAR, Endpoint, Lane, Outcome, Source
from serving.store.segments import read_rows

Rows = NDArray[np.int64]
Few = NDArray[np.int8]  # places in SOURCES or ENDPOINTS
SOURCES, ENDPOINTS = tuple(Source), tuple(Endpoint)
NO_ROWS = np.empty(0, np.int64)
RUN, EQUAL, TAKEN = (SOURCES.index(source) for source in (Source.ENGINE, Source.EXACT, Source.EARLIER))


@dataclass(frozen=True, slots=True)
class Served:
    """Rows that some answers go to, in the order of the answers."""

    row: Rows
    answer: Rows  # the place of the answer that it gets
    source: Few


@dataclass(frozen=True, slots=True)
class Members:
    """Every admitted row, ordered by the first row with the same key; names are ordered by row."""

    starts: Rows  # by row: the first place of those that equal it; those of the next row come after the last
    row: Rows
    name_at: Rows  # by row: the place of its name
    custom_id: pa.Array
    endpoint: Few

    @classmethod
    def of(cls, work: Work) -> Self:
        row, equals = [NO_ROWS], [NO_ROWS]
        for table in work.run.stage(work.run.collapsed).tables("members", ["row", "equals"]):
            row.append(table["row"].to_numpy())
            equals.append(table["equals"].to_numpy())
        named, custom_id, endpoint = [NO_ROWS], [pa.array([], pa.string())], [np.empty(0, np.int8)]
        for table in work.run.stage(work.run.admitted).tables("requests", ["row", "custom_id", "endpoint"]):
            named.append(table["row"].to_numpy())
            custom_id.extend(table["custom_id"].chunks)
            endpoint.append(_places(table["endpoint"], Endpoint))
        first, name = np.concatenate(equals), np.concatenate(named)
        order = np.argsort(first, kind="stable")
        every = np.arange(name.max(initial=0) + 2)
        return cls(
            np.searchsorted(first[order], every),
            np.concatenate(row)[order],
            np.searchsorted(name, every),
            pa.concat_arrays(custom_id),
            np.concatenate(endpoint),
        )

    def count(self, row: int) -> int:
        """How many rows the answer to `row` goes to."""
        return self.starts.item(row + 1) - self.starts.item(row)

    def served_by(self, rows: Rows) -> Served:
        """Who shares the answers to `rows`, and their failures: those that equal them."""
        counts = self.starts[rows + 1] - self.starts[rows]
        answer = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(answer)) - np.searchsorted(answer, answer)
        row = self.row[self.starts[rows][answer] + within]
        return Served(row, answer, np.where(row == rows[answer], RUN, EQUAL).astype(np.int8))

    def named(self, rows: Rows) -> tuple[pa.Array, Few]:
        """The ids of rows, and the places of their endpoints in ENDPOINTS."""
        places = self.name_at[rows]
        return self.custom_id.take(pa.array(places)), self.endpoint[places]


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
        return np.setdiff1d(Looks.of(work, lane.name).to_serve(work), done_rows(work))
    full = lane.name == "full"
    others = [Looks.of(work, lever).to_run(work) for lever in levers(work)] if full else []
    return np.setdiff1d(np.concatenate([_routed(work, lane), *others]), done_rows(work))


def most_pending_rows(work: Work, lane: Lane) -> Rows:
    """The same, if no near-duplicate is certified to share an answer: what is foretold, since no audit's end is."""
    near = Candidates.of(work, NEAR).equals if lane.name == "full" else NO_ROWS
    return np.setdiff1d(np.union1d(pending_rows(work, lane), near), done_rows(work))


def _routed(work: Work, lane: Lane) -> Rows:
    tables = work.run.stage(work.run.routed).tables("routes", ["row", "lane"])
    return np.concatenate([NO_ROWS, *(table["row"].to_numpy()[_is(table["lane"], lane.name)] for table in tables)])


def _is(column: pa.ChunkedArray, text: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.equal(column, text).to_numpy()
    return found


def _numbers(tables: list[pa.Table], column: str) -> Rows:
    return np.concatenate([NO_ROWS, *(table[column].to_numpy() for table in tables)])


def _places(column: pa.ChunkedArray, kind: type[StrEnum]) -> Few:
    """A column of few different texts, as their places in `kind`."""
    found: Few = pc.index_in(column, pa.array([value.value for value in kind])).to_numpy().astype(np.int8)
    return found
