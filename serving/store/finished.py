"""The seal of a finished run: one file, written last of all, with the sha256 of what nothing else vouches for.

Each segment's manifest is vouched for by the next, the last of each chain by the end of its writer; the ends, the
stages, run.json and the output files are vouched for here.
"""

from serving.digest import sha256_of
from serving.store.predictions import prediction_files
from serving.store.run import Run
from serving.store.sealed import Corrupt, read_sealed, write_sealed
from serving.store.segments import read_segments


def is_finished(run: Run) -> bool:
    return (run.export / "finished.json").exists()


def finish(run: Run) -> None:
    heads = {(segment.name.epoch, segment.name.chain): segment.manifest for segment in read_segments(run.segments)}
    ends = run.segments.glob("writer-*.ended.json")
    output = (run.export / "results.jsonl", run.export / "errors.jsonl")
    said = prediction_files(run)
    files = (
        run.folder / "run.json",
        *(stage for stage in run.manifests if stage.exists()),
        *said,
        *sorted(ends),
        *heads.values(),
        *output,
    )
    write_sealed(run.export / "finished.json", {str(file.relative_to(run.folder)): sha256_of(file) for file in files})


def verify_finished(run: Run) -> int:
    """Check every file that the seal vouches for; returns how many.

    Raises:
        Corrupt: names the file, what the seal says and what was found.
    """
    vouched: dict[str, str] = read_sealed(run.export / "finished.json")
    for name, expected in vouched.items():
        file = run.folder / name
        found = sha256_of(file) if file.exists() else "missing"
        if found != expected:
            raise Corrupt(f"{file}: sha256 is {found}, finished.json says {expected}")
    return len(vouched)
