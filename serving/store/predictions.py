"""What was said of a run before it was known: sealed files in its folder, written once each."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.store.durable import make_folder
from serving.store.run import Run
from serving.store.sealed import read_sealed, write_sealed

MADE = ("plan", "pilot")  # before the first row ran; after the first of them had


@dataclass(frozen=True, slots=True)
class Predicted:
    """One factor of a run's cost; `lane` is None for the whole run."""

    made: str
    lane: str | None
    factor: str
    value: float
    low_90: float
    high_90: float


def write_prediction(run: Run, made: str, told: Any) -> None:
    """`told` is a dataclass of numbers and predictions. The first word counts: what is there is left."""
    file = _file(run, made)
    if not file.exists():
        make_folder(file.parent)
        write_sealed(file, asdict(told))


def read_prediction(run: Run, made: str) -> dict[str, Any] | None:
    """Raises Corrupt where it is not what was written."""
    file = _file(run, made)
    return read_sealed(file) if file.exists() else None


def predictions(run: Run) -> Iterator[Predicted]:
    for made in MADE:
        if (told := read_prediction(run, made)) is None:
            continue
        for lane in (*told["lanes"], {"lane": None, **told}):
            for factor, value in lane.items():
                if isinstance(value, dict):
                    yield Predicted(made, lane["lane"], factor, **value)


def prediction_files(run: Run) -> list[Path]:
    return [file for made in MADE if (file := _file(run, made)).exists()]


def _file(run: Run, made: str) -> Path:
    return run.folder / "predictions" / f"{made}.json"
