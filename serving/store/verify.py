"""Recompute every hash, count and sum of a run against what its manifests say."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from serving.records import Source
from serving.store.finished import is_finished, verify_finished
from serving.store.parts import read_manifest, verify_parts
from serving.store.predictions import predictions
from serving.store.run import Run, make_run_id
from serving.store.schemas import EARLIER
from serving.store.sealed import Corrupt, read_sealed
from serving.store.segments import journals, read_rows, read_segments, verify_segments
from serving.store.writer import last_epoch, taken_file

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Checked:
    files: int
    rows: int


def verify(run: Run) -> Checked:
    """Raises Corrupt: names the file, what was expected and what was found."""
    run_id = make_run_id(run.facts["job"]["dataset"]["path"], run.facts["fingerprint"])
    if run_id != run.run_id:
        raise Corrupt(f"{run.folder}: its run.json is that of {run_id}; the folder was renamed, or the file changed")
    vouched = verify_finished(run) if is_finished(run) else 0
    manifests = [manifest for stage in run.manifests if (manifest := read_manifest(stage)) is not None]
    files = sum(verify_parts(manifest) for manifest in manifests)
    writers = [read_sealed(taken_file(run.segments, epoch)) for epoch in range(1, last_epoch(run.segments) + 1)]
    said = len({told.made for told in predictions(run)})
    segments = verify_segments(run.segments)
    rows = _verify_rows(run)
    _verify_earlier(run)
    return Checked(1 + files + len(manifests) + len(writers) + said + segments + vouched, rows)


def check_bytes(run: Run) -> None:
    """That every table is the one that was written: asked before a run goes on from what they say.

    Raises:
        Corrupt: names the file, what was written and what was found.
    """
    for segment in read_segments(run.segments):
        segment.witness.check(segment.table)
    for stage in run.manifests:
        if (manifest := read_manifest(stage)) is not None:
            for part in manifest.parts:
                part.witness.check(manifest.folder / part.name)


def _verify_rows(run: Run) -> int:
    """Each settled row once, admitted before, and answered by a row that ran; all of them where a run is finished."""
    rows = _joined([table["row"].to_numpy() for table in read_rows(run.segments, ["row"])])
    rows.sort()
    if (rows[1:] == rows[:-1]).any():
        raise Corrupt(f"{run.segments}: row {rows[1:][rows[1:] == rows[:-1]][0]} is settled twice")
    for table in read_rows(run.segments, ["answered_by"]):
        by = table["answered_by"].to_numpy()
        there = np.minimum(np.searchsorted(rows, by), len(rows) - 1)
        _none(by[rows[there] != by], f"{run.segments}: row %s answered others, but is not settled")
    admitted = read_manifest(run.admitted)
    if admitted is None:
        return len(rows)
    known, requests = np.zeros(len(rows), np.bool_), 0
    for table in admitted.tables("requests", ["row"]):
        part = table["row"].to_numpy()
        here = slice(*np.searchsorted(rows, [part.min(), part.max() + 1]))
        known[here] |= np.isin(rows[here], part)
        requests += len(part)
    _none(rows[~known], f"{run.segments}: row %s is settled, but was never admitted")
    if is_finished(run) and (len(rows) != requests or journals(run.segments)):
        raise Corrupt(f"{run.folder}: {len(rows)} rows are settled, {requests} were admitted")
    return len(rows)


def _verify_earlier(run: Run) -> None:
    """No row has the answer of an earlier run but those of which that was decided."""
    decided = read_manifest(run.earlier)
    known = np.empty(0, np.int64) if decided is None else decided.read("earlier", EARLIER, ["row"])["row"].to_numpy()
    for table in read_rows(run.segments, ["row", "source"]):
        taken = table.filter(pc.equal(table["source"], Source.EARLIER.value))["row"].to_numpy()
        _none(
            taken[~np.isin(taken, known)],
            f"{run.segments}: row %s has an earlier run's answer, but {run.earlier} does not list it",
        )


def _none(rows: Rows, otherwise: str) -> None:
    if len(rows):
        raise Corrupt(otherwise % rows[0])


def _joined(parts: list[Rows]) -> Rows:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
