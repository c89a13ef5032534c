"""What a model folder says of how it was made and measured: gristmill.json, beside the model's own files."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from serving.digest import sha256_of
from serving.models.json_file import read_object

RECORD = "gristmill.json"
SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model came from; free of dates, so that the same build writes the same record."""

    source: str
    method: str
    licence: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """The rows that a quantization looked at: a seeded sample of a dataset's different prompts."""

    dataset: str
    input_sha256: str
    seed: int
    tokens: int
    rows: tuple[int, ...]  # their places in the dataset


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A quantized model held against the model it was made from, on rows that its making did not see.

    Both continue the full model's greedy answers, token by token; only the first two shares are of answers of its own.
    """

    full: str  # its name and fingerprint
    dataset: str
    input_sha256: str
    seed: int
    rows: int
    tokens: int  # of the full model's answers
    exact_share: float  # of answers that are the full model's to the last token
    prefix_share: float  # of an answer's tokens, those before the first that differs; the mean over answers
    top1_share: float  # of next tokens, those where both models' likeliest is the same
    mean_kl_nats: float  # of next-token distributions, KL(full || quantized)
    full_perplexity: float  # of the full model's answers
    perplexity: float
    full_bytes: int
    size_bytes: int
    full_output_tokens_per_s: float | None  # None: not asked for, or `speed_note` says why not
    output_tokens_per_s: float | None
    speed_note: str
    machine: str
    date: str  # ISO

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        return cls(**{field.name: _as(field.type, facts[field.name]) for field in fields(cls)})


def one_word(value: object) -> str:
    """What a folder says of itself reaches terminals and tables; it shall not drive them."""
    return "".join(character for character in str(value)[:SHOWN_CHARACTERS] if character.isprintable())


def write_record(path: Path, files: Mapping[str, Path], origin: Origin, calibration: Calibration | None) -> None:
    """Last of all: its existence means that the folder is whole."""
    # A model is nobody's secret: a server under another user may read it, whatever our umask is.
    for folder in (path, *(entry for entry in path.rglob("*") if entry.is_dir())):
        folder.chmod(0o755)
    entries = {}
    for name, file in files.items():
        file.chmod(0o644)
        stat = file.stat()
        entries[name] = {"size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256_of(file)}
    made = {"origin": asdict(origin), "calibration": calibration and asdict(calibration)}
    _write(path, {name: value for name, value in made.items() if value} | {"files": entries})


def add_fidelity(path: Path, fidelity: Fidelity) -> None:
    """Put the measurement into the record, in the place of an earlier one."""
    _write(path, read_record(path) | {"fidelity": asdict(fidelity)})


def read_record(path: Path) -> dict[str, Any]:
    file = path / RECORD
    return read_object(file) if file.is_file() else {}


def recorded_origin(record: Mapping[str, Any]) -> Origin | None:
    origin = record.get("origin")
    return Origin(**{name: one_word(value) for name, value in origin.items()}) if origin else None


def recorded_fidelity(record: Mapping[str, Any]) -> Fidelity | None:
    facts = record.get("fidelity")
    return Fidelity.from_facts(facts) if facts else None


def recorded_sizes(record: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(name, entry["size_bytes"]) for name, entry in record["files"].items()]


def _as(kind: Any, value: Any) -> Any:
    if value is None and kind == float | None:
        return None
    return one_word(value) if kind is str else int(value) if kind is int else float(value)


def _write(path: Path, record: Mapping[str, Any]) -> None:
    aside = path.with_name(f"{path.name}.{RECORD}.writing")  # beside it: a folder may hold no file of this kind
    aside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, path / RECORD)
