"""A stage's tables: Parquet parts, then a manifest that is written last and names each with its sha256."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving.digest import sha256_of
from serving.store.durable import make_folder, write_json, write_parquet

ROWS_PER_PART = 10_000


class Corrupt(RuntimeError):
    """A file of a run is not what its manifest says. Names the file, what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a stage left behind: its parts and its own figures. Its existence means that the stage is complete."""

    file: Path
    parts: list[dict[str, Any]]  # name, table, rows, sha256
    figures: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.file.parent

    def files(self, table: str) -> list[Path]:
        return [self.folder / part["name"] for part in self.parts if part["table"] == table]

    def rows(self, table: str) -> int:
        return sum(part["rows"] for part in self.parts if part["table"] == table)

    def read(self, table: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """The whole of one table, all parts in order."""
        names = columns or schema.names
        tables = [pq.read_table(file, columns=names, partitioning=None) for file in self.files(table)]
        wanted = pa.schema([schema.field(name) for name in names])
        return pa.concat_tables([part.cast(wanted) for part in tables]) if tables else wanted.empty_table()

    def iterate(self, table: str) -> Iterator[dict[str, Any]]:
        """One table row by row, one part in memory at a time."""
        for file in self.files(table):
            yield from pq.read_table(file, partitioning=None).to_pylist()


class PartWriter:
    """Collects rows of several tables and writes them out part by part; `finish` writes the manifest."""

    def __init__(self, folder: Path, stage: str, schemas: dict[str, pa.Schema]) -> None:
        make_folder(folder)
        self._folder = folder
        self._stage = stage
        self._schemas = schemas
        self._waiting: dict[str, list[dict[str, Any]]] = {table: [] for table in schemas}
        self._parts: list[dict[str, Any]] = []

    def add(self, table: str, row: dict[str, Any]) -> None:
        waiting = self._waiting[table]
        waiting.append(row)
        if len(waiting) >= ROWS_PER_PART:
            self._write(table)

    def extend(self, table: str, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            self.add(table, row)

    def finish(self, figures: dict[str, Any]) -> Manifest:
        for table in self._schemas:
            self._write(table)
        file = self._folder / f"{self._stage}.json"
        write_json(file, {"parts": self._parts, "figures": figures})
        return Manifest(file, self._parts, figures)

    def _write(self, table: str) -> None:
        rows = self._waiting[table]
        if not rows:
            return
        number = sum(part["table"] == table for part in self._parts)
        name = f"{self._stage}-{table}-{number:05}.parquet"
        sha256 = write_parquet(self._folder / name, pa.Table.from_pylist(rows, self._schemas[table]))
        self._parts.append({"name": name, "table": table, "rows": len(rows), "sha256": sha256})
        rows.clear()


def read_manifest(file: Path) -> Manifest | None:
    """The manifest of a stage, or None where the stage has not completed."""
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        parts = [{name: part[name] for name in ("name", "table", "rows", "sha256")} for part in found["parts"]]
        return Manifest(file, parts, found["figures"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{file}: not a manifest: {error}") from None


def verify_parts(manifest: Manifest) -> int:
    """Recompute every hash and count of a stage; returns the number of files that were checked."""
    for part in manifest.parts:
        file = manifest.folder / part["name"]
        if not file.exists():
            raise Corrupt(f"{file}: missing; the manifest lists it with {part['rows']} rows")
        found = sha256_of(file)
        if found != part["sha256"]:
            raise Corrupt(f"{file}: sha256 is {found}, the manifest says {part['sha256']}")
        rows = pq.read_metadata(file).num_rows
        if rows != part["rows"]:
            raise Corrupt(f"{file}: {rows} rows, the manifest says {part['rows']}")
    return len(manifest.parts)
