"""The rows that a near-duplicate may answer: which of them are held back until a certificate says so, and which run."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.open import Work
from serving.records import Outcome
from serving.store.parts import read_manifest
from serving.store.schemas import CERTIFICATES, NEAR
from serving.store.segments import read_rows

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Near:
    """Place by place; a row without a stratum is one of too few for a certificate, and runs."""

    row: Rows
    equals: Rows  # what is run in its stead, where it runs: the first row with its key
    answered_by: Rows
    stratum: pa.Array  # text or null
    audited: Flags

    @classmethod
    def of(cls, work: Work) -> Self:
        """None at all where the job does not ask for them."""
        drawn = read_manifest(work.run.audited)
        table = NEAR.empty_table() if drawn is None else drawn.read("near", NEAR)
        row, equals, answered_by = (table[name].to_numpy() for name in ("row", "equals", "answered_by"))
        return cls(row, equals, answered_by, table["stratum"].combine_chunks(), pc.is_valid(table["drawn"]).to_numpy())

    def within(self, strata: list[str]) -> Flags:
        found: Flags = pc.is_in(self.stratum, pa.array(strata, pa.string())).to_numpy(zero_copy_only=False)
        return found


def near_to_run(work: Work, if_none_is_certified: bool = False) -> Rows:
    """What a full model is to answer of them: audited ones and those that no certificate covers, or may come to."""
    near = Near.of(work)
    if not len(near.row):
        return near.row
    if if_none_is_certified and not work.run.certified.exists():
        return np.unique(near.equals)
    return np.unique(near.equals[~shared(work, near)])


def shared(work: Work, near: Near) -> Flags:
    """Which of them take the answer of their representative, or may come to: those in a stratum that is certified, or
    not judged yet; but none whose equal is audited, nor one whose representative has failed."""
    audited = np.isin(near.equals, near.equals[near.audited])
    certified = read_manifest(work.run.certified)
    if certified is None:
        held: Flags = pc.is_valid(near.stratum).to_numpy(zero_copy_only=False)
        return held & ~audited
    told = certified.read("certificates", CERTIFICATES)
    strata = told.filter(told["certified"])["stratum"].to_pylist()
    return near.within(strata) & ~audited & np.isin(near.answered_by, answered_rows(work))


def answered_rows(work: Work) -> Rows:
    found = [np.empty(0, np.int64)]
    for table in read_rows(work.run.segments, ["row", "outcome"]):
        found.append(table.filter(pc.equal(table["outcome"], Outcome.ANSWERED.value))["row"].to_numpy())
    return np.concatenate(found)
