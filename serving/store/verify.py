"""Recompute every hash, count and sum of a run against what its manifests say."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serving.records import Source
from serving.store.finished import is_finished, verify_finished
from serving.store.parts import read_manifest, verify_parts
from serving.store.predictions import predictions
from serving.store.run import Run, make_run_id
from serving.store.schemas import EARLIER, REQUESTS
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
    settled = [_columns(table) for table in read_rows(run.segments, ["row", "answered_by"])]
    rows = _joined([row for row, _ in settled])
    unique, times = np.unique(rows, return_counts=True)
    if len(unique) < len(rows):
        raise Corrupt(f"{run.segments}: row {unique[times > 1][0]} is settled twice")
    _all_in(_joined([by for _, by in settled]), unique, f"{run.segments}: row %s answered others, but is not settled")
    admitted = read_manifest(run.admitted)
    if admitted is None:
        return len(rows)
    requests = admitted.read("requests", REQUESTS, ["row"])["row"].to_numpy()
    _all_in(unique, requests, f"{run.segments}: row %s is settled, but was never admitted")
    if is_finished(run) and (len(rows) != len(requests) or journals(run.segments)):
        raise Corrupt(f"{run.folder}: {len(rows)} rows are settled, {len(requests)} were admitted")
    return len(rows)


def _verify_earlier(run: Run) -> None:
    """No row has the answer of an earlier run but those of which that was decided."""
    decided = read_manifest(run.earlier)
    known = np.empty(0, np.int64) if decided is None else decided.read("earlier", EARLIER, ["row"])["row"].to_numpy()
    for table in read_rows(run.segments, ["row", "source"]):
        taken = table.filter(pc.equal(table["source"], Source.EARLIER.value))["row"].to_numpy()
        _all_in(taken, known, f"{run.segments}: row %s has an earlier run's answer, but {run.earlier} does not list it")


def _all_in(rows: Rows, known: Rows, otherwise: str) -> None:
    missing = rows[~np.isin(rows, known)]
    if len(missing):
        raise Corrupt(otherwise % missing[0])


def _columns(table: pa.Table) -> tuple[Rows, Rows]:
    return table["row"].to_numpy(), table["answered_by"].to_numpy()


def _joined(parts: list[Rows]) -> Rows:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
