"""Recompute every hash, count and sum of a run against what its manifests say."""

from dataclasses import dataclass

from serving.store.finished import is_finished, verify_finished
from serving.store.parts import Corrupt, read_manifest, verify_parts
from serving.store.run import Run, make_run_id
from serving.store.schemas import REQUESTS
from serving.store.segments import read_rows, verify_segments


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
    manifests = [manifest for stage in run.stages if (manifest := read_manifest(stage)) is not None]
    files = sum(verify_parts(manifest) for manifest in manifests)
    segments, rows = verify_segments(run.segments)
    admitted = read_manifest(run.admitted)
    if admitted is not None:
        _count(run, admitted.rows("requests"), rows)
    return Checked(files + 2 * segments + vouched, rows)


def _count(run: Run, requests: int, settled: int) -> None:
    if settled > requests or (is_finished(run) and settled != requests):
        raise Corrupt(f"{run.folder}: {settled} rows are settled, {requests} were admitted")
    admitted = run.stage(run.admitted).read("requests", REQUESTS, ["row"])
    known = set(admitted["row"].to_pylist())
    for row in read_rows(run.segments, ["row"]):
        if row["row"] not in known:
            raise Corrupt(f"{run.segments}: row {row['row']} is settled, but was never admitted")
