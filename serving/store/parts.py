"""A stage's tables: Parquet parts, then a manifest that is written last and vouches for each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serving.store.durable import drop_unfinished, make_folder, remove
from serving.store.sealed import Corrupt, read_sealed, write_sealed
from serving.store.tables import read_table, write_table
from serving.store.witness import Witness

ROWS_PER_PART = 10_000
ARRAY = ".npy"
BYTES_PER_PART = 32 * 2**20  # of text: a few long prompts fill a part as well as many short ones


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    table: str
    rows: int
    witness: Witness

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> "Part":
        return cls(facts["name"], facts["table"], facts["rows"], Witness.from_facts(facts))

    def to_facts(self) -> dict[str, Any]:
        return {"name": self.name, "table": self.table, "rows": self.rows, **self.witness.to_facts()}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a stage left behind: its parts and its own figures. Its existence means that the stage is complete."""

    file: Path
    parts: list[Part]
    figures: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.file.parent

    def files(self, table: str) -> list[Path]:
        return [self.folder / part.name for part in self.parts if part.table == table]

    def rows(self, table: str) -> int:
        return sum(part.rows for part in self.parts if part.table == table)

    def tables(self, table: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """One table part by part, in order."""
        for file in self.files(table):
            yield read_table(file, columns)

    def read(self, table: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """The whole of one table, all parts in order."""
        wanted = pa.schema([schema.field(name) for name in columns or schema.names])
        tables = [part.cast(wanted) for part in self.tables(table, wanted.names)]
        return pa.concat_tables(tables) if tables else wanted.empty_table()


class PartWriter:
    """Collects rows of several tables and writes them out part by part; `finish` writes the manifest.

    Where several processes write one stage, each `begin`s blocks of its own; only the `first` clears the folder.
    """

    def __init__(self, folder: Path, stage: str, schemas: dict[str, pa.Schema], first: bool = True) -> None:
        if first:
            make_folder(folder)
            drop_unfinished(folder)
            for part in folder.glob(f"{stage}-*.parquet"):  # of a try that was broken off before its manifest
                remove(part)
        self._folder = folder
        self._stage = stage
        self._schemas = schemas
        self._waiting: dict[str, list[dict[str, Any]]] = {table: [] for table in schemas}
        self._waiting_bytes = dict.fromkeys(schemas, 0)
        self._parts: list[Part] = []
        self._block = ""  # how the names of its parts begin
        self._written = dict.fromkeys(schemas, 0)  # parts of the block

    def add(self, table: str, row: dict[str, Any], size_bytes: int = 0) -> None:
        """`size_bytes` is how much memory it takes, where that can be much."""
        waiting = self._waiting[table]
        waiting.append(row)
        self._waiting_bytes[table] += size_bytes
        if len(waiting) >= ROWS_PER_PART or self._waiting_bytes[table] >= BYTES_PER_PART:
            self._write_waiting(table)

    def extend(self, table: str, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            self.add(table, row)

    def add_table(self, table: str, rows: pa.Table) -> None:
        """Many rows at once, after those that were added before."""
        self._write_waiting(table)
        for start in range(0, rows.num_rows, ROWS_PER_PART):
            self._write(table, rows.slice(start, ROWS_PER_PART).cast(self._schemas[table]))

    def begin(self, block: int) -> None:
        """What comes now makes parts of its own, named by the block, so that the same rows make the same parts whoever
        writes them."""
        self.cut()
        self._block = f"{block:05}-"
        self._written = dict.fromkeys(self._schemas, 0)

    def cut(self) -> list[Part]:
        """End the parts here; returns all there are."""
        for table in self._schemas:
            self._write_waiting(table)
        return self._parts

    def finish(self, figures: dict[str, Any], parts: Iterable[Part] | None = None) -> Manifest:
        """`parts`, where not only this one has written any, are all of them."""
        every = self.cut() if parts is None else list(parts)
        file = self._folder / f"{self._stage}.json"
        write_sealed(file, {"parts": [part.to_facts() for part in every], "figures": figures})
        return Manifest(file, every, figures)

    def _write_waiting(self, table: str) -> None:
        if rows := self._waiting[table]:
            self._write(table, pa.Table.from_pylist(rows, self._schemas[table]))
            rows.clear()
            self._waiting_bytes[table] = 0

    def _write(self, table: str, rows: pa.Table) -> None:
        name = f"{self._stage}-{table}-{self._block}{self._written[table]:05}.parquet"
        self._written[table] += 1
        self._parts.append(Part(name, table, rows.num_rows, write_table(self._folder / name, rows)))


def read_manifest(file: Path) -> Manifest | None:
    """The manifest of a stage, or None where the stage has not completed."""
    if not file.exists():
        return None
    found = read_sealed(file)
    try:
        return Manifest(file, [Part.from_facts(part) for part in found["parts"]], found["figures"])
    except (KeyError, TypeError) as error:
        raise Corrupt(f"{file}: not a stage's manifest: {type(error).__name__} {error}") from None


def verify_parts(manifest: Manifest) -> int:
    """Recompute every hash and count of a stage; returns the number of files that were checked."""
    for part in manifest.parts:
        file = manifest.folder / part.name
        part.witness.check(file)
        rows = _rows_in(file)
        if rows != part.rows:
            raise Corrupt(f"{file}: {rows} rows, the manifest says {part.rows}")
    return len(manifest.parts)


def _rows_in(file: Path) -> int:
    """Of a table in Parquet, or of an array as NumPy writes it."""
    rows = len(np.load(file, mmap_mode="r")) if file.suffix == ARRAY else pq.read_metadata(file).num_rows
    return int(rows)
