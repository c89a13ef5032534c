"""What a cheaper model answered rows that it may not serve yet: those that an audit asks for, or all that are left, and
how sure of itself it was. It is kept until an audit bears it out, and given to nobody before.

To have all of them answered first, and then to choose by how sure the model was of each, is a cascade: what is not
chosen was answered for nothing, so it is begun only where it is expected to pay (optimizer.choosing.cascade_pays).
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import structs
from numpy.typing import NDArray

from flows.candidates import Rows
from flows.open import Work
from serving.own_json import own_json
from serving.records import Completion, Lever, Request, Source
from serving.store.parts import PartWriter, read_manifest
from serving.store.schemas import TRIALS, choices_from, usage_columns
from serving.store.segments import read_rows, read_segments

Texts = tuple[str, ...]  # of an answer, one for each choice
Floats = NDArray[np.float64]

PORTION_ROWS = 8192  # that are tried, and then durable together
SERVERS_THAT_TELL = ("vllm", "sglang")  # what each token's probability was, and mind the question as little


class Tried(NamedTuple):
    completion: Completion
    confidence: float | None  # mean logarithm of its tokens' probabilities; None where the engine does not tell


class Watch:
    """Asks for the probability of each token, where that can be asked, and takes it out of the answers again."""

    def __init__(self, work: Work, lane: Lever) -> None:
        engine = work.job.engine
        self._tells = lane != "full" and (engine.kind != "http" or engine.server in SERVERS_THAT_TELL)
        self._added: set[int] = set()

    def requests(self, requests: Iterable[Request | None]) -> Iterator[Request | None]:
        for request in requests:
            if request is None or not self._tells or request.sampling.logprobs is not None:
                yield request
                continue
            self._added.add(request.row)
            yield structs.replace(request, sampling=structs.replace(request.sampling, logprobs=0))

    def tried(self, completion: Completion) -> Tried:
        told = [token["logprob"] for choice in completion.choices for token in choice.logprobs or ()]
        if completion.row in self._added:
            bare = tuple(structs.replace(choice, logprobs=None) for choice in completion.choices)
            completion = structs.replace(completion, choices=bare)
        return Tried(completion, sum(told) / len(told) if told else None)


def keep_audit(work: Work, lane: Lever, look: int, tried: Sequence[Tried]) -> None:
    _keep(work.run.trials(lane, f"look-{look}"), lane, look, tried)


def keep_portion(work: Work, lane: Lever, tried: Sequence[Tried]) -> None:
    _keep(work.run.trials(lane, f"all-{len(_portions(work, lane)):05}"), lane, None, tried)


def end_cascade(work: Work, lane: Lever) -> None:
    """All are tried that are going to be."""
    file = work.run.cascade(lane)
    PartWriter(file.parent, file.stem, {}).finish({"portions": len(_portions(work, lane))})


def untried(work: Work, lane: Lever, rows: Rows) -> Rows:
    """Those of the rows that no portion has."""
    found: Rows = np.setdiff1d(rows, _numbers(work, _portions(work, lane))["row"].to_numpy())
    return found


def confidences(work: Work, lane: Lever, rows: Rows) -> Floats:
    """Of each row that was tried; NaN where it was not, or the engine did not tell."""
    known = _numbers(work, _files(work, lane))
    row, confidence = known["row"].to_numpy(), known["confidence"].to_numpy()
    found = np.full(len(rows), np.nan)
    if len(row):
        order = np.argsort(row, kind="stable")
        place = np.minimum(np.searchsorted(row[order], rows), len(row) - 1)
        there = row[order][place] == rows
        found[there] = confidence[order][place][there]
    return found


def texts_of(work: Work, lane: Lever, rows: Rows) -> dict[int, Texts]:
    found: dict[int, Texts] = {}
    for table in tables(work, lane, ["row", "choices"]):
        found |= texts_in(table.filter(pa.array(np.isin(table["row"].to_numpy(), rows))))
    return found


def texts_in(answers: pa.Table) -> dict[int, Texts]:
    """By row, of a table with the columns row and choices."""
    rows, choices = answers["row"].to_pylist(), map(choices_from, answers["choices"].to_pylist())
    return {row: tuple(choice.text for choice in each) for row, each in zip(rows, choices, strict=True)}


def tables(work: Work, lane: Lever, columns: list[str]) -> Iterator[pa.Table]:
    for file in _files(work, lane):
        yield from work.run.stage(file).tables("trials", columns)


def cost_ratio(work: Work, lane: Lever) -> float:
    """What an answer of the lane's model costs to one of the full one, by what both took in this run; infinite where
    answers of the full one cost nothing."""
    audits_usd = sum(
        float(line.usd)
        for segment in read_segments(work.run.segments)
        for line in segment.overheads
        if line.kind == "audit" and line.lane == lane
    )
    full_usd, full = 0.0, 0
    for table in read_rows(work.run.segments, ["lane", "source", "usd"]):
        ran = table.filter((pc.field("lane") == "full") & (pc.field("source") == Source.ENGINE.value))
        full_usd += float(pc.sum(ran["usd"]).as_py() or 0)
        full += ran.num_rows
    tried = len(_numbers(work, _files(work, lane)))
    return audits_usd / tried / (full_usd / full) if tried and full_usd else np.inf


def _keep(file: Path, lane: Lever, look: int | None, tried: Sequence[Tried]) -> None:
    answered = sorted((one for one in tried if one.completion.failure is None), key=lambda one: one.completion.row)
    finished = [one.completion for one in answered]
    columns = {
        "lever": pa.repeat(lane, len(finished)),
        "look": pa.array([look] * len(finished), pa.int64()),
        "row": pa.array([completion.row for completion in finished], pa.int64()),
        "confidence": pa.array([one.confidence for one in answered], pa.float64()),
        "choices": pa.array([own_json(completion.choices) for completion in finished], pa.string()),
        **usage_columns(finished),
    }
    parts = PartWriter(file.parent, file.stem, {"trials": TRIALS})
    parts.add_table("trials", pa.table([columns[name] for name in TRIALS.names], schema=TRIALS))
    parts.finish({})


def _files(work: Work, lane: Lever) -> list[Path]:
    every = work.run.trials(lane, "*")
    return sorted(every.parent.glob(every.name))


def _portions(work: Work, lane: Lever) -> list[Path]:
    return [file for file in _files(work, lane) if file.stem.startswith(work.run.trials(lane, "all").stem)]


def _numbers(work: Work, files: Sequence[Path]) -> pa.Table:
    """Row and confidence of all that these files have."""
    schema = pa.schema([TRIALS.field(name) for name in ("row", "confidence")])
    parts = [part for file in files if (found := read_manifest(file)) for part in found.tables("trials", schema.names)]
    return pa.concat_tables([part.cast(schema) for part in parts]) if parts else schema.empty_table()
