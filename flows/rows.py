"""Rows of a job's dataset as a model reads them, for what looks at a few: a seeded draw of different prompts."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.admit import order_of
from serving.config import Job
from serving.intake.files import BadInput, InputFile, open_inputs, sha256_of_files
from serving.intake.process import admit_apart
from serving.models.folder import ModelFolder
from serving.models.sample import Drawn, Prompt, draw
from serving.records import sampling_from_json
from serving.store.parts import Manifest, read_manifest

NO_SCOPE = ""  # the keys of these rows are compared with no other's


@dataclass(frozen=True, slots=True)
class DrawnRows:
    dataset: str
    input_sha256: str
    seed: int
    calibration: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]


def draw_rows(
    job: Job, model: ModelFolder, calibration_rows: int, held_out_rows: int, seed: int, say: Callable[[str], None]
) -> DrawnRows:
    """Admit the dataset through the same strict parser as a run does, render it for `model`, and draw.

    Raises:
        BadInput: the dataset cannot be used, or all its rows are refused.
        BadScheme: it has too few different prompts.
    """
    inputs = open_inputs(job.dataset.path, Path.cwd())
    say(f"reading {', '.join(file.name for file in inputs)}")
    with tempfile.TemporaryDirectory(prefix="gristmill-") as scratch:
        admitted = _admit(job, inputs, model, Path(scratch))
        different = _different(admitted)
        drawn = draw(different, admitted.rows("requests"), calibration_rows, held_out_rows, seed)
        prompts = _prompts(admitted, drawn)
    calibration, held_out = (tuple(prompts[row] for row in rows) for rows in (drawn.calibration, drawn.held_out))
    return DrawnRows(job.dataset.path, sha256_of_files(inputs), seed, calibration, held_out)


def _admit(job: Job, inputs: list[InputFile], model: ModelFolder, folder: Path) -> Manifest:
    admit_apart(order_of(job, inputs, folder, [model], NO_SCOPE), lambda: False, lambda count: None)
    admitted = read_manifest(folder / "admit.json")
    assert admitted is not None, "admission ends with its manifest in place"
    if admitted.rows("requests") == 0:
        first = next(admitted.tables("refusals", ["file", "line", "reason"])).slice(0, 1).to_pylist()[0]
        refused, place = admitted.rows("refusals"), f"{first['file']}:{first['line']}"
        raise BadInput("E_EMPTY", f"all {refused} rows are refused, the first at {place}: {first['reason']}; mend them")
    return admitted


def _different(admitted: Manifest) -> list[int]:
    """The first place of every different prompt."""
    place_of: dict[bytes, int] = {}
    for row, ids, _ in _rows(admitted):
        place_of.setdefault(hashlib.blake2b(repr(ids).encode(), digest_size=16).digest(), row)
    return list(place_of.values())


def _prompts(admitted: Manifest, drawn: Drawn) -> dict[int, Prompt]:
    wanted = {*drawn.calibration, *drawn.held_out}
    return {
        row: Prompt(row, tuple(ids), sampling_from_json(how).max_tokens)
        for row, ids, how in _rows(admitted)
        if row in wanted
    }


def _rows(admitted: Manifest) -> Iterator[tuple[int, list[int], str]]:
    for part in admitted.tables("requests", ["row", "prompt_token_ids", "sampling"]):
        yield from zip(*(part[name].to_pylist() for name in part.column_names), strict=True)
