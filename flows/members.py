"""Which rows an answer goes to, and which a lane has yet to run; in arrays, so that a million rows stay small."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.open import Work
from serving.records import Endpoint, Lane, Outcome, Source
from serving.store.segments import read_rows

Rows = NDArray[np.int64]
Few = NDArray[np.int8]  # places in SOURCES or ENDPOINTS
SOURCES, ENDPOINTS = tuple(Source), tuple(Endpoint)


@dataclass(frozen=True, slots=True)
class Member:
    """A row that an answer goes to."""

    row: int
    custom_id: str
    endpoint: Endpoint
    source: Source


@dataclass(frozen=True, slots=True)
class Members:
    """Every admitted row, ordered by the row whose run answers it; names are ordered by row.

    Where those of a row stand is looked up, not searched for: of what settling a row takes, that was a fifth.
    """

    starts: Rows  # by row: the first place of those that it answers; those of the next row come after the last
    row: Rows
    source: Few
    name_at: Rows  # by row: the place of its name
    custom_id: pa.Array
    endpoint: Few

    @classmethod
    def of(cls, work: Work) -> Self:
        members = list(work.run.stage(work.run.collapsed).tables("members"))
        names = list(work.run.stage(work.run.admitted).tables("requests", ["row", "custom_id", "endpoint"]))
        answered_by = _numbers(members, "answered_by")
        order = np.argsort(answered_by, kind="stable")
        named = _numbers(names, "row")
        every = np.arange(named.max(initial=0) + 2)
        return cls(
            np.searchsorted(answered_by[order], every),
            _numbers(members, "row")[order],
            _few(members, "source", Source)[order],
            np.searchsorted(named, every),
            pa.chunked_array([chunk for table in names for chunk in table["custom_id"].chunks]).combine_chunks(),
            _few(names, "endpoint", Endpoint),
        )

    def served_by(self, row: int) -> list[Member]:
        """The rows that the run of `row` answers; none where it is itself answered by another."""
        places = range(self.starts.item(row), self.starts.item(row + 1))
        return [self.named(self.row.item(place), SOURCES[self.source.item(place)]) for place in places]

    def named(self, row: int, source: Source) -> Member:
        place = self.name_at.item(row)
        return Member(row, self.custom_id[place].as_py(), ENDPOINTS[self.endpoint.item(place)], source)


def done_rows(work: Work) -> Rows:
    return _numbers(list(read_rows(work.run.segments, ["row"])), "row")


def answered_any(work: Work, lane: Lane) -> bool:
    """True if the lane's engine has ever answered a row of this run."""
    tables = read_rows(work.run.segments, ["lane", "outcome"])
    return any(
        (_is(table["lane"], lane.name) & _is(table["outcome"], Outcome.ANSWERED.value)).any() for table in tables
    )


def pending_rows(work: Work, lane: Lane) -> Rows:
    """The rows that a lane has yet to run, ascending: representatives, and rows whose representative failed."""
    routed = list(work.run.stage(work.run.routed).tables("routes", ["row", "lane"]))
    of_lane = [table["row"].to_numpy()[_is(table["lane"], lane.name)] for table in routed]
    rows = np.concatenate([np.empty(0, np.int64), *of_lane])
    done = done_rows(work)
    members = list(work.run.stage(work.run.collapsed).tables("members", ["row", "answered_by"]))
    answered_by, row = (_numbers(members, name) for name in ("answered_by", "row"))
    left_open = np.isin(answered_by, np.intersect1d(done, rows)) & ~np.isin(row, done)
    return np.union1d(np.setdiff1d(rows, done), row[left_open])


def _is(column: pa.ChunkedArray, text: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.equal(column, text).to_numpy()
    return found


def _numbers(tables: list[pa.Table], column: str) -> Rows:
    return np.concatenate([np.empty(0, np.int64), *(table[column].to_numpy() for table in tables)])


def _few(tables: list[pa.Table], column: str, kind: type[StrEnum]) -> Few:
    """A column of few different texts, as their places in `kind`."""
    known = pa.array([value.value for value in kind])
    found = [pc.index_in(table[column], known).to_numpy().astype(np.int8) for table in tables]
    return np.concatenate([np.empty(0, np.int8), *found])
