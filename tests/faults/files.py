"""A run folder as it lies on disk, read with Arrow and JSON alone and not with the code that wrote it."""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FRAME = struct.Struct("<4sIIIII")  # magic, place, bytes of rows, bytes of facts, crc32 of both, crc32 of all before
FREE = {"sealed_unix_s"}  # when, not what


@dataclass(frozen=True, slots=True)
class Books:
    """What the sealed segments of a run say."""

    rows: list[dict[str, Any]]
    overheads: list[dict[str, Any]]

    @property
    def usd(self) -> Decimal:
        rows = sum((row["usd"] for row in self.rows), Decimal(0))
        return rows + sum((Decimal(line["usd"]) for line in self.overheads), Decimal(0))

    @property
    def committed_tokens(self) -> int:
        ran = (row for row in self.rows if row["source"] == "engine")
        return sum(row["prompt_tokens"] - row["cached_tokens"] + row["completion_tokens"] for row in ran)

    @property
    def wasted_tokens(self) -> int | None:
        """None where the store keeps no count of them."""
        lines = [line for line in self.overheads if line["kind"] == "waste"]
        return None if any("tokens" not in line for line in lines) else sum(line["tokens"] for line in lines)

    @property
    def wasted_s(self) -> float:
        return sum(line["seconds"] for line in self.overheads if line["kind"] == "waste")


@dataclass(frozen=True, slots=True)
class Committed:
    """Rows that were durable at some moment: by row number, what was settled."""

    sealed: dict[int, dict[str, Any]]
    journaled: dict[int, dict[str, Any]]


def books(run: Path) -> Books:
    rows: list[dict[str, Any]] = []
    overheads: list[dict[str, Any]] = []
    collapsed = run / "decisions" / "collapse.json"
    if collapsed.exists():
        overheads += json.loads(collapsed.read_text(encoding="utf-8"))["figures"]["overheads"]
    for manifest, facts in _manifests(run):
        rows += _rows(manifest)
        overheads += facts["overheads"]
    return Books(rows, overheads)


def committed(run: Path) -> Committed:
    sealed = {row["row"]: row for manifest, _ in _manifests(run) for row in _rows(manifest)}
    journaled = {row["row"]: row for file in (run / "segments").glob("*.journal") for row in _frames(file.read_bytes())}
    return Committed(sealed, journaled)


def only_run(runs: Path) -> Path | None:
    found = [file.parent for file in runs.glob("*/run.json")]
    assert len(found) <= 1, f"one job made {len(found)} runs"
    return found[0] if found else None


def spent_lines(audit: Path) -> list[dict[str, Any]]:
    if not audit.exists():
        return []
    return [json.loads(line) for line in audit.read_text(encoding="utf-8").splitlines()]


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _manifests(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted((run / "segments").glob("*.json")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        if "rows" in facts and "overheads" in facts:
            yield file, facts


def _rows(manifest: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.ParquetFile(manifest.with_suffix(".parquet")).read().to_pylist()
    return rows


def _frames(data: bytes) -> Iterator[dict[str, Any]]:
    """The rows of every frame that is complete."""
    while len(data) >= FRAME.size:
        magic, _, rows_size, facts_size, crc, _ = FRAME.unpack_from(data)
        payload = data[FRAME.size : FRAME.size + rows_size + facts_size]
        if magic != b"GMJ2" or len(payload) < rows_size + facts_size or zlib.crc32(payload) != crc:
            return
        yield from pa.ipc.open_stream(payload[:rows_size]).read_all().to_pylist()
        data = data[FRAME.size + rows_size + facts_size :]
