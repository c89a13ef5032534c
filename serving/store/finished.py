"""The seal of a finished run: one file, written last of all, with the sha256 of what nothing else vouches for.

Each segment's manifest is vouched for by the next; the last of each chain, the stages, run.json and the output files
are vouched for here.
"""

import json

from serving.digest import sha256_of
from serving.store.durable import write_json
from serving.store.parts import Corrupt
from serving.store.run import Run
from serving.store.segments import read_segments


def is_finished(run: Run) -> bool:
    return (run.export / "finished.json").exists()


def finish(run: Run) -> None:
    heads = {segment.epoch: segment.manifest for segment in read_segments(run.segments)}  # the last of each chain
    output = (run.export / "results.jsonl", run.export / "errors.jsonl")
    files = (run.folder / "run.json", *run.stages, *heads.values(), *output)
    write_json(run.export / "finished.json", {str(file.relative_to(run.folder)): sha256_of(file) for file in files})


def verify_finished(run: Run) -> int:
    """Check every file that the seal vouches for; returns how many.

    Raises:
        Corrupt: names the file, what the seal says and what was found.
    """
    seal = run.export / "finished.json"
    try:
        vouched: dict[str, str] = json.loads(seal.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Corrupt(f"{seal}: not JSON: {error}") from None
    for name, expected in vouched.items():
        file = run.folder / name
        found = sha256_of(file) if file.exists() else "missing"
        if found != expected:
            raise Corrupt(f"{file}: sha256 is {found}, finished.json says {expected}")
    return len(vouched)
