"""Recompute every hash, count and sum of a run against what its manifests say."""

from dataclasses import dataclass

from serving.store.parts import Corrupt, read_manifest, verify_parts
from serving.store.run import Run
from serving.store.schemas import REQUESTS
from serving.store.segments import read_rows, verify_segments


@dataclass(frozen=True, slots=True)
class Checked:
    files: int
    rows: int


def verify(run: Run) -> Checked:
    """Raises Corrupt: names the file, what was expected and what was found."""
    facts = run.facts
    manifests = [manifest for stage in run.stages if (manifest := read_manifest(stage)) is not None]
    files = sum(verify_parts(manifest) for manifest in manifests)
    segments, rows = verify_segments(run.segments)
    admitted = read_manifest(run.admitted)
    if admitted is not None:
        _count(run, facts, admitted.rows("requests"), rows)
    return Checked(files + segments, rows)


def _count(run: Run, facts: dict[str, object], requests: int, settled: int) -> None:
    finished = (run.export / "finished.json").exists()
    if settled > requests or (finished and settled != requests):
        raise Corrupt(f"{run.folder}: {settled} rows are settled, {requests} were admitted")
    admitted = run.stage(run.admitted).read("requests", REQUESTS, ["row"])
    known = set(admitted["row"].to_pylist())
    for row in read_rows(run.segments, ["row"]):
        if row["row"] not in known:
            raise Corrupt(f"{run.segments}: row {row['row']} is settled, but was never admitted")

